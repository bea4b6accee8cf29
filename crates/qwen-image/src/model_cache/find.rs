//! Finds a checkpoint, and downloads it if needed, with progress.

use std::{ops::ControlFlow, path::PathBuf};

use crate::{
    Callbacks, Error, Stage,
    hub::{self, DownloadEvent, Events, HubConfig, HubError, ModelRef},
    models::WeightOptions,
};

pub(super) struct FoundCheckpoint {
    pub folder: PathBuf,
    /// The hub id or the folder.
    pub id: String,
    pub revision: Option<String>,
    /// Whether it is the small one that comes with acetate.
    pub default: bool,
}

/// `files` replace weights of the checkpoint, which are then not downloaded.
pub(super) fn find(
    hub: &HubConfig,
    model: &ModelRef,
    files: &WeightOptions,
    callbacks: &mut Callbacks<'_>,
) -> Result<FoundCheckpoint, Error> {
    let wanted = |path: &str| hub::diffusers_files(path) && !is_replaced(path, files);
    let resolve = |events: &mut Events<'_>| hub::resolve(hub, model, &wanted, events);
    let snapshot = with_progress(callbacks, resolve)?;
    Ok(FoundCheckpoint {
        folder: snapshot.folder,
        id: snapshot.id,
        revision: snapshot.revision,
        default: matches!(model, ModelRef::Small { .. }),
    })
}

/// Runs a lookup on the hub whose downloads are reported as progress.
pub(super) fn with_progress<T>(
    callbacks: &mut Callbacks<'_>,
    run: impl FnOnce(&mut Events<'_>) -> Result<T, HubError>,
) -> Result<T, Error> {
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
    run(&mut on_event).map_err(|error| match error {
        HubError::Cancelled => Error::Cancelled,
        error => Error::Hub(error),
    })
}

/// Whether a file of a checkpoint has weights that come from elsewhere.
pub(super) fn is_replaced(path: &str, files: &WeightOptions) -> bool {
    let Some((folder, name)) = path.split_once('/') else { return false };
    let replaced = match folder {
        "transformer" => files.transformer.is_some(),
        "text_encoder" => files.text_encoder.is_some(),
        _ => false,
    };
    replaced && (name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json"))
}

/// The unit in which progress is counted.
pub(super) fn mebibytes(bytes: u64) -> u32 {
    u32::try_from(bytes >> 20).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_from_elsewhere_are_not_downloaded() {
        let files = WeightOptions { transformer: Some("x.gguf".into()), ..WeightOptions::default() };
        for (path, replaced) in [
            ("transformer/diffusion_pytorch_model-00001-of-00009.safetensors", true),
            ("transformer/diffusion_pytorch_model.safetensors.index.json", true),
            ("transformer/config.json", false),
            ("text_encoder/model-00001-of-00004.safetensors", false),
            ("vae/diffusion_pytorch_model.safetensors", false),
            ("model_index.json", false),
        ] {
            assert_eq!(is_replaced(path, &files), replaced, "{path}");
        }
    }
}
