//! Masks: which pixels of a picture an edit may change.

use ::image::{GrayImage, RgbaImage};
use rayon::prelude::*;

use super::{alpha::alpha_of, distance::distances, resize::lanczos_l};

/// Values up to this are black, because a model leaves a little alpha where its layers are empty.
const BLACK: u8 = 12;
/// Values from this are white.
const WHITE: u8 = 243;

/// A mask: white may change, black stays, gray is a mix of both, as in diffusers' inpaint pipelines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask(GrayImage);

/// How much of a picture a mask covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskCoverage {
    /// Nothing may change.
    Empty,
    /// Some of it may change.
    Part,
    /// Everything may change, which is the same as no mask.
    Full,
}

impl Mask {
    /// Values below 5 % count as black, and those above 95 % as white.
    pub fn new(mut values: GrayImage) -> Self {
        for value in values.iter_mut() {
            *value = match *value {
                ..=BLACK => 0,
                WHITE.. => u8::MAX,
                between => between,
            };
        }
        Self(values)
    }

    /// The brightness of a picture (Rec. 601, as Pillow's mode L) times its alpha, so that transparent pixels stay.
    pub fn from_picture(picture: &RgbaImage) -> Self {
        let value = |pixel: &[u8]| {
            let [red, green, blue, alpha] = [0, 1, 2, 3].map(|channel| u32::from(pixel[channel]));
            let luma = (red * 19_595 + green * 38_470 + blue * 7_471 + 0x8000) >> 16;
            ((luma * alpha + 127) / 255) as u8
        };
        Self::new(gray(picture.dimensions(), picture.chunks_exact(4).map(value).collect()))
    }

    /// The alpha of a layer.
    pub fn from_alpha(layer: &RgbaImage) -> Self {
        Self::new(alpha_of(layer))
    }

    /// A rectangle of a picture of `size`: its left and upper edge, width and height. What is outside the picture is
    /// left out.
    pub fn from_region((width, height): (u32, u32), [x, y, w, h]: [u32; 4]) -> Self {
        let inside = |start: u32, length: u32, at: u32| at >= start && at - start < length;
        Self(GrayImage::from_fn(width, height, |column, row| {
            [if inside(x, w, column) && inside(y, h, row) { u8::MAX } else { 0 }].into()
        }))
    }

    /// Width and height in pixels.
    pub fn dimensions(&self) -> (u32, u32) {
        self.0.dimensions()
    }

    /// The mask for another size of the same picture (Lanczos).
    #[must_use]
    pub fn resized(&self, width: u32, height: u32) -> Self {
        if self.0.dimensions() == (width, height) { self.clone() } else { Self::new(lanczos_l(&self.0, width, height)) }
    }

    /// What either of two masks of one size lets change.
    #[must_use]
    pub fn or(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(value, other)| *value = (*value).max(*other));
        self
    }

    /// Whether nothing, a part or everything may change.
    pub fn coverage(&self) -> MaskCoverage {
        if self.0.iter().all(|value| *value == 0) {
            MaskCoverage::Empty
        } else if self.0.iter().all(|value| *value == u8::MAX) {
            MaskCoverage::Full
        } else {
            MaskCoverage::Part
        }
    }

    /// The share of the pixels that are not black.
    pub fn share(&self) -> f64 {
        let open = self.0.iter().filter(|value| **value > 0).count();
        open as f64 / self.0.len().max(1) as f64
    }

    /// The weights of an edited picture, of the mask's size: 0 exactly where the mask is black. From there they rise
    /// over `feather` pixels into the mask, but at most over its greatest depth; the picture's own edge is no edge.
    pub fn weights(&self, feather: u32) -> GrayImage {
        if feather == 0 {
            return self.0.clone();
        }
        let (width, height) = self.0.dimensions();
        let depth = distances(width as usize, height as usize, |index| self.0.as_raw()[index] == 0);
        let most = f32::from(u16::try_from(feather).unwrap_or(u16::MAX)) + 1.0;
        let deepest = depth.par_iter().map(|depth| depth.min(most)).reduce(|| 0.0, f32::max).max(1.0);
        let weight = |(value, depth): (&u8, &f32)| {
            let ramp = (depth / deepest).min(1.0);
            let smooth = ramp * ramp * (3.0 - 2.0 * ramp);
            (*value).min((smooth * 255.0).round() as u8)
        };
        gray((width, height), self.0.as_raw().par_iter().zip(&depth).map(weight).collect())
    }

    /// One value for each of `columns` x `rows` cells that cover the picture: 1 if any of its pixels may change, else
    /// 0.
    pub fn cells(&self, columns: usize, rows: usize) -> Vec<f32> {
        let (width, height) = (self.0.width() as usize, self.0.height() as usize);
        let span = |cell: usize, cells: usize, length: usize| {
            let start = (cell * length / cells).min(length.saturating_sub(1));
            start..((cell + 1) * length).div_ceil(cells).max(start + 1).min(length)
        };
        let is_open = |index: usize| {
            let across = span(index % columns, columns, width);
            span(index / columns, rows, height)
                .any(|row| self.0.as_raw()[row * width..][across.clone()].iter().any(|value| *value > 0))
        };
        (0..columns * rows).into_par_iter().map(|index| f32::from(u8::from(is_open(index)))).collect()
    }
}

