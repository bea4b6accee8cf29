//! Splits a layer into color and alpha for an edit, and joins them afterwards.
//!
//! The edit model sees RGB. For a layer with alpha, the model gets the layer's RGB unchanged, even under transparent
//! pixels; the layer's alpha bypasses the model and is restored exactly; and the edited color is resized separately,
//! not premultiplied, so that the matte does not bleed into the edge.

use ::image::{GrayImage, Luma, Rgb, RgbImage, Rgba, RgbaImage};

use super::ImageError;
use super::resize::{lanczos_l, lanczos_rgb};

/// The color of every pixel, including transparent ones.
pub fn rgb_of(image: &RgbaImage) -> RgbImage {
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let Rgba([r, g, b, _]) = *image.get_pixel(x, y);
        Rgb([r, g, b])
    })
}

/// The alpha channel.
pub fn alpha_of(image: &RgbaImage) -> GrayImage {
    GrayImage::from_fn(image.width(), image.height(), |x, y| Luma([image.get_pixel(x, y).0[3]]))
}

/// The color of `rgb` with the exact alpha of `alpha_from`.
///
/// # Errors
/// [`ImageError::AlphaSize`] if the sizes differ.
pub fn with_alpha(rgb: &RgbImage, alpha_from: &RgbaImage) -> Result<RgbaImage, ImageError> {
    let ((width, height), (alpha_width, alpha_height)) = (rgb.dimensions(), alpha_from.dimensions());
    if (width, height) != (alpha_width, alpha_height) {
        return Err(ImageError::AlphaSize { width, height, alpha_width, alpha_height });
    }
    Ok(join(rgb, &alpha_of(alpha_from)))
}

/// An edited picture with the layer's size and alpha: `output_size = source`.
pub fn back_to_source(edited: &RgbImage, source: &RgbaImage) -> RgbaImage {
    join(&lanczos_rgb(edited, source.width(), source.height()), &alpha_of(source))
}

/// An edited picture with the model's size and the layer's alpha resized to it: `output_size = model`.
pub fn at_model_size(edited: &RgbImage, source: &RgbaImage) -> RgbaImage {
    join(edited, &lanczos_l(&alpha_of(source), edited.width(), edited.height()))
}

/// The picture over white, without alpha, as the reference's picture processor passes it to the text encoder.
///
/// Equal to Pillow's `Image.alpha_composite` onto opaque white, which keeps 7 bits below the byte and rounds.
pub fn on_white(image: &RgbaImage) -> RgbImage {
    const BITS: u32 = 7;
    let over_white = |value: u8, alpha: u32| {
        let sum = ((u32::from(value) * alpha + 255 * (255 - alpha)) << BITS) + (0x80 << BITS);
        (((sum >> 8) + sum) >> 8 >> BITS) as u8
    };
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let Rgba([r, g, b, a]) = *image.get_pixel(x, y);
        Rgb([r, g, b].map(|value| over_white(value, u32::from(a))))
    })
}

/// Both must have the same size.
pub(super) fn join(rgb: &RgbImage, alpha: &GrayImage) -> RgbaImage {
    RgbaImage::from_fn(rgb.width(), rgb.height(), |x, y| {
        let Rgb([r, g, b]) = *rgb.get_pixel(x, y);
        Rgba([r, g, b, alpha.get_pixel(x, y).0[0]])
    })
}
