//! Where a picture has visible pixels.

use ::image::RgbaImage;

use crate::job::BoundingBox;

/// Alpha of this and more counts as visible. Models leave a trace of alpha over whole layers, which nobody sees.
const VISIBLE: u8 = 8;

/// The smallest rectangle around all visible pixels, those with an alpha of 8 or more.
pub fn bounding_box(picture: &RgbaImage) -> BoundingBox {
    let mut found: Option<(u32, u32, u32, u32)> = None;
    for (y, row) in picture.rows().enumerate() {
        let (mut first, mut last) = (None, 0);
        for (x, pixel) in row.enumerate() {
            if pixel[3] >= VISIBLE {
                first.get_or_insert(x);
                last = x;
            }
        }
        let Some(first) = first else { continue };
        // The sides of a picture are u32.
        let (y, first, last) = (y as u32, first as u32, last as u32);
        let (left, top, right, _) = found.unwrap_or((first, y, last, y));
        found = Some((left.min(first), top, right.max(last), y));
    }
    found.map_or_else(BoundingBox::default, |(left, top, right, bottom)| BoundingBox {
        x: left,
        y: top,
        width: right - left + 1,
        height: bottom - top + 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_box_is_around_all_that_can_be_seen() {
        let mut picture = RgbaImage::from_pixel(9, 7, ::image::Rgba([255, 255, 255, 7]));
        assert_eq!(bounding_box(&picture), BoundingBox::default());
        picture.get_pixel_mut(6, 2)[3] = 8;
        assert_eq!(bounding_box(&picture), BoundingBox { x: 6, y: 2, width: 1, height: 1 });
        picture.get_pixel_mut(3, 5)[3] = 255;
        assert_eq!(bounding_box(&picture), BoundingBox { x: 3, y: 2, width: 4, height: 4 });
        picture.pixels_mut().for_each(|pixel| pixel[3] = 9);
        assert_eq!(bounding_box(&picture), BoundingBox { x: 0, y: 0, width: 9, height: 7 });
        assert_eq!(bounding_box(&RgbaImage::new(0, 0)), BoundingBox::default());
    }
}
