//! Pillow's bicubic resize of 8-bit RGB, byte for byte.
//!
//! Two passes, across and then down, each rounded to bytes, with weights in units of 2^-22. Crates that follow
//! Pillow-SIMD keep 16 bits of a weight and differ by 1 here and there, which a picture processor then multiplies.
//!
//! Source: `Resample.c` in Pillow; the filter is Catmull and Rom's (Keys 1981 with a = -1/2).

use rayon::prelude::*;

use super::processor::RgbPicture;

const CHANNELS: usize = 3;
/// Bits of a weight behind the point: 8 bits of colour and 2 for overshoot leave this much of an `i32`.
const PRECISION: u32 = 32 - 8 - 2;

/// Bytes of `picture` at `width` x `height`, none of them 0.
///
/// The order of the passes shows, since bytes are kept in between: since version 13 Pillow goes down first where the
/// height shrinks by more than twice as many pixels as the width.
pub fn resize(picture: RgbPicture<'_>, width: usize, height: usize) -> Vec<u8> {
    let RgbPicture { width: from_width, height: from_height, pixels } = picture;
    let shrinks = |from: usize, to: usize| from as i64 - to as i64;
    let lost = shrinks(from_height, height);
    if lost > 0 && lost > 2 * shrinks(from_width, width) {
        across(&down(pixels, from_width, from_height, height), from_width, width)
    } else {
        down(&across(pixels, from_width, width), width, from_height, height)
    }
}

/// Rows of `from` pixels to rows of `to`.
fn across(pixels: &[u8], from: usize, to: usize) -> Vec<u8> {
    if from == to {
        return pixels.to_vec();
    }
    let taps = taps(from, to);
    let mut out = vec![0; pixels.len() / from * to];
    let rows = out.par_chunks_exact_mut(to * CHANNELS).zip(pixels.par_chunks_exact(from * CHANNELS));
    rows.for_each(|(out, row)| {
        for (out, Taps { first, weights }) in out.chunks_exact_mut(CHANNELS).zip(&taps) {
            let mut sums = [HALF; CHANNELS];
            for (pixel, &weight) in row[first * CHANNELS..].chunks_exact(CHANNELS).zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(value) * weight;
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = to_byte(sum);
            }
        }
    });
    out
}

/// `from` rows of `width` pixels to `to` rows.
fn down(pixels: &[u8], width: usize, from: usize, to: usize) -> Vec<u8> {
    if from == to {
        return pixels.to_vec();
    }
    let stride = width * CHANNELS;
    let mut out = vec![0; to * stride];
    out.par_chunks_exact_mut(stride).zip(taps(from, to)).for_each(|(out, Taps { first, weights })| {
        let mut sums = vec![HALF; stride];
        for (row, weight) in pixels[first * stride..].chunks_exact(stride).zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * weight;
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = to_byte(sum);
        }
    });
    out
}

const HALF: i32 = 1 << (PRECISION - 1);

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// The source pixels that make up a target pixel.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// Taps of each of `to` pixels along an axis of `from`; the filter is widened when it shrinks.
fn taps(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let widened = scale.max(1.0);
    let narrowed = 1.0 / widened;
    let support = 2.0 * widened;
    (0..to)
        .map(|target| {
            let centre = (target as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let shares: Vec<f64> = (first..end).map(|at| cubic((at as f64 - centre + 0.5) * narrowed)).collect();
            let total: f64 = shares.iter().sum();
            let whole = f64::from(1 << PRECISION);
            Taps { first, weights: shares.iter().map(|share| (share / total * whole).round() as i32).collect() }
        })
        .collect()
}

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
