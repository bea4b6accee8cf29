//! Finds what an edit changed, so that everything else can be put back.

use ::image::RgbImage;

use super::{
    distance::distances,
    mask::{Mask, gray},
    registration::Plane,
};

/// Differences are looked at after a blur of this radius, which removes what the VAE does to single pixels.
const BLUR: usize = 1;
/// A pixel changed if its difference is so many times that of the calmest quarter of the picture, in these bounds, in
/// levels.
const TIMES: f32 = 4.0;
const LEAST: f32 = 12.0;
const MOST: f32 = 40.0;
/// So does one beside it with this share of the difference.
const BESIDE: f32 = 0.5;
/// Changes of fewer pixels than this share of the picture are none, nor are those of fewer than `LEAST_PIXELS`.
const SPECK: f64 = 1e-4;
const LEAST_PIXELS: usize = 20;
/// How far around a change the picture may change as well, as a share of its shorter side.
const AROUND: f32 = 0.012;

/// The mask of what `edited` changed of `source`. Both have one size, and are at the same place
/// ([`Drift`](super::Drift)).
pub fn changes(source: &RgbImage, edited: &RgbImage) -> Mask {
    let (width, height) = (source.width() as usize, source.height() as usize);
    let difference = differences(source, edited);
    let mut sorted = difference.clone();
    let quarter = sorted.len() / 4;
    let calm = if sorted.is_empty() { 0.0 } else { *sorted.select_nth_unstable_by(quarter, f32::total_cmp).1 };
    let threshold = (TIMES * calm).clamp(LEAST, MOST);
    let least = ((sorted.len() as f64 * SPECK) as usize).max(LEAST_PIXELS);
    let changed = regions(&difference, width, threshold, least);
    let around = (AROUND * width.min(height) as f32).max(2.0);
    let near = distances(width, height, |index| changed[index]);
    let values = near.into_iter().map(|distance| if distance <= around { u8::MAX } else { 0 }).collect();
    Mask::new(gray(source.dimensions(), values))
}

/// The largest difference of the three colors for each pixel.
fn differences(source: &RgbImage, edited: &RgbImage) -> Vec<f32> {
    let mut largest = vec![0.0_f32; source.len() / 3];
    for channel in 0..3 {
        let change = |index: usize| {
            let at = 3 * index + channel;
            f32::from(edited.as_raw()[at]) - f32::from(source.as_raw()[at])
        };
        let width = source.width() as usize;
        let plane = Plane::from_fn(width, source.height() as usize, |x, y| change(y * width + x)).blurred(BLUR);
        largest.iter_mut().zip(plane.values).for_each(|(largest, value)| *largest = largest.max(value.abs()));
    }
    largest
}

/// The connected regions that reach the threshold somewhere, down to [`BESIDE`] of it; small ones are left out.
fn regions(difference: &[f32], width: usize, threshold: f32, least: usize) -> Vec<bool> {
    let mut changed = vec![false; difference.len()];
    let mut seen = vec![false; difference.len()];
    let height = difference.len() / width.max(1);
    for start in 0..difference.len() {
        if seen[start] || difference[start] < threshold {
            continue;
        }
        seen[start] = true;
        let mut region = vec![start];
        let mut next = 0;
        while let Some(&index) = region.get(next) {
            next += 1;
            let (x, y) = (index % width, index / width);
            let beside = [
                (x > 0).then(|| index - 1),
                (x + 1 < width).then_some(index + 1),
                (y > 0).then(|| index - width),
                (y + 1 < height).then_some(index + width),
            ];
            for other in beside.into_iter().flatten() {
                if !seen[other] && difference[other] >= BESIDE * threshold {
                    seen[other] = true;
                    region.push(other);
                }
            }
        }
        if region.len() >= least {
            region.into_iter().for_each(|index| changed[index] = true);
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use ::image::Rgb;

    use super::*;
    use crate::image_processor::MaskCoverage;

    /// A picture, and the same with noise as of a VAE.
    fn pair() -> (RgbImage, RgbImage) {
        let source = RgbImage::from_fn(160, 120, |x, y| Rgb([(x + y) as u8, (2 * y) as u8, 90]));
        let mut edited = source.clone();
        let mut state = 7_u32;
        for byte in edited.iter_mut() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = byte.saturating_add((state >> 29) as u8).saturating_sub(3);
        }
        (source, edited)
    }

    #[test]
    fn only_what_changed_is_found() {
        let (source, mut edited) = pair();
        assert_eq!(changes(&source, &edited).coverage(), MaskCoverage::Empty);
        for (x, y, pixel) in edited.enumerate_pixels_mut() {
            if (40..70).contains(&x) && (30..60).contains(&y) {
                *pixel = Rgb([250, 10, 10]);
            }
        }
        *edited.get_pixel_mut(150, 100) = Rgb([255, 255, 255]);
        let found = changes(&source, &edited);
        let weights = found.weights(0);
        for (x, y, weight) in weights.enumerate_pixels() {
            let (x, y) = (i64::from(x), i64::from(y));
            let outside = (40 - x).max(x - 69).max(30 - y).max(y - 59);
            assert!(outside > 0 || weight[0] == 255, "{x} {y} changed");
            assert!(outside < 6 || weight[0] == 0, "{x} {y} did not change");
        }
        assert!((0.04..0.09).contains(&found.share()), "{}", found.share());
    }

    #[test]
    fn a_change_of_everything_is_everything() {
        let (source, mut edited) = pair();
        edited.iter_mut().for_each(|byte| *byte = byte.saturating_add(60) / 2 + 90);
        let share = changes(&source, &edited).share();
        assert!(share > 0.8, "{share}");
    }
}
