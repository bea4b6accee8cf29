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
        /// The hub id.
        id: String,
        /// The commit that is downloaded.
        commit: String,
        /// The number of wanted files.
        files: usize,
        /// Their size in bytes.
        bytes: u64,
        /// The part of it that is on disk, in bytes.
        present: u64,
    },
    /// `present` bytes of this file are on disk from an earlier, interrupted download.
    Started {
        /// The file's path in the repository.
        file: String,
        /// The file's size in bytes.
        bytes: u64,
        /// The part of it that is on disk, in bytes.
        present: u64,
    },
    /// Absolute counts, for this file and for the whole plan. They decrease if a file has to start again.
    Progressed {
        /// The file's path in the repository.
        file: String,
        /// Bytes of this file on disk.
        file_bytes: u64,
        /// Bytes of all wanted files on disk.
        bytes: u64,
    },
    /// Nothing new; sent several times per second while waiting, so that cancellation is noticed.
    Waiting,
    /// Another process is downloading this file; we wait for it.
    Locked {
        /// The file's path in the repository.
        file: String,
    },
    /// The next attempt starts after `wait`.
    Retrying {
        /// The file's path in the repository.
        file: String,
        /// Why the last attempt failed.
        reason: String,
        /// The pause before the next attempt.
        wait: Duration,
    },
    /// The file is complete, and its hash is that of the listing.
    Verified {
        /// The file's path in the repository.
        file: String,
    },
    /// The hub cannot be reached to look up `main`; the complete copy in the cache is used.
    Unreachable {
        /// Why the hub could not be asked.
        reason: String,
    },
    /// All wanted files are on disk.
    Finished {
        /// The checkpoint's folder.
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
