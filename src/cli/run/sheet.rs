//! `--sheet`: one picture of the whole job.

use std::{fs, io::Write, path::Path};

use ::image::RgbaImage;

use crate::{
    cli::out_file::OutFile,
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
    sheet: &OutFile<'_>,
    inputs: &InputReader,
    limits: &DecodeLimits,
    folder: &Path,
    manifest: &Manifest,
) -> Result<(), JobError> {
    let read = |path: &Path| fs::read(path).map_err(|error| io_error(path, "read the result", error));
    if let Some(all) = manifest.files.iter().find(|file| file.role == LayerRole::ContactSheet) {
        return write_png(sheet, &read(&folder.join(&all.name))?);
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
        let picture = image::decode(&file.name, &read(&folder.join(&file.name))?, limits)?.pixels;
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
    write_png(sheet, &image::encode_png(&image::contact_sheet(&pictures, &captions, image::SHEET_COLUMNS)?)?)
}

/// Marked, so that the next run with this name may replace it.
fn write_png(sheet: &OutFile<'_>, png: &[u8]) -> Result<(), JobError> {
    const ACTION: &str = "write the sheet";
    // Something else may have been written there since the first check.
    sheet.check()?;
    let png = image::marked_as_sheet(png);
    let written = sheet.write(ACTION, |mut file| {
        file.write_all(&png).map_err(|error| io_error(sheet.path, ACTION, error))?;
        Ok(file)
    });
    written.map(drop)
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
