//! Alpha of a picture that is known over two grounds.
//!
//! A model that edits RGB cannot say where its picture is transparent. So it edits a layer twice, over a dark and over
//! a light ground, with the same noise: what shows the ground is transparent, what is the same over both is opaque.

use ::image::{Rgb, RgbImage, Rgba, RgbaImage};
use rayon::prelude::*;

/// The gray levels of the two grounds. So far apart, noise of 3 levels in each color of both pictures is 1.3 % of
/// alpha.
pub const GROUNDS: [u8; 2] = [0, 192];
/// Alpha below this is 0, and above the rest to 1 it is 1: about three times the noise that a VAE leaves (a standard
/// deviation of 3 levels in each picture).
const CLEAR: f32 = 0.04;
/// How far a model's ground may be from the one that it was given, in levels.
const MOST_OFF: f32 = 16.0;

/// A layer over a plain gray ground.
pub fn over_ground(layer: &RgbaImage, ground: u8) -> RgbImage {
    let mix = |value: u8, alpha: u32| {
        let sum = u32::from(value) * alpha + u32::from(ground) * (255 - alpha);
        ((sum + 127) / 255) as u8
    };
    RgbImage::from_fn(layer.width(), layer.height(), |x, y| {
        let Rgba([r, g, b, alpha]) = *layer.get_pixel(x, y);
        Rgb([r, g, b].map(|value| mix(value, u32::from(alpha))))
    })
}

/// The layer that looks like the first picture over the first of [`GROUNDS`], and like the second over the second.
///
/// Over a ground G, a layer of the color C and the alpha a shows `E = a C + (1 - a) G`. Two grounds are enough to solve
/// that: with D the difference of the pictures and K that of the grounds, as vectors of red, green and blue,
/// `1 - a = (D . K) / (K . K)`, the triangulation of Smith and Blinn, "Blue Screen Matting" (SIGGRAPH 1996, theorem 4).
/// `a C` is the mean of what both pictures say, `E - (1 - a) G`.
///
/// `clear` are the pixels that were transparent before the edit; their median is taken for the ground where it is near
/// the one that was asked for, because a model paints grounds a little off. Both pictures have one size, and `clear`
/// one value for each pixel. Fully transparent pixels are black.
pub fn from_two_grounds(pictures: [&RgbImage; 2], clear: &[bool]) -> RgbaImage {
    let grounds = [0, 1].map(|index| ground_of(pictures[index], GROUNDS[index], clear));
    let (width, height) = pictures[0].dimensions();
    let [dark, light] = pictures.map(|picture| picture.as_raw().par_chunks_exact(3));
    let mut layer = RgbaImage::new(width, height);
    layer.par_chunks_exact_mut(4).zip(dark.zip(light)).for_each(|(pixel, (dark, light))| {
        let levels = |pixel: &[u8]| [0, 1, 2].map(|channel| f32::from(pixel[channel]));
        let (color, alpha) = solve([levels(dark), levels(light)], grounds);
        let alpha = match alpha {
            alpha if alpha < CLEAR => return,
            alpha if alpha > 1.0 - CLEAR => 1.0,
            alpha => alpha,
        };
        let [r, g, b] = color.map(|value| value.round().clamp(0.0, 255.0) as u8);
        pixel.copy_from_slice(&[r, g, b, (alpha * 255.0).round() as u8]);
    });
    layer
}

/// Color and alpha of a pixel, from what is seen over each ground; levels from 0 to 255, alpha from 0 to 1.
fn solve([dark, light]: [[f32; 3]; 2], [under, over]: [[f32; 3]; 2]) -> ([f32; 3], f32) {
    let sum = |term: &dyn Fn(usize) -> f32| (0..3).map(term).sum::<f32>();
    let product = sum(&|c| (light[c] - dark[c]) * (over[c] - under[c]));
    let square = sum(&|c| (over[c] - under[c]).powi(2));
    let alpha = (1.0 - product / square).clamp(0.0, 1.0);
    let color = [0, 1, 2].map(|c| {
        let sum = dark[c] + light[c] - (1.0 - alpha) * (under[c] + over[c]);
        sum / (2.0 * alpha.max(f32::MIN_POSITIVE))
    });
    (color, alpha)
}

