//! `--sheet`: one picture of the whole job.

use std::{fs, path::Path};

use ::image::RgbaImage;

use crate::{
    image::{self, DecodeLimits},
    job::{Fidelity, FileEntry, InputRef, JobError, LayerRole, Manifest, Quality},
    store::{InputReader, io_error},
};

/// Writes the input, the layers and the result side by side, on a checkerboard where they are transparent. Below the
/// layers is how much they cover, below their composite how true it is to the input.
///
/// Of a job with variants, it is a copy of their contact sheet.
///
/// `folder` holds the files that the manifest names. An input that is a layer of an earlier job is not shown.
pub async fn write(
    path: &Path,
    inputs: &InputReader,
    limits: &DecodeLimits,
    folder: &Path,
    manifest: &Manifest,
) -> Result<(), JobError> {
    if let Some(sheet) = manifest.files.iter().find(|file| file.role == LayerRole::ContactSheet) {
        let all = folder.join(&sheet.name);
        return fs::copy(&all, path).map(drop).map_err(|error| io_error(path, "write the sheet", error));
    }
    let (mut pictures, mut captions) = (Vec::new(), Vec::new());
    let size = |picture: &RgbaImage| format!("{}x{}", picture.width(), picture.height());
    for input in manifest.request.inputs.iter() {
        if let InputRef::Url(url) = input {
            let bytes = inputs.read(url, limits.max_bytes).await?;
            let picture = image::decode(url, &bytes, limits)?.pixels;
            captions.push(size(&picture));
            pictures.push(picture);
        }
    }
    let mut layers = Vec::new();
    for file in manifest.files.iter().filter(|file| file.role != LayerRole::Regenerated) {
        let path = folder.join(&file.name);
        let bytes = fs::read(&path).map_err(|error| io_error(&path, "read the result", error))?;
        let picture = image::decode(&file.name, &bytes, limits)?.pixels;
        let picture = image::placed(&file.name, picture, file.placement, limits)?;
        if file.role == LayerRole::Layer {
            layers.push(picture.clone());
        }
        captions.push(covered(manifest, file).unwrap_or_else(|| size(&picture)));
        pictures.push(picture);
    }
    if !manifest.files.iter().any(|file| file.role == LayerRole::Composite) && !layers.is_empty() {
        captions.push(manifest.fidelity.as_ref().map(recomposed).unwrap_or_default());
        pictures.push(qwen_image::image_processor::composite(&layers)?);
    }
    let bytes = image::encode_png(&image::contact_sheet(&pictures, &captions, image::SHEET_COLUMNS)?)?;
    fs::write(path, bytes).map_err(|error| io_error(path, "write the sheet", error))
}

/// What a layer covers of its picture: `41.2 %`.
fn covered(manifest: &Manifest, file: &FileEntry) -> Option<String> {
    let layer = file.layer().filter(|_| file.role == LayerRole::Layer)?;
    let found = manifest.fidelity.as_ref()?.layers.iter().find(|cover| cover.layer == layer)?;
    Some(if found.empty { "empty".to_owned() } else { format!("{:.1} %", 100.0 * found.area) })
}

/// How true the composed layers are to their picture: `exact`, `38.1 dB`, `low 21.0 dB`.
fn recomposed(fidelity: &Fidelity) -> String {
    let quality = if fidelity.quality == Some(Quality::Low) { "low " } else { "" };
    let error = fidelity.psnr.map_or("exact".to_owned(), |psnr| format!("{psnr:.1} dB"));
    format!("{quality}{error}")
}
