//! Finds a checkpoint, and downloads it if needed, with progress.

use std::{ops::ControlFlow, path::PathBuf};

use crate::{
    Callbacks, Error, Stage,
    hub::{self, DownloadEvent, HubConfig, ModelRef},
};

pub(super) struct FoundCheckpoint {
    pub folder: PathBuf,
    /// The hub id or the folder.
    pub id: String,
    pub revision: Option<String>,
    /// Whether it is the small one that comes with acetate.
    pub default: bool,
}

pub(super) fn find(hub: &HubConfig, model: &ModelRef, callbacks: &mut Callbacks<'_>) -> Result<FoundCheckpoint, Error> {
    callbacks.progress(Stage::Load, 0, 0);
    let mut total = 0;
    let mut done = 0;
    let mut on_event = |event: DownloadEvent| {
        match event {
            DownloadEvent::Planned { bytes, present, .. } => (total, done) = (bytes, present),
            DownloadEvent::Progressed { bytes, .. } => done = bytes,
            DownloadEvent::Retrying { file, reason, wait } => {
                tracing::warn!(%file, %reason, wait_seconds = wait.as_secs_f64(), "download interrupted");
            }
            DownloadEvent::Unreachable { reason } => tracing::warn!(%reason, "using the copy in the cache"),
            DownloadEvent::Locked { file } => tracing::info!(%file, "another process is downloading this file"),
            DownloadEvent::Started { .. }
            | DownloadEvent::Verified { .. }
            | DownloadEvent::Waiting
            | DownloadEvent::Finished { .. } => {}
        }
        callbacks.progress(Stage::Load, mebibytes(done), mebibytes(total));
        if callbacks.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let snapshot = hub::resolve(hub, model, &hub::diffusers_files, &mut on_event).map_err(|error| match error {
        hub::HubError::Cancelled => Error::Cancelled,
        error => Error::Hub(error),
    })?;
    Ok(FoundCheckpoint {
        folder: snapshot.folder,
        id: snapshot.id,
        revision: snapshot.revision,
        default: matches!(model, ModelRef::Small { .. }),
    })
}

/// As progress counts them.
pub(super) fn mebibytes(bytes: u64) -> u32 {
    u32::try_from(bytes >> 20).unwrap_or(u32::MAX)
}