/// The ground as the model painted it.
fn ground_of(picture: &RgbImage, asked: u8, clear: &[bool]) -> [f32; 3] {
    [0, 1, 2].map(|channel| {
        let values = picture.as_raw().iter().skip(channel).step_by(3).zip(clear);
        let mut values: Vec<u8> = values.filter(|(_, clear)| **clear).map(|(value, _)| *value).collect();
        let asked = f32::from(asked);
        if values.is_empty() {
            return asked;
        }
        let middle = values.len() / 2;
        let median = f32::from(*values.select_nth_unstable(middle).1);
        if (median - asked).abs() <= MOST_OFF { median } else { asked }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every alpha with many colors.
    fn layer() -> RgbaImage {
        RgbaImage::from_fn(256, 64, |x, y| Rgba([(y * 4) as u8, (x * 7) as u8, 255 - (y * 3) as u8, x as u8]))
    }

    #[test]
    fn color_and_alpha_come_back_exactly() {
        let grounds = GROUNDS.map(|ground| [f32::from(ground); 3]);
        for pixel in layer().pixels().filter(|pixel| pixel[3] > 0) {
            let (color, alpha) = ([0, 1, 2].map(|c| f32::from(pixel[c])), f32::from(pixel[3]) / 255.0);
            let seen = grounds.map(|ground| [0, 1, 2].map(|c| alpha * color[c] + (1.0 - alpha) * ground[c]));
            let (found, found_alpha) = solve(seen, grounds);
            assert!((alpha - found_alpha).abs() < 1e-5, "{pixel:?}: {found_alpha}");
            let off = (0..3).map(|c| (color[c] - found[c]).abs() * alpha).fold(0.0, f32::max);
            assert!(off < 1e-2, "{pixel:?}: {found:?}");
        }
    }

    #[test]
    fn bytes_cost_a_level_or_two() {
        let layer = layer();
        let pictures = GROUNDS.map(|ground| over_ground(&layer, ground));
        let found = from_two_grounds([&pictures[0], &pictures[1]], &vec![false; 256 * 64]);
        for (wanted, found) in layer.pixels().zip(found.pixels()) {
            let (wanted, alpha) = (wanted.0, wanted[3]);
            match f32::from(alpha) / 255.0 {
                share if share < CLEAR - 0.01 => assert_eq!(found.0, [0; 4], "{wanted:?}"),
                share if share > 1.01 - CLEAR => assert_eq!(found[3], 255, "{wanted:?}"),
                share if !(CLEAR + 0.01..0.99 - CLEAR).contains(&share) => {}
                share => {
                    assert!(alpha.abs_diff(found[3]) <= 2, "{wanted:?} became {found:?}");
                    let off = (0..3).map(|c| f32::from(wanted[c].abs_diff(found[c])) * share).fold(0.0, f32::max);
                    assert!(off <= 2.0, "{wanted:?} became {found:?}");
                }
            }
        }
    }

    #[test]
    fn a_ground_that_is_a_little_off_is_no_layer() {
        let mut layer = RgbaImage::new(40, 30);
        for (x, y) in (10..20).flat_map(|x| (10..20).map(move |y| (x, y))) {
            layer.put_pixel(x, y, Rgba([200, 40, 90, 255]));
        }
        let clear: Vec<bool> = layer.pixels().map(|pixel| pixel[3] == 0).collect();
        let mut pictures = GROUNDS.map(|ground| over_ground(&layer, ground));
        for (x, y, pixel) in pictures[1].enumerate_pixels_mut() {
            if layer.get_pixel(x, y)[3] == 0 {
                *pixel = Rgb([182, 180, 184]);
            }
        }
        assert_eq!(from_two_grounds([&pictures[0], &pictures[1]], &clear), layer);
        // One that is the same over both is a picture.
        let found = from_two_grounds([&pictures[1], &pictures[1]], &clear);
        assert!(found.pixels().all(|pixel| pixel[3] == 255));
        assert_eq!(found.get_pixel(0, 0).0, [182, 180, 184, 255]);
    }
}
