//! Layers without their transparent margins, and where they belong.

use ::image::{RgbaImage, imageops};

use super::{DecodeLimits, bounding_box};
use crate::job::{BoundingBox, JobError, Placement};

/// Cuts off the margins in which nothing is visible: pixels with an alpha below 8. Of a layer that shows nothing, one
/// transparent pixel stays, because a PNG has at least one.
pub fn trimmed(layer: &RgbaImage) -> (RgbaImage, Placement) {
    let BoundingBox { x, y, width, height } = bounding_box(layer);
    let placement = Placement { x, y, width: layer.width(), height: layer.height() };
    if width == 0 {
        return (RgbaImage::new(1, 1), placement);
    }
    (imageops::crop_imm(layer, x, y, width, height).to_image(), placement)
}

/// Puts a trimmed layer back on its canvas, which is transparent; a layer without a placement is its own canvas.
///
/// # Errors
/// [`JobError::InvalidImage`] if the layer does not lie on the canvas, [`JobError::ImageTooLarge`] for a canvas beyond
/// the limits.
pub fn placed(
    name: &str,
    layer: RgbaImage,
    placement: Option<Placement>,
    limits: &DecodeLimits,
) -> Result<RgbaImage, JobError> {
    let Some(placement) = placement else { return Ok(layer) };
    check_placement(name, layer.dimensions(), placement, limits)?;
    let Placement { x, y, width, height } = placement;
    let mut canvas = RgbaImage::new(width, height);
    imageops::replace(&mut canvas, &layer, i64::from(x), i64::from(y));
    Ok(canvas)
}

/// Checks that a layer of this size lies on its canvas, and the canvas's size, before anything is allocated.
///
/// # Errors
/// As [`placed`].
pub(super) fn check_placement(
    name: &str,
    (layer_width, layer_height): (u32, u32),
    placement: Placement,
    limits: &DecodeLimits,
) -> Result<(), JobError> {
    let Placement { x, y, width, height } = placement;
    limits.check_size(name, (width, height))?;
    let fits = |start: u32, length: u32, whole: u32| u64::from(start) + u64::from(length) <= u64::from(whole);
    if fits(x, layer_width, width) && fits(y, layer_height, height) {
        return Ok(());
    }
    let reason = format!(
        "it is {layer_width}x{layer_height} pixels, which do not fit at {x}, {y} on a canvas of {width}x{height}; its \
         placement in the manifest is wrong"
    );
    Err(JobError::InvalidImage { input: name.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use ::image::Rgba;

    use super::*;

    #[test]
    fn a_trimmed_layer_is_put_back_where_it_was() {
        let limits = DecodeLimits::default();
        let mut layer = RgbaImage::new(9, 7);
        layer.put_pixel(3, 2, Rgba([1, 2, 3, 8]));
        layer.put_pixel(6, 5, Rgba([9, 8, 7, 255]));
        let (cut, placement) = trimmed(&layer);
        assert_eq!((cut.dimensions(), placement), ((4, 4), Placement { x: 3, y: 2, width: 9, height: 7 }));
        assert_eq!(placed("x", cut.clone(), Some(placement), &limits).unwrap(), layer);
        assert_eq!(placed("x", cut.clone(), None, &limits).unwrap(), cut);

        let (cut, placement) = trimmed(&RgbaImage::new(9, 7));
        assert_eq!((cut.dimensions(), placement), ((1, 1), Placement { x: 0, y: 0, width: 9, height: 7 }));
        assert_eq!(placed("x", cut, Some(placement), &limits).unwrap(), RgbaImage::new(9, 7));
    }

    #[test]
    fn a_trace_of_alpha_in_the_margins_is_cut_off_and_stays_inside() {
        let mut layer = RgbaImage::from_pixel(9, 7, Rgba([5, 5, 5, 7]));
        layer.put_pixel(3, 2, Rgba([1, 2, 3, 200]));
        layer.put_pixel(6, 5, Rgba([9, 8, 7, 255]));
        let (cut, placement) = trimmed(&layer);
        assert_eq!((cut.dimensions(), (placement.x, placement.y)), ((4, 4), (3, 2)));
        let back = placed("x", cut, Some(placement), &DecodeLimits::default()).unwrap();
        for (x, y, pixel) in layer.enumerate_pixels() {
            let is_inside = (3..=6).contains(&x) && (2..=5).contains(&y);
            assert_eq!(back.get_pixel(x, y), &if is_inside { *pixel } else { Rgba([0; 4]) }, "{x} {y}");
        }
    }

    #[test]
    fn a_layer_must_lie_on_its_canvas() {
        let limits = DecodeLimits::default();
        let wrong =
            |placement| placed("a.png", RgbaImage::new(4, 4), Some(placement), &limits).unwrap_err().to_string();
        let error = wrong(Placement { x: u32::MAX, y: 0, width: 9, height: 7 });
        assert!(error.contains("a.png") && error.contains("which do not fit at 4294967295, 0"), "{error}");
        let error = wrong(Placement { x: 0, y: 0, width: u32::MAX, height: u32::MAX });
        assert!(error.contains("image.max_width"), "{error}");
    }
}
