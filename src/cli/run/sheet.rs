//! `--sheet`: one picture of the whole job.

use std::{fs, path::Path};

use crate::{
    image::{self, Limits},
    job::{InputRef, JobError, LayerRole, Manifest},
    store::{InputReader, io_error},
};

/// Writes the input, the layers and the result side by side, on a checkerboard where they are transparent.
///
/// `folder` holds the files that the manifest names. An input that is a layer of an earlier job is not shown.
pub async fn write(
    path: &Path,
    inputs: &InputReader,
    limits: &Limits,
    folder: &Path,
    manifest: &Manifest,
) -> Result<(), JobError> {
    let mut pictures = Vec::new();
    for input in manifest.request.inputs.iter() {
        if let InputRef::Url(url) = input {
            let bytes = inputs.read(url, limits.max_bytes).await?;
            pictures.push(image::decode(url, &bytes, limits)?.pixels);
        }
    }
    let mut layers = Vec::new();
    for file in manifest.files.iter().filter(|file| file.role != LayerRole::Regenerated) {
        let path = folder.join(&file.name);
        let bytes = fs::read(&path).map_err(|error| io_error(&path, "read the result", error))?;
        let picture = image::decode(&file.name, &bytes, limits)?.pixels;
        if file.role == LayerRole::Layer {
            layers.push(picture.clone());
        }
        pictures.push(picture);
    }
    if !manifest.files.iter().any(|file| file.role == LayerRole::Composite) && !layers.is_empty() {
        pictures.push(qwen_image::image_processor::composite(&layers)?);
    }
    let bytes = image::encode_png(&image::contact_sheet(&pictures)?)?;
    fs::write(path, bytes).map_err(|error| io_error(path, "write the sheet", error))
}
