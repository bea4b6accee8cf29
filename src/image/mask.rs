//! Masks in the form of the OpenAI API.

use ::image::{Rgba, RgbaImage};

use super::{DecodeLimits, decode, encode_png};
use crate::job::JobError;

/// A mask whose transparent pixels may change, as a PNG whose white pixels may.
///
/// # Errors
/// Those of [`decode`]; [`JobError::InvalidRequest`] if no pixel is transparent.
pub fn mask_of_transparency(name: &str, bytes: &[u8], limits: &DecodeLimits) -> Result<Vec<u8>, JobError> {
    let picture = decode(name, bytes, limits)?.pixels;
    if picture.pixels().all(|pixel| pixel[3] == u8::MAX) {
        let reason = "has no transparent pixels; make those transparent that may change, and send it as PNG";
        return Err(JobError::invalid("mask", reason));
    }
    let white = |x, y| {
        let open = u8::MAX - picture.get_pixel(x, y)[3];
        Rgba([open, open, open, u8::MAX])
    };
    encode_png(&RgbaImage::from_fn(picture.width(), picture.height(), white))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transparent_becomes_white() {
        let mask = RgbaImage::from_fn(2, 1, |x, _| Rgba([9, 9, 9, if x == 0 { 0 } else { 255 }]));
        let limits = DecodeLimits::default();
        let made = mask_of_transparency("m", &encode_png(&mask).unwrap(), &limits).unwrap();
        assert_eq!(decode("m", &made, &limits).unwrap().pixels.as_raw(), &[255, 255, 255, 255, 0, 0, 0, 255]);
        let opaque = encode_png(&RgbaImage::from_pixel(2, 1, Rgba([0, 0, 0, 255]))).unwrap();
        let error = mask_of_transparency("m", &opaque, &limits).unwrap_err().to_string();
        assert!(error.starts_with("mask: has no transparent pixels"), "{error}");
    }
}
