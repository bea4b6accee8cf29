//! The events of a download.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use super::HubError;

/// Sent in this order: `Planned`, then for each file `Started`, `Progressed`..., `Verified`, and last `Finished`. If
/// the model already exists, only `Finished` is sent.
#[derive(Debug, Clone, PartialEq)]
pub enum DownloadEvent {
    /// `bytes` is the size of all wanted files, `present` the part that is already on disk.
    Planned {
        id: String,
        commit: String,
        files: usize,
        bytes: u64,
        present: u64,
    },
    /// `present` bytes of this file are on disk from an earlier, interrupted download.
    Started {
        file: String,
        bytes: u64,
        present: u64,
    },
    /// Absolute counts, for this file and for the whole plan. They decrease if a file has to start again.
    Progressed {
        file: String,
        file_bytes: u64,
        bytes: u64,
    },
    /// Nothing new; sent several times per second while waiting, so that cancellation is noticed.
    Waiting,
    /// Another process is downloading this file; we wait for it.
    Locked {
        file: String,
    },
    /// The next attempt starts after `wait`.
    Retrying {
        file: String,
        reason: String,
        wait: Duration,
    },
    Verified {
        file: String,
    },
    /// The hub cannot be reached to look up `main`; the complete copy in the cache is used.
    Unreachable {
        reason: String,
    },
    Finished {
        folder: PathBuf,
    },
}

/// Receives events; `ControlFlow::Break` stops the download with [`HubError::Cancelled`].
pub type Events<'a> = dyn FnMut(DownloadEvent) -> ControlFlow<()> + 'a;

pub(super) fn emit(events: &mut Events<'_>, event: DownloadEvent) -> Result<(), HubError> {
    match events(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(HubError::Cancelled),
    }
}