/// Puts `source` back where `weights` are not white: exactly where they are 0, mixed where they are between. All three
/// have one size.
pub fn put_back(edited: &mut RgbaImage, source: &RgbaImage, weights: &GrayImage) {
    let mix = |edited: u8, source: u8, weight: u32| {
        let sum = u32::from(edited) * weight + u32::from(source) * (255 - weight);
        ((sum + 127) / 255) as u8
    };
    // Where alpha differs, colors count by it: a clear pixel has none.
    let mix_color = |edited: &[u8], source: &[u8], index: usize, weight: u32| {
        let parts = [(edited, weight), (source, 255 - weight)].map(|(pixel, weight)| u32::from(pixel[3]) * weight);
        let sum = u32::from(edited[index]) * parts[0] + u32::from(source[index]) * parts[1];
        let whole = parts[0] + parts[1];
        (sum + whole / 2).checked_div(whole).unwrap_or(0) as u8
    };
    edited.par_chunks_exact_mut(4).zip(source.par_chunks_exact(4)).zip(weights.as_raw().par_iter()).for_each(
        |((edited, source), weight)| match *weight {
            u8::MAX => {}
            0 => edited.copy_from_slice(source),
            weight if edited[3] == source[3] => {
                (0..4).for_each(|index| edited[index] = mix(edited[index], source[index], u32::from(weight)));
            }
            weight => {
                (0..3).for_each(|index| edited[index] = mix_color(edited, source, index, u32::from(weight)));
                edited[3] = mix(edited[3], source[3], u32::from(weight));
            }
        },
    );
}

/// A usual feather for a picture: 1 % of its shorter side, from 1 to 16 pixels.
pub fn usual_feather((width, height): (u32, u32)) -> u32 {
    (width.min(height) / 100).clamp(1, 16)
}

pub(super) fn gray((width, height): (u32, u32), values: Vec<u8>) -> GrayImage {
    let fits = "one value for each pixel";
    GrayImage::from_raw(width, height, values).unwrap_or_else(|| unreachable!("{fits}"))
}

#[cfg(test)]
mod tests {
    use ::image::{Luma, Rgba};

    use super::*;

    #[test]
    fn pictures_layers_and_rectangles_are_masks() {
        let picture = RgbaImage::from_fn(4, 1, |x, _| match x {
            0 => Rgba([255, 255, 255, 255]),
            1 => Rgba([255, 255, 255, 0]),
            2 => Rgba([8, 8, 8, 255]),
            _ => Rgba([0, 255, 0, 255]),
        });
        assert_eq!(Mask::from_picture(&picture).0.as_raw(), &[255, 0, 0, 150]);
        assert_eq!(Mask::from_alpha(&picture).0.as_raw(), &[255, 0, 255, 255]);
        let region = Mask::from_region((4, 2), [1, 1, 2, 1]);
        assert_eq!(region.0.as_raw(), &[0, 0, 0, 0, 0, 255, 255, 0]);
        assert_eq!((region.coverage(), region.share()), (MaskCoverage::Part, 0.25));
        assert_eq!(Mask::from_region((4, 2), [0, 0, 4, 2]).coverage(), MaskCoverage::Full);
        assert_eq!(Mask::new(GrayImage::from_pixel(3, 3, Luma([9]))).coverage(), MaskCoverage::Empty);
    }

    #[test]
    fn a_feather_lies_inside_the_mask() {
        let mask = Mask::from_region((60, 40), [10, 0, 30, 40]);
        let weights = mask.weights(8);
        let row: Vec<u8> = (0..60).map(|x| weights.get_pixel(x, 20)[0]).collect();
        assert!(row[..10].iter().chain(&row[40..]).all(|weight| *weight == 0), "{row:?}");
        assert!(row[10] > 0 && row[10..19].is_sorted() && row[18..32].iter().all(|weight| *weight == 255), "{row:?}");
        assert_eq!((weights.get_pixel(25, 0)[0], mask.weights(0).get_pixel(10, 0)[0]), (255, 255));
        let narrow = Mask::from_region((60, 40), [10, 0, 3, 40]).weights(16);
        assert_eq!(narrow.get_pixel(11, 5)[0], 255, "a narrow mask still changes its middle");
    }

    #[test]
    fn a_cell_is_open_if_any_of_its_pixels_is() {
        let mask = Mask::from_region((10, 10), [5, 5, 1, 1]);
        assert_eq!(mask.cells(2, 2), [0.0, 0.0, 0.0, 1.0]);
        assert_eq!(mask.cells(3, 1), [0.0, 1.0, 0.0]);
        assert_eq!(mask.cells(20, 20).iter().sum::<f32>(), 4.0);
    }

    #[test]
    fn black_pixels_are_the_source_to_the_last_bit() {
        let source = RgbaImage::from_fn(8, 8, |x, y| Rgba([(x * 31) as u8, (y * 17) as u8, 3, (x * y) as u8]));
        let mut edited = RgbaImage::from_pixel(8, 8, Rgba([200, 100, 50, 255]));
        put_back(&mut edited, &source, &Mask::from_region((8, 8), [2, 2, 4, 4]).weights(1));
        for (x, y, pixel) in edited.enumerate_pixels() {
            let inside = (2..6).contains(&x) && (2..6).contains(&y);
            assert_eq!(pixel == source.get_pixel(x, y), !inside, "{x} {y}");
        }
        assert_eq!(edited.get_pixel(3, 3).0, [200, 100, 50, 255]);
    }
}
