//! The layers of a decompose, at the size that they are asked for, and how true they are.

use ::image::RgbaImage;
use qwen_image::source_size::{Coverage, at_source_size, fidelity};

use super::{execute::OutputPicture, inputs::count};
use crate::{
    image::DecodeLimits,
    job::{DecomposeParams, Fidelity, JobError, LayerCoverage, LayerRole, OutputSize, PictureSize},
};

/// What layers of the picture's size hold in memory, before the model runs for nothing: the picture twice, the layers,
/// and their composite.
///
/// # Errors
/// [`JobError::ImageTooLarge`] if that is more than `image.max_memory`.
pub(super) fn check_memory(
    (width, height): (u32, u32),
    params: &DecomposeParams,
    limits: &DecodeLimits,
) -> Result<(), JobError> {
    if params.output_size == Some(OutputSize::Model) {
        return Ok(());
    }
    // Of `auto`, at least so many; how many there are is known later.
    check_layer_memory((width, height), params.layers.number().unwrap_or(2), limits)
}

/// The same for layers that are known.
pub(super) fn check_layer_memory(
    (width, height): (u32, u32),
    layers: u32,
    limits: &DecodeLimits,
) -> Result<(), JobError> {
    let pictures = u64::from(layers) + 3;
    let bytes = u64::from(width) * u64::from(height) * 4 * pictures;
    if bytes <= limits.max_memory {
        return Ok(());
    }
    let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
    Err(JobError::ImageTooLarge {
        input: format!("{layers} layers of {width}x{height} pixels"),
        reason: format!(
            "they need {} MiB of memory; the limit, image.max_memory, is {} MiB; ask for fewer layers, or for \
             output_size model",
            mebibytes(bytes),
            mebibytes(limits.max_memory)
        ),
    })
}

/// Brings the part that was lifted out of the picture to its size, with the picture's own colors, if that is asked for.
pub(super) fn lifted(source: &RgbaImage, part: RgbaImage, params: &DecomposeParams) -> Result<RgbaImage, JobError> {
    if !params.is_at_source_size(source.dimensions(), part.dimensions()) {
        return Ok(part);
    }
    // What the part leaves is the picture behind it.
    let behind = qwen_image::image_processor::lanczos(source, part.width(), part.height());
    let mut layers = at_source_size(source, &[behind, part])?;
    layers.pop().ok_or_else(|| JobError::device("engine", "returned no part"))
}

/// The files of a decompose.
pub(super) struct FinishedLayers {
    pub pictures: Vec<OutputPicture>,
    /// Absent for a part that was lifted out of the picture, which does not compose to it.
    pub fidelity: Option<Fidelity>,
}

/// Makes the files of a decompose from what the model made.
pub(super) fn finished(
    source: &RgbaImage,
    mut images: Vec<RgbaImage>,
    params: &DecomposeParams,
    limits: &DecodeLimits,
) -> Result<FinishedLayers, JobError> {
    let (wanted, there) = (params.layers.number(), images.len());
    if wanted.is_some_and(|wanted| there != wanted as usize + 1) || there < 1 {
        let wanted = wanted.map_or_else(|| "some".to_owned(), |wanted| (wanted + 1).to_string());
        return Err(JobError::device("engine", format!("returned {there} pictures instead of {wanted}")));
    }
    if let (Some(0), Some(part)) = (wanted, images.pop_if(|_| wanted == Some(0))) {
        let image = lifted(source, part, params)?;
        let picture = OutputPicture { name: "layer-01.png".to_owned(), role: LayerRole::Layer, image };
        return Ok(FinishedLayers { pictures: vec![picture], fidelity: None });
    }
    if wanted.is_none() && params.is_at_source_size(source.dimensions(), images[0].dimensions()) {
        check_layer_memory(source.dimensions(), count(there - 1), limits)?;
    }
    let (images, fidelity) = refine(source, images, params)?;
    let pictures = images.into_iter().enumerate().map(|(index, image)| {
        let role = if index == 0 { LayerRole::Regenerated } else { LayerRole::Layer };
        OutputPicture { name: format!("layer-{index:02}.png"), role, image }
    });
    Ok(FinishedLayers { pictures: pictures.collect(), fidelity: Some(fidelity) })
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
