//! Layers and pictures as PNG files.

use ::image::codecs::png::{CompressionType, FilterType, PngEncoder};
use ::image::{ExtendedColorType, ImageEncoder, RgbaImage};

use crate::job::JobError;

/// Encodes as 8-bit RGBA, lossless, including the color of transparent pixels.
///
/// # Errors
/// [`JobError::InvalidImage`] for a picture that PNG does not support: a side of 0.
pub fn encode_png(image: &RgbaImage) -> Result<Vec<u8>, JobError> {
    let mut bytes = Vec::new();
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Adaptive)
        .write_image(image, image.width(), image.height(), ExtendedColorType::Rgba8)
        .map_err(|error| JobError::InvalidImage {
            input: "output picture".to_owned(),
            reason: format!("{}x{} pixels cannot be written as PNG: {error}", image.width(), image.height()),
        })?;
    Ok(bytes)
}
