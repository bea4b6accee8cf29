//! Layers and pictures as PNG files.

use ::image::RgbaImage;
use ::png::{BitDepth, ColorType, Compression, Encoder, EncodingError, Filter, SrgbRenderingIntent};

use crate::job::JobError;

/// Encodes as 8-bit RGBA, lossless, including the color of transparent pixels. Says that it is sRGB.
///
/// # Errors
/// [`JobError::InvalidImage`] for a picture that PNG does not support: a side of 0.
pub fn encode_png(image: &RgbaImage) -> Result<Vec<u8>, JobError> {
    write(image).map_err(|error| JobError::InvalidImage {
        input: "output picture".to_owned(),
        reason: format!("{}x{} pixels cannot be written as PNG: {error}", image.width(), image.height()),
    })
}

fn write(image: &RgbaImage) -> Result<Vec<u8>, EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, image.width(), image.height());
    encoder.set_color(ColorType::Rgba);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Fast);
    encoder.set_filter(Filter::Adaptive);
    encoder.set_source_srgb(SrgbRenderingIntent::Perceptual);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(image)?;
    writer.finish()?;
    Ok(bytes)
}
