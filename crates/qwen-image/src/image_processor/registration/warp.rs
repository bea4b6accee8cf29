//! Moves the pixels of a picture by an affine map.

use std::f32::consts::PI;

use ::image::RgbImage;
use rayon::prelude::*;

use super::affine::Affine;

/// Places between two pixels for which there are weights.
const PHASES: usize = 512;
const TAPS: usize = 6;

/// The picture whose pixel at x is the one of `picture` at `map(x)`, with three lobes of Lanczos. Beyond its edges the
/// picture is mirrored.
pub fn warped(picture: &RgbImage, map: &Affine) -> RgbImage {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let center = [(width as f64 - 1.0) / 2.0, (height as f64 - 1.0) / 2.0];
    let weights: Vec<[f32; TAPS]> = (0..=PHASES).map(|phase| lanczos(phase as f32 / PHASES as f32)).collect();
    let bytes = picture.as_raw();
    let mut out = RgbImage::new(picture.width(), picture.height());
    out.par_chunks_exact_mut(3 * width.max(1)).enumerate().for_each(|(y, row)| {
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            let [from_x, from_y] = map.apply([x as f64 - center[0], y as f64 - center[1]]);
            let (columns, across) = taps(from_x + center[0], width, &weights);
            let (rows, down) = taps(from_y + center[1], height, &weights);
            let mut sums = [0.0_f32; 3];
            for (row, down) in rows.iter().zip(down) {
                for (column, across) in columns.iter().zip(across) {
                    let start = 3 * (row * width + column);
                    for (sum, byte) in sums.iter_mut().zip(&bytes[start..start + 3]) {
                        *sum += f32::from(*byte) * down * across;
                    }
                }
            }
            pixel.iter_mut().zip(sums).for_each(|(byte, sum)| *byte = sum.round().clamp(0.0, 255.0) as u8);
        }
    });
    out
}

/// The pixels around a place, and their weights.
fn taps(at: f64, length: usize, weights: &[[f32; TAPS]]) -> ([usize; TAPS], [f32; TAPS]) {
    let start = at.floor();
    let phase = ((at - start) * PHASES as f64).round() as usize;
    (std::array::from_fn(|tap| mirrored(start as i64 + tap as i64 - 2, length)), weights[phase.min(PHASES)])
}

fn mirrored(at: i64, length: usize) -> usize {
    let period = 2 * length as i64;
    let at = at.rem_euclid(period);
    (if at < length as i64 { at } else { period - 1 - at }) as usize
}

/// The weights of the six pixels around a place, `at` from the third one. Their sum is 1.
fn lanczos(at: f32) -> [f32; TAPS] {
    let sinc = |x: f32| if x.abs() < 1e-6 { 1.0 } else { (PI * x).sin() / (PI * x) };
    let weights: [f32; TAPS] = std::array::from_fn(|tap| {
        let x = at + 2.0 - tap as f32;
        if x.abs() < 3.0 { sinc(x) * sinc(x / 3.0) } else { 0.0 }
    });
    let sum: f32 = weights.iter().sum();
    weights.map(|weight| weight / sum)
}
