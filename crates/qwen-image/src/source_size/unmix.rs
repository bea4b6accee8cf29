//! Alpha and colors of a stack at one pixel, so that it composites to the pixel of the picture.

use super::{GuidedPixel, guided_filter::premultiplied};

/// Alpha below the first is 0, above the second 1: the noise of a decoder is not seen through or through to.
const CLEAR: f32 = 0.02;
const OPAQUE: f32 = 0.98;
/// The rounded colors composite to the picture's byte if the sum is off by less than half of it. The rest is for the
/// rounding of sums.
const CLOSE: f32 = 0.49;

/// A pixel of each layer, back to front, and what it is computed with.
pub struct Unmixed {
    pub pixels: Vec<[u8; 4]>,
    /// The share of each layer in what is seen. They sum to 1.
    shares: Vec<f32>,
    /// From 0 to 255.
    colors: Vec<[f32; 3]>,
}

impl Unmixed {
    pub fn new(layers: usize) -> Self {
        Self { pixels: vec![[0; 4]; layers], shares: vec![0.0; layers], colors: vec![[0.0; 3]; layers] }
    }
}

/// Finds the pixels of all layers for a pixel of the picture, which must not be fully transparent.
#[inline(always)]
pub fn unmix(source: [u8; 4], samples: &[GuidedPixel], out: &mut Unmixed) {
    alphas(source, samples, out);
    let Unmixed { pixels, shares, colors } = out;
    for (color, sample) in colors.iter_mut().zip(samples) {
        // A bicubic filter may give a little less than the least weight.
        let scale = 255.0 / sample[7].max(super::LEAST_WEIGHT / 2.0);
        *color = [sample[4], sample[5], sample[6]].map(|value| (value * scale).clamp(0.0, 255.0));
    }
    match shares.iter().position(|share| *share > 0.9999) {
        Some(only) => {
            colors.iter_mut().flatten().for_each(|value| *value = value.round());
            colors[only] = [source[0], source[1], source[2]].map(f32::from);
        }
        None => (0..3).for_each(|channel| composite_to(f32::from(source[channel]), shares, colors, channel)),
    }
    for (pixel, color) in pixels.iter_mut().zip(colors) {
        match pixel[3] {
            0 => *pixel = [0; 4],
            alpha => *pixel = [color[0] as u8, color[1] as u8, color[2] as u8, alpha],
        }
    }
}

/// Alpha by the samples' coefficients, from the top down. A layer gets at most as much as leaves the picture's own
/// alpha to the layers below, and the rearmost layer makes up the difference.
#[inline(always)]
fn alphas(source: [u8; 4], samples: &[GuidedPixel], out: &mut Unmixed) {
    let [r, g, b] = premultiplied(&source);
    // What must be let through in all, and what the layers so far let through.
    let (behind, mut through) = (1.0 - f32::from(source[3]) / 255.0, 1.0_f32);
    let from_top = samples.iter().zip(&mut out.pixels).zip(&mut out.shares).enumerate().rev();
    for (index, ((sample, pixel), share)) in from_top {
        let guess = sample[0] * r + sample[1] * g + sample[2] * b + sample[3];
        let guess = if guess < CLEAR {
            0.0
        } else if guess > OPAQUE {
            255.0
        } else {
            (guess * 255.0).round()
        };
        let most = if behind > 0.0 { 255.0 * (1.0 - behind / through).max(0.0) } else { 255.0 };
        let alpha = match index {
            0 if behind > 0.0 || through > 0.0 => most.round(),
            _ => guess.min((most + 0.001).floor()),
        };
        pixel[3] = alpha as u8;
        *share = through * alpha / 255.0;
        through *= 1.0 - alpha / 255.0;
    }
    let seen = 1.0 / (1.0 - through);
    out.shares.iter_mut().for_each(|share| *share *= seen);
}

/// Changes one channel of the colors, by the least sum of squares, so that their sum by `shares` is `target`, within 0
/// to 255; then rounds them.
///
/// Without the bounds, the least change of color i is `error * share_i / sum(share^2)`. What the bounds cut off is
/// shared out again among the colors that still have room. As the shares sum to 1, nothing is left in the end.
#[inline(always)]
fn composite_to(target: f32, shares: &[f32], colors: &mut [[f32; 3]], channel: usize) {
    let sum = |colors: &[[f32; 3]]| colors.iter().zip(shares).map(|(color, share)| color[channel] * share).sum::<f32>();
    for _ in 0..shares.len() {
        let error = target - sum(colors);
        let has_room = |color: f32| if error > 0.0 { color < 255.0 } else { color > 0.0 };
        let squares =
            colors.iter().zip(shares).filter(|(color, _)| has_room(color[channel])).map(|(_, share)| share * share);
        let squares: f32 = squares.sum();
        if error.abs() < 0.01 || squares <= 0.0 {
            break;
        }
        let step = error / squares;
        for (color, share) in colors.iter_mut().zip(shares) {
            // One without room stays at its bound.
            color[channel] = (color[channel] + step * share).clamp(0.0, 255.0);
        }
    }
    colors.iter_mut().for_each(|color| color[channel] = color[channel].round());
    for _ in 0..shares.len() {
        let error = target - sum(colors);
        if error.abs() <= CLOSE {
            break;
        }
        let step = error.signum();
        let helps = |color: f32, share: f32| {
            (0.0..=255.0).contains(&(color + step)) && (error - step * share).abs() < error.abs()
        };
        let movable = colors.iter_mut().zip(shares).filter(|(color, share)| helps(color[channel], **share));
        let Some((color, _)) = movable.max_by(|(_, a), (_, b)| a.total_cmp(b)) else { break };
        color[channel] += step;
    }
}
