//! The new outline of an edited layer: the source's own where nothing changed, that of the matte where something did.

use ::image::{GrayImage, RgbaImage};

use super::{
    alpha::{alpha_of, join, rgb_of},
    distance::distances,
    hidden::continued_over,
    mask::{Mask, gray},
    resize::{lanczos_l, lanczos_rgb},
};

/// A pixel's alpha changed if it differs by more than this, in levels: twice what is left of a VAE's noise.
const CHANGED: u8 = 25;
/// Changes of fewer pixels than this share of the picture are none, nor are those of fewer than `LEAST_PIXELS`.
const SPECK: f64 = 1e-4;
const LEAST_PIXELS: usize = 12;
/// How far around a change the matte's alpha is taken, in pixels of the model's size: further than resizing mixes the
/// source's edge with its surroundings.
const AROUND: f32 = 3.0;
/// Alpha up to so many levels beside a resized edge is none; the matte has no such values of its own.
const RINGING: u8 = 10;
/// How far colors are continued, in pixels of the model's size.
const REACH: u32 = 8;

/// A layer with its new outline.
#[derive(Debug, Clone)]
pub struct Outline {
    /// The layer.
    pub layer: RgbaImage,
    /// The share of its pixels whose alpha may differ from the source's; all others have exactly that.
    pub changed: f64,
}

/// Brings a matte of the model's size to `size`, with the alpha of `source` wherever the matte's says the same.
///
/// A model sees a layer at its own size, so that its matte has soft edges where a large source has hard ones. Alpha is
/// taken from the matte only around where the two differ, and from the source elsewhere. Colors are the matte's,
/// resized without alpha, as those of other edits.
pub fn outline(matte: RgbaImage, source: &RgbaImage, (width, height): (u32, u32)) -> Outline {
    let (columns, rows) = matte.dimensions();
    let old = alpha_of(source);
    let (seen, found) = (resized(&old, columns, rows), alpha_of(&matte));
    let changed = changed(&seen, &found);
    let colors = lanczos_rgb(&rgb_of(&continued_over(matte, REACH)), width, height);
    let mask = changed.resized(width, height);
    let weights = mask.weights((width / columns.max(1)).max(1));
    let (old, new) = (resized(&old, width, height), without_ringing(resized(&found, width, height)));
    let mix = |((old, new), weight): ((&u8, &u8), &u8)| {
        let weight = u32::from(*weight);
        ((u32::from(*new) * weight + u32::from(*old) * (255 - weight) + 127) / 255) as u8
    };
    let alpha = old.iter().zip(new.iter()).zip(weights.iter()).map(mix).collect();
    Outline { layer: join(&colors, &gray((width, height), alpha)), changed: mask.share() }
}

/// Where alpha changed, and a little around it.
fn changed(old: &GrayImage, new: &GrayImage) -> Mask {
    let (width, height) = (old.width() as usize, old.height() as usize);
    let differs: Vec<bool> = old.iter().zip(new.iter()).map(|(old, new)| old.abs_diff(*new) > CHANGED).collect();
    let count = differs.iter().filter(|differs| **differs).count();
    let least = ((differs.len() as f64 * SPECK) as usize).max(LEAST_PIXELS);
    if count < least {
        return Mask::new(GrayImage::new(old.width(), old.height()));
    }
    let near = distances(width, height, |index| differs[index]);
    let values = near.into_iter().map(|distance| if distance <= AROUND { u8::MAX } else { 0 }).collect();
    Mask::new(gray(old.dimensions(), values))
}

/// Lanczos leaves a few levels beside an edge.
fn without_ringing(mut alpha: GrayImage) -> GrayImage {
    for value in alpha.iter_mut() {
        *value = match *value {
            ..=RINGING => 0,
            value if value >= u8::MAX - RINGING => u8::MAX,
            value => value,
        };
    }
    alpha
}

fn resized(alpha: &GrayImage, width: u32, height: u32) -> GrayImage {
    if alpha.dimensions() == (width, height) { alpha.clone() } else { lanczos_l(alpha, width, height) }
}

#[cfg(test)]
mod tests {
    use ::image::Rgba;

    use super::*;
    use crate::image_processor::{GROUNDS, from_two_grounds, over_ground};

    const SIDE: u32 = 320;

    /// A hard disk, of a radius in pixels, that the colors of its surroundings do not reach.
    fn disk(radius: f64) -> RgbaImage {
        RgbaImage::from_fn(SIDE, SIDE, |x, y| {
            let far = (f64::from(x) - 160.0).hypot(f64::from(y) - 160.0);
            Rgba(if far < radius { [220, 90, 30, 255] } else { [0; 4] })
        })
    }

    /// What a model of a quarter of the size makes of a layer, with noise as of a VAE.
    fn edited(layer: &RgbaImage) -> RgbaImage {
        let mut state = 7_u32;
        let pictures = GROUNDS.map(|ground| {
            let mut picture = lanczos_rgb(&over_ground(layer, ground), SIDE / 4, SIDE / 4);
            for byte in picture.iter_mut() {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = byte.saturating_add((state >> 29) as u8).saturating_sub(3);
            }
            picture
        });
        let clear = resized(&alpha_of(layer), SIDE / 4, SIDE / 4);
        from_two_grounds([&pictures[0], &pictures[1]], &clear.iter().map(|alpha| *alpha == 0).collect::<Vec<_>>())
    }

    #[test]
    fn an_outline_that_did_not_change_is_the_sources_to_the_last_bit() {
        let source = disk(100.0);
        let Outline { layer, changed } = outline(edited(&source), &source, (SIDE, SIDE));
        assert_eq!((changed, alpha_of(&layer)), (0.0, alpha_of(&source)));
        let far = |a: &Rgba<u8>, b: &Rgba<u8>| (0..3).map(|c| a[c].abs_diff(b[c])).max().unwrap_or(0);
        let visible = layer.pixels().zip(source.pixels()).filter(|(_, source)| source[3] > 0);
        let off: Vec<f64> = visible.map(|(new, old)| f64::from(far(new, old))).collect();
        let mean = off.iter().sum::<f64>() / off.len() as f64;
        assert!(mean < 8.0, "colors are those of the layer up to its edge: {mean}");
    }

    #[test]
    fn an_outline_that_grew_or_shrank_is_the_mattes() {
        for (before, after) in [(60.0, 110.0), (110.0, 60.0), (100.0, 0.0)] {
            let (source, wanted) = (disk(before), disk(after));
            let Outline { layer, changed } = outline(edited(&wanted), &source, (SIDE, SIDE));
            assert!(changed > 0.05, "{before} {after}: {changed}");
            for (x, y, pixel) in layer.enumerate_pixels() {
                let far = (f64::from(x) - 160.0).hypot(f64::from(y) - 160.0) - after;
                // An edge of a quarter of the size reaches over some pixels.
                if far.abs() > 10.0 {
                    assert_eq!(pixel[3], if far < 0.0 { 255 } else { 0 }, "{before} {after}: {x} {y}");
                }
            }
        }
    }
}
