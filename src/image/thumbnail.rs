//! Thumbnails, and checks of a file without its pixels.

use qwen_image::image_processor::lanczos;

use super::{DecodeLimits, decode, encode_png, placed};
use crate::job::{JobError, Placement};

/// A PNG with at most `side` pixels on its longer side; a smaller picture keeps its size. A trimmed layer is shown on
/// its canvas.
///
/// # Errors
/// Those of [`decode`] and [`placed`].
pub fn thumbnail(
    name: &str,
    bytes: &[u8],
    placement: Option<Placement>,
    limits: &DecodeLimits,
    side: u32,
) -> Result<Vec<u8>, JobError> {
    let picture = placed(name, decode(name, bytes, limits)?.pixels, placement, limits)?;
    let (width, height) = fitted(picture.dimensions(), side);
    encode_png(&lanczos(&picture, width, height))
}

/// The size that fits into a square, with sides of at least one pixel.
fn fitted((width, height): (u32, u32), side: u32) -> (u32, u32) {
    let longer = width.max(height);
    if longer <= side {
        return (width, height);
    }
    let scaled = |length: u32| {
        let exact = u64::from(length) * u64::from(side);
        u32::try_from((exact + u64::from(longer) / 2) / u64::from(longer)).unwrap_or(side).max(1)
    };
    (scaled(width), scaled(height))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_fit_and_keep_their_shape() {
        for (size, wanted) in
            [((640, 480), (256, 192)), ((480, 640), (192, 256)), ((100, 50), (100, 50)), ((9000, 3), (256, 1))]
        {
            assert_eq!(fitted(size, 256), wanted);
        }
        let picture = ::image::RgbaImage::from_pixel(600, 300, ::image::Rgba([200, 10, 10, 128]));
        let small = thumbnail("x", &encode_png(&picture).unwrap(), None, &DecodeLimits::default(), 96).unwrap();
        let small = decode("x", &small, &DecodeLimits::default()).unwrap().pixels;
        assert_eq!(small.dimensions(), (96, 48));
        assert_eq!(small.get_pixel(5, 5)[3], 128);
    }
}
