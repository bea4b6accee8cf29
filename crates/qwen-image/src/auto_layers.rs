//! As many layers as the picture has: a decompose that asked for more leaves empty layers, and two of one thing.

use ::image::RgbaImage;

use crate::{image_processor::composite, source_size::Coverage};

/// Layers whose alphas overlap so far (soft intersection over union) show one thing.
const SAME: f64 = 0.8;
/// A layer of which so much lies within another one of the same color is a part of it.
const WITHIN: f64 = 0.9;
/// The mean difference of a channel up to which colors are the same, of 255.
const LIKE: f64 = 12.0;
/// How much of a layer may overlap with those that it passes when its place changes.
const APART: f64 = 0.005;

/// Keeps as many of `layers` (back to front, of one size) as the picture has: drops those that show nothing, and merges
/// those that show the same. The rearmost stays the rearmost, at least one layer stays, and what they compose to is the
/// same, to within rounding and the trace of alpha of the dropped ones.
///
/// Two layers are merged if their alphas are nearly the same, or if one lies within the other and has its color. None
/// is moved over or under a layer that it overlaps.
pub fn auto_layers(layers: Vec<RgbaImage>) -> Vec<RgbaImage> {
    let mut kept: Vec<RgbaImage> = Vec::with_capacity(layers.len());
    let mut empty = None;
    for layer in layers {
        if Coverage::of(&layer).is_empty {
            empty = empty.or(Some(layer));
        } else {
            kept.push(layer);
        }
    }
    while let Some((back, front, merged)) = next_merge(&kept) {
        kept[back] = merged;
        kept.remove(front);
    }
    if kept.is_empty() {
        kept.extend(empty);
    }
    kept
}

/// The first two layers that are one, and that one.
fn next_merge(layers: &[RgbaImage]) -> Option<(usize, usize, RgbaImage)> {
    for front in 1..layers.len() {
        for back in (0..front).rev() {
            let overlap = Overlap::of(&layers[back], &layers[front]);
            let is_part = back > 0 && overlap.smaller() >= WITHIN && overlap.difference <= LIKE;
            if (overlap.union() >= SAME || is_part) && can_meet(&layers[back..=front]) {
                let merged = composite(&[layers[back].clone(), layers[front].clone()]).ok()?;
                return Some((back, front, merged));
            }
        }
    }
    None
}

/// Whether the last of `layers` can come down to the first one, past those between.
fn can_meet(layers: &[RgbaImage]) -> bool {
    let [_, between @ .., front] = layers else { return false };
    between.iter().all(|layer| Overlap::of(layer, front).smaller() <= APART)
}

/// How two layers of one size overlap.
struct Overlap {
    /// The sums of alpha, from 0 to 1, over all pixels: of both, and of the smaller one at each pixel.
    areas: [f64; 2],
    both: f64,
    /// The mean difference of the colors where both are seen, of 255.
    difference: f64,
}

impl Overlap {
    fn of(a: &RgbaImage, b: &RgbaImage) -> Self {
        let (mut areas, mut both, mut differences) = ([0u64; 2], 0u64, 0u64);
        for (a, b) in a.chunks_exact(4).zip(b.chunks_exact(4)) {
            let least = u64::from(a[3].min(b[3]));
            areas[0] += u64::from(a[3]);
            areas[1] += u64::from(b[3]);
            both += least;
            let difference: u64 = (0..3).map(|channel| u64::from(a[channel].abs_diff(b[channel]))).sum();
            differences += least * difference;
        }
        let difference = differences as f64 / (3 * both.max(1)) as f64;
        Self { areas: areas.map(|area| area as f64), both: both as f64, difference }
    }

    fn union(&self) -> f64 {
        self.both / (self.areas[0] + self.areas[1] - self.both).max(1.0)
    }

    fn smaller(&self) -> f64 {
        self.both / self.areas[0].min(self.areas[1]).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use ::image::Rgba;

    use super::*;

    const SIDE: u32 = 64;

    fn ground() -> RgbaImage {
        RgbaImage::from_fn(SIDE, SIDE, |x, y| Rgba([x as u8, 90, y as u8, 255]))
    }

    fn disk(at: (u32, u32), radius: f64, color: [u8; 3]) -> RgbaImage {
        RgbaImage::from_fn(SIDE, SIDE, |x, y| {
            let far = (f64::from(x) - f64::from(at.0)).hypot(f64::from(y) - f64::from(at.1));
            let alpha = ((radius - far + 0.5).clamp(0.0, 1.0) * 255.0) as u8;
            Rgba([color[0], color[1], color[2], alpha])
        })
    }

    fn trace() -> RgbaImage {
        RgbaImage::from_pixel(SIDE, SIDE, Rgba([9, 9, 9, 1]))
    }

    fn difference(a: &RgbaImage, b: &RgbaImage) -> u8 {
        a.iter().zip(b.iter()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
    }

    #[track_caller]
    fn gives(layers: Vec<RgbaImage>, wanted: usize) -> Vec<RgbaImage> {
        let whole = composite(&layers).unwrap();
        let kept = auto_layers(layers);
        assert_eq!(kept.len(), wanted);
        let off = difference(&whole, &composite(&kept).unwrap());
        assert!(off <= 4, "{off}");
        kept
    }

    #[test]
    fn what_shows_nothing_is_dropped_and_everything_else_stays() {
        let [red, blue] = [disk((20, 20), 9.0, [200, 0, 0]), disk((44, 40), 11.0, [0, 0, 200])];
        let kept = gives(vec![ground(), trace(), red.clone(), trace(), blue.clone(), trace()], 3);
        assert_eq!(kept, [ground(), red.clone(), blue.clone()]);
        // Nothing of this is one thing: they overlap a little, one lies within another of another color, and an object
        // has the color of its ground.
        let over = disk((27, 24), 9.0, [200, 0, 0]);
        let within = disk((44, 40), 4.0, [240, 240, 0]);
        gives(vec![ground(), red, over, blue, within], 5);
        gives(vec![RgbaImage::from_pixel(SIDE, SIDE, Rgba([200, 0, 0, 255])), disk((20, 20), 9.0, [200, 0, 0])], 2);
        assert_eq!(auto_layers(vec![trace(), trace()]).len(), 1);
        assert!(auto_layers(Vec::new()).is_empty());
    }

    #[test]
    fn two_of_one_thing_are_merged_where_that_changes_nothing() {
        let red = disk((20, 20), 12.0, [200, 0, 0]);
        // Twice the same, with another layer between, and a part of it in a layer of its own.
        let again = disk((20, 20), 11.5, [196, 3, 0]);
        let part = disk((24, 18), 4.0, [203, 0, 2]);
        let blue = disk((48, 46), 9.0, [0, 0, 200]);
        gives(vec![ground(), red.clone(), blue.clone(), again.clone(), part], 3);
        gives(vec![ground(), ground(), red.clone()], 2);
        // What lies between would be covered otherwise.
        let between = disk((28, 24), 9.0, [0, 200, 0]);
        gives(vec![ground(), red, between, again], 4);
    }
}
