//! Fits a picture to what a client wants of its edit, which has the size and the alpha of the picture.

use ::image::Rgba;
use qwen_image::image_processor::lanczos;

use super::{DecodeLimits, decode, encode_png};
use crate::job::JobError;

/// What to do about transparency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Background {
    /// Keep what the picture has.
    #[default]
    Auto,
    /// Keep it, and refuse a picture that has none.
    Transparent,
    /// Put the picture on white.
    Opaque,
}

impl Background {
    /// The choice, if there was one.
    pub fn shown(self) -> Option<&'static str> {
        match self {
            Self::Auto => None,
            Self::Transparent => Some("transparent"),
            Self::Opaque => Some("opaque"),
        }
    }
}

/// The picture as PNG, with another size of the same shape, and with or without transparency.
///
/// # Errors
/// Those of [`decode`]; [`JobError::InvalidRequest`] for a size of another shape, or of more pixels than the limits
/// allow, and for a transparent background of a picture that has none.
pub fn fitted(
    name: &str,
    bytes: &[u8],
    limits: &DecodeLimits,
    size: Option<(u32, u32)>,
    background: Background,
) -> Result<Vec<u8>, JobError> {
    let mut picture = decode(name, bytes, limits)?.pixels;
    if background == Background::Transparent && picture.pixels().all(|pixel| pixel[3] == u8::MAX) {
        return Err(JobError::invalid(
            "background",
            "the picture has no transparent pixels, and an edit does not change the outline; split the picture into \
             layers first (POST /v1/jobs, kind decompose) and edit a layer",
        ));
    }
    if let Some((width, height)) = size {
        check_size((width, height), picture.dimensions(), limits)?;
        if (width, height) != picture.dimensions() {
            picture = lanczos(&picture, width, height);
        }
    }
    if background == Background::Opaque {
        picture.pixels_mut().for_each(on_white);
    }
    encode_png(&picture)
}

fn check_size(
    (width, height): (u32, u32),
    (has_width, has_height): (u32, u32),
    limits: &DecodeLimits,
) -> Result<(), JobError> {
    let invalid = |reason: String| Err(JobError::invalid("size", reason));
    if width > limits.max_width
        || height > limits.max_height
        || u64::from(width) * u64::from(height) > limits.max_pixels
    {
        let DecodeLimits { max_width, max_height, max_pixels, .. } = limits;
        return invalid(format!(
            "{width}x{height} is too large; at most {max_width}x{max_height} and {max_pixels} pixels"
        ));
    }
    // Rounding a side to whole pixels is no other shape.
    let fits = |from: u32, to: u32, other_from: u32, other_to: u32| {
        let exact = f64::from(other_from) * f64::from(to) / f64::from(from);
        (exact - f64::from(other_to)).abs() <= 1.0
    };
    if fits(has_width, width, has_height, height) || fits(has_height, height, has_width, width) {
        return Ok(());
    }
    let same = (f64::from(has_height) * f64::from(width) / f64::from(has_width)).round().max(1.0);
    invalid(format!(
        "{width}x{height} has another shape than the picture, {has_width}x{has_height}; use auto or {width}x{same}, or \
         crop the picture first"
    ))
}

fn on_white(pixel: &mut Rgba<u8>) {
    let [red, green, blue, alpha] = pixel.0;
    let mixed = |value: u8| {
        let sum = u32::from(value) * u32::from(alpha) + 255 * (255 - u32::from(alpha));
        ((sum + 127) / 255) as u8
    };
    *pixel = Rgba([mixed(red), mixed(green), mixed(blue), u8::MAX]);
}

#[cfg(test)]
mod tests {
    use ::image::RgbaImage;

    use super::*;

    fn fit(
        (width, height): (u32, u32),
        alpha: u8,
        size: Option<(u32, u32)>,
        background: Background,
    ) -> Result<RgbaImage, JobError> {
        let limits = DecodeLimits::default();
        let picture = encode_png(&RgbaImage::from_pixel(width, height, Rgba([200, 0, 0, alpha]))).unwrap();
        fitted("x", &picture, &limits, size, background).map(|png| decode("x", &png, &limits).unwrap().pixels)
    }

    #[test]
    fn sizes_of_the_same_shape_are_made_and_others_refused() {
        for (from, to) in [
            ((64, 48), (128, 96)),
            ((64, 48), (64, 48)),
            ((100, 33), (50, 17)),
            ((100, 33), (50, 16)),
            ((3, 1000), (6, 1999)),
        ] {
            assert_eq!(fit(from, 255, Some(to), Background::Auto).unwrap().dimensions(), to);
        }
        for (from, to) in [((64, 48), (1024, 1024)), ((64, 64), (64, 80)), ((64, 48), (48, 64))] {
            let error = fit(from, 255, Some(to), Background::Auto).unwrap_err().to_string();
            assert!(error.starts_with("size: ") && error.contains("another shape"), "{error}");
        }
        let error = fit((64, 48), 255, Some((64_000, 48_000)), Background::Auto).unwrap_err().to_string();
        assert!(error.contains("too large"), "{error}");
    }

    #[test]
    fn transparency_is_kept_required_or_removed() {
        assert_eq!(fit((4, 4), 128, None, Background::Auto).unwrap().get_pixel(0, 0)[3], 128);
        assert_eq!(fit((4, 4), 128, None, Background::Transparent).unwrap().get_pixel(0, 0)[3], 128);
        let error = fit((4, 4), 255, None, Background::Transparent).unwrap_err().to_string();
        assert!(error.starts_with("background: the picture has no transparent pixels"), "{error}");
        let flat = fit((4, 4), 128, None, Background::Opaque).unwrap();
        assert_eq!(flat.get_pixel(0, 0).0, [227, 127, 127, 255]);
        assert_eq!(fit((4, 4), 0, None, Background::Opaque).unwrap().get_pixel(0, 0).0, [255; 4]);
    }
}
