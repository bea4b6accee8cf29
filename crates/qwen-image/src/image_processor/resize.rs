//! Resizing that equals Pillow and torchvision byte for byte, because the models' inputs are made with them.
//!
//! Both resample 8-bit pictures in two passes, across and down, with integer filter weights and bytes in between.
//! Pillow (`libImaging/Resample.c`) rounds the weights to 22 bits. torch's antialiased resize of uint8 tensors, which
//! torchvision calls, uses Pillow-SIMD's 16-bit weights, with as many fractional bits as the largest weight of an axis
//! allows. Existing crates match either only in part, and the last bit matters in the text encoder, so the passes are
//! implemented here.

use ::image::{GrayImage, RgbImage, RgbaImage};
use rayon::prelude::*;

/// `Image.resize((width, height), LANCZOS)` of a picture in mode RGBA: through premultiplied alpha, so that the color
/// of transparent pixels does not bleed into the edges; if the result is fully transparent, that color is lost.
///
/// A side of 0, in the input or output, gives a picture of zeros.
pub fn lanczos(image: &RgbaImage, width: u32, height: u32) -> RgbaImage {
    if image.dimensions() == (width, height) {
        return image.clone();
    }
    let mut premultiplied = image.clone();
    premultiplied.par_chunks_exact_mut(4).for_each(premultiply);
    let mut out = RgbaImage::new(width, height);
    resample::<4>(&premultiplied, image.dimensions(), &mut out, (width, height), LANCZOS, FixedPoint::Pillow);
    out.par_chunks_exact_mut(4).for_each(unpremultiply);
    out
}

/// `Image.resize((width, height), LANCZOS)` of a picture in mode RGB.
pub fn lanczos_rgb(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    let mut out = RgbImage::new(width, height);
    resample::<3>(image, image.dimensions(), &mut out, (width, height), LANCZOS, FixedPoint::Pillow);
    out
}

/// `Image.resize((width, height), LANCZOS)` of a picture in mode L, for instance an alpha channel.
pub fn lanczos_l(image: &GrayImage, width: u32, height: u32) -> GrayImage {
    let mut out = GrayImage::new(width, height);
    resample::<1>(image, image.dimensions(), &mut out, (width, height), LANCZOS, FixedPoint::Pillow);
    out
}

/// `Image.resize((width, height), BICUBIC)` of a picture in mode RGB.
pub fn bicubic_rgb(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    let mut out = RgbImage::new(width, height);
    resample::<3>(image, image.dimensions(), &mut out, (width, height), BICUBIC, FixedPoint::Pillow);
    out
}

/// `torchvision.transforms.v2.functional.resize(.., BICUBIC, antialias=True)` of a uint8 tensor on the CPU.
pub fn bicubic_rgb_torchvision(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    let mut out = RgbImage::new(width, height);
    resample::<3>(image, image.dimensions(), &mut out, (width, height), BICUBIC, FixedPoint::Torch);
    out
}

/// A filter kernel and its radius, in source pixels when nothing is shrunk.
#[derive(Clone, Copy)]
struct ResampleFilter {
    weight: fn(f64) -> f64,
    support: f64,
}

const LANCZOS: ResampleFilter = ResampleFilter { weight: lanczos3, support: 3.0 };
const BICUBIC: ResampleFilter = ResampleFilter { weight: cubic, support: 2.0 };

/// Lanczos with three lobes.
fn lanczos3(x: f64) -> f64 {
    fn sinc(x: f64) -> f64 {
        let x = x * std::f64::consts::PI;
        if x == 0.0 { 1.0 } else { x.sin() / x }
    }
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

/// Keys' cubic convolution with a = -1/2.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// The integer format of the weights.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FixedPoint {
    Pillow,
    Torch,
}

/// 8 bits for the result and 2 for overshoot leave this many bits of an i32.
const MOST_BITS: u32 = 32 - 8 - 2;

impl FixedPoint {
    /// Weights are integers in units of 2^-bits; `largest` is the largest of an axis.
    fn bits(self, largest: f64) -> u32 {
        match self {
            Self::Pillow => MOST_BITS,
            // As many as keep the largest weight below 2^15, so that all fit into an i16.
            Self::Torch => (0..MOST_BITS)
                .find(|bits| (0.5 + largest * f64::from(1 << (bits + 1))) as i32 >= 1 << 15)
                .unwrap_or(MOST_BITS),
        }
    }
}

/// The source pixels of one target pixel: their first index and their weights.
pub(crate) struct Taps<W> {
    pub start: usize,
    pub weights: Vec<W>,
}

/// The taps of Pillow's bicubic filter, for each target pixel along an axis.
pub(crate) fn bicubic_taps(source: u32, target: u32) -> Vec<Taps<f32>> {
    let single = |Taps { start, weights }| Taps {
        start,
        weights: weights.into_iter().map(|weight: f64| weight as f32).collect(),
    };
    shares(source, target, BICUBIC).into_iter().map(single).collect()
}

/// One [`Taps`] for each target pixel along an axis, in units of 2^-bits.
struct Axis {
    taps: Vec<Taps<i32>>,
    bits: u32,
}

impl Axis {
    fn new(source: u32, target: u32, filter: ResampleFilter, weights: FixedPoint) -> Self {
        let shares = shares(source, target, filter);
        let largest = shares.iter().flat_map(|taps| &taps.weights).copied().fold(0.0, f64::max);
        let bits = weights.bits(largest);
        let fixed = |share: &f64| (share * f64::from(1 << bits)).round() as i32;
        let taps = shares
            .iter()
            .map(|Taps { start, weights }| Taps { start: *start, weights: weights.iter().map(fixed).collect() });
        Self { taps: taps.collect(), bits }
    }

