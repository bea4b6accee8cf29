//! The merged picture alone, with its color profile: as WebP, lossless, or as JPEG.

use std::io::Write;

use ::image::{
    ExtendedColorType, ImageEncoder, ImageError, ImageResult, RgbImage,
    codecs::{jpeg::JpegEncoder, webp::WebPEncoder},
};

use super::{ExportError, Merged, srgb, too_large};
use qwen_image::image_processor::on_white;

use crate::job::JobError;

/// The maximum sides in pixels that the formats' own libraries, libwebp and libjpeg, read.
const WEBP_SIDE: u32 = 16_383;
const JPEG_SIDE: u32 = 65_500;
/// Of 100. The encoder keeps the resolution of the colors (4:4:4) at every quality.
const QUALITY: u8 = 95;

/// A picture without transparent pixels has no alpha channel.
pub(super) fn webp<W: Write>(merged: &Merged, out: W) -> Result<W, ExportError> {
    check_sides(merged, "WebP", WEBP_SIDE)?;
    let (width, height) = merged.size();
    let mut bytes = Vec::new();
    let mut encoder = WebPEncoder::new_lossless(&mut bytes);
    let encoded = with_profile(&mut encoder).and_then(|()| match merged.is_opaque() {
        true => encoder.write_image(&colors(merged), width, height, ExtendedColorType::Rgb8),
        false => encoder.write_image(&merged.whole, width, height, ExtendedColorType::Rgba8),
    });
    finish(encoded, merged, "WebP", &bytes, out)
}

/// JPEG has no transparency: what is transparent is blended with white.
pub(super) fn jpeg<W: Write>(merged: &Merged, out: W) -> Result<W, ExportError> {
    check_sides(merged, "JPEG", JPEG_SIDE)?;
    let (width, height) = merged.size();
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut bytes, QUALITY);
    let encoded = with_profile(&mut encoder)
        .and_then(|()| encoder.write_image(&on_white(&merged.whole), width, height, ExtendedColorType::Rgb8));
    finish(encoded, merged, "JPEG", &bytes, out)
}

fn colors(merged: &Merged) -> RgbImage {
    let whole = &merged.whole;
    RgbImage::from_fn(whole.width(), whole.height(), |x, y| {
        let [r, g, b, _] = whole.get_pixel(x, y).0;
        [r, g, b].into()
    })
}

fn with_profile(encoder: &mut impl ImageEncoder) -> ImageResult<()> {
    let Some(profile) = srgb::profile() else { return Ok(()) };
    encoder.set_icc_profile(profile).map_err(ImageError::Unsupported)
}

fn check_sides(merged: &Merged, format: &str, longest: u32) -> Result<(), ExportError> {
    let (width, height) = merged.size();
    if width <= longest && height <= longest {
        return Ok(());
    }
    Err(too_large(&format!("{width}x{height} pixels; a {format} has at most {longest} per side")))
}

/// The encoders write into memory first, so that an error while writing is one of the output.
fn finish<W: Write>(
    encoded: ImageResult<()>,
    merged: &Merged,
    format: &str,
    bytes: &[u8],
    mut out: W,
) -> Result<W, ExportError> {
    encoded.map_err(|error| {
        let (width, height) = merged.size();
        let reason = format!("{width}x{height} pixels cannot be written as {format}: {error}");
        JobError::InvalidImage { input: "output picture".to_owned(), reason }
    })?;
    out.write_all(bytes)?;
    Ok(out)
}
