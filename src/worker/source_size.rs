//! The layers of a decompose, at the size that they are asked for, and how true they are.

use ::image::RgbaImage;
use qwen_image::source_size::{Coverage, at_source_size, fidelity};

use crate::{
    image::Limits,
    job::{DecomposeParams, Fidelity, JobError, LayerCoverage, OutputSize, PictureSize},
};

/// What layers of the picture's size hold in memory, before the model runs for nothing: the picture twice, the layers,
/// and their composite.
///
/// # Errors
/// [`JobError::ImageTooLarge`] if that is more than `image.max_memory`.
pub(super) fn check_memory(
    (width, height): (u32, u32),
    params: &DecomposeParams,
    limits: &Limits,
) -> Result<(), JobError> {
    if params.output_size == Some(OutputSize::Model) {
        return Ok(());
    }
    let pictures = u64::from(params.layers) + 3;
    let bytes = u64::from(width) * u64::from(height) * 4 * pictures;
    if bytes <= limits.max_memory {
        return Ok(());
    }
    let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
    Err(JobError::ImageTooLarge {
        input: format!("{} layers of {width}x{height} pixels", params.layers),
        reason: format!(
            "they need {} MiB of memory; the limit, image.max_memory, is {} MiB; ask for fewer layers, or for \
             output_size model",
            mebibytes(bytes),
            mebibytes(limits.max_memory)
        ),
    })
}

/// Brings the layers to the picture's size, if that is asked for. `images` are what the model made: the regenerated
/// picture, which stays as it is, then the layers.
pub(super) fn refine(
    source: &RgbaImage,
    mut images: Vec<RgbaImage>,
    params: &DecomposeParams,
) -> Result<(Vec<RgbaImage>, Fidelity), JobError> {
    let size = |image: &RgbaImage| PictureSize { width: image.width(), height: image.height() };
    let model = size(&images[0]);
    let own = fidelity(source, &images[1..])?;
    let mut told = own;
    if params.is_at_source_size(source.dimensions(), images[0].dimensions()) {
        let layers = at_source_size(source, &images[1..])?;
        images.splice(1.., layers);
        told = fidelity(source, &images[1..])?;
    }
    let decibels = |psnr: Option<f64>| psnr.map(|psnr| (psnr * 100.0).round() / 100.0);
    let cover = |(layer, image): (u32, &RgbaImage)| {
        let Coverage { area, is_empty } = Coverage::of(image);
        LayerCoverage { layer, area: (area * 1e4).round() / 1e4, empty: is_empty }
    };
    let fidelity = Fidelity {
        source: size(source),
        model,
        output: size(images.last().unwrap_or(source)),
        psnr: decibels(told.psnr),
        max_error: told.max_error,
        model_psnr: decibels(own.psnr),
        model_max_error: own.max_error,
        layers: (1..).zip(&images[1..]).map(cover).collect(),
        quality: None,
    };
    Ok((images, fidelity.judged(params.min_psnr)))
}