    /// Half of a unit of the result, the initial value of sums.
    fn half(&self) -> i32 {
        1 << (self.bits - 1)
    }

    fn to_byte(&self, sum: i32) -> u8 {
        (sum >> self.bits).clamp(0, 255) as u8
    }
}

/// Weights that sum to 1 for each target pixel. When shrinking, the filter is widened by the ratio.
fn shares(source: u32, target: u32, filter: ResampleFilter) -> Vec<Taps<f64>> {
    let scale = f64::from(source) / f64::from(target);
    let stretch = scale.max(1.0);
    let support = filter.support * stretch;
    // Both libraries multiply by the reciprocal; dividing would round differently.
    let shrink = 1.0 / stretch;
    (0..target)
        .map(|index| {
            let center = (f64::from(index) + 0.5) * scale;
            // Casts truncate toward zero and saturate at the limits of the type, as needed at the left border.
            let start = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(source as usize);
            let mut weights: Vec<f64> =
                (start..end).map(|x| (filter.weight)((x as f64 - center + 0.5) * shrink)).collect();
            let total: f64 = weights.iter().sum();
            if total != 0.0 {
                weights.iter_mut().for_each(|weight| *weight /= total);
            }
            Taps { start, weights }
        })
        .collect()
}

/// Both passes over interleaved pixels of `C` channels; a pass that does not change the size is skipped.
///
/// The order affects the last bit, because bytes are stored in between. torch resizes horizontally first. So does
/// Pillow, but since version 13 it resizes vertically first if the height shrinks by more than twice as many pixels as
/// the width.
fn resample<const C: usize>(
    source: &[u8],
    from: (u32, u32),
    target: &mut [u8],
    to: (u32, u32),
    filter: ResampleFilter,
    weights: FixedPoint,
) {
    if source.is_empty() || target.is_empty() {
        return;
    }
    let shrinks = |source: u32, target: u32| i64::from(source) - i64::from(target);
    let down_first =
        weights == FixedPoint::Pillow && from.1 > to.1 && shrinks(from.1, to.1) > 2 * shrinks(from.0, to.0);
    let between = if down_first { (from.0, to.1) } else { (to.0, from.1) };

    let pass = |source: &[u8], from: (u32, u32), target: &mut [u8], to: (u32, u32)| {
        let (from_row, to_row) = (from.0 as usize * C, to.0 as usize * C);
        if from.0 != to.0 {
            let columns = Axis::new(from.0, to.0, filter, weights);
            let rows = target.par_chunks_exact_mut(to_row).zip(source.par_chunks_exact(from_row));
            rows.for_each(|(out, row)| across_row::<C>(row, out, &columns));
        } else if from.1 != to.1 {
            let lines = Axis::new(from.1, to.1, filter, weights);
            let rows = target.par_chunks_exact_mut(to_row).zip(&lines.taps);
            rows.for_each(|(out, taps)| down_row(source, out, taps, &lines));
        } else {
            target.copy_from_slice(source);
        }
    };
    if between == from || between == to {
        pass(source, from, target, to);
    } else {
        let mut half = vec![0; between.0 as usize * between.1 as usize * C];
        pass(source, from, &mut half, between);
        pass(&half, between, target, to);
    }
}

fn across_row<const C: usize>(row: &[u8], out: &mut [u8], columns: &Axis) {
    for (out, taps) in out.chunks_exact_mut(C).zip(&columns.taps) {
        let mut sums = [columns.half(); C];
        for (pixel, weight) in row[taps.start * C..].chunks_exact(C).zip(&taps.weights) {
            for (sum, value) in sums.iter_mut().zip(pixel) {
                *sum += i32::from(*value) * weight;
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = columns.to_byte(sum);
        }
    }
}

fn down_row(rows: &[u8], out: &mut [u8], taps: &Taps<i32>, lines: &Axis) {
    let mut sums = vec![lines.half(); out.len()];
    for (row, weight) in rows.chunks_exact(out.len()).skip(taps.start).zip(&taps.weights) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += i32::from(*value) * weight;
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = lines.to_byte(sum);
    }
}

/// Pillow's RGBA -> RGBa: the rounded product over 255, without a division.
fn premultiply(pixel: &mut [u8]) {
    let alpha = u32::from(pixel[3]);
    for value in &mut pixel[..3] {
        let product = u32::from(*value) * alpha + 128;
        *value = (((product >> 8) + product) >> 8) as u8;
    }
}

/// Pillow's RGBa -> RGBA: a truncating division; overshoot of the filter is clipped.
fn unpremultiply(pixel: &mut [u8]) {
    let alpha = u32::from(pixel[3]);
    if alpha == 0 || alpha == 255 {
        return;
    }
    for value in &mut pixel[..3] {
        *value = (u32::from(*value) * 255 / alpha).min(255) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::{premultiply, unpremultiply};

    #[test]
    fn premultiplying_and_back_equals_pillow_for_every_value_and_alpha() {
        let stored = include_bytes!("../../../../tests/image/premultiplied.png");
        #[expect(clippy::disallowed_methods, reason = "a file of this project")]
        let expected = ::image::load_from_memory(stored).expect("a picture").into_luma8();
        for (value, alpha, pillow) in expected.enumerate_pixels() {
            let mut pixel = [value as u8, value as u8, value as u8, alpha as u8];
            premultiply(&mut pixel);
            unpremultiply(&mut pixel);
            assert_eq!(pixel[0], pillow.0[0], "value {value} at alpha {alpha}");
        }
    }
}
