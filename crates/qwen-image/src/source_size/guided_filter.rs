//! The color guided filter of He, Sun and Tang, "Guided Image Filtering" (IEEE TPAMI 35, 2013), section 3.6, without
//! its last step: the coefficients are applied at another size, as in He and Sun, "Fast Guided Filter" (arXiv
//! 1505.00996).
//!
//! A pixel is in several windows, and the filter takes the mean of what they say. Here, windows count by how well they
//! fit, as in "Weighted aggregation for guided image filtering" (Signal, Image and Video Processing, 2020), and
//! coefficients are shrunk by the share of alpha's variance that they explain. So sharp edges stay sharp, and texture
//! below a soft shadow is not taken for edges of the shadow. docs/fidelity.md has the measurements.

use ::image::RgbaImage;
use rayon::prelude::*;

/// The radius of the windows in pixels of the model's size; a window has 3 x 3 of them.
const RADIUS: usize = 1;
/// How much a color must vary within a window to count as an edge: a variance of values from 0 to 1.
const EPSILON: f32 = 5e-5;
/// The variance of alpha that may be noise: of 3.6 of 255 in alpha, or in what is left of it by a fit of 2.5.
const NOISE: f32 = 2e-4;
const NOISE_OF_FIT: f32 = 1e-4;

/// For each pixel and each of `layers`: `[r, g, b, constant]`, so that the layer's alpha near this pixel is about
/// `r * R + g * G + b * B + constant`, where R, G and B are the colors of `guide` times its alpha. Everything is from 0
/// to 1.
///
/// In each window of the guide, the coefficients are those of a ridge regression of alpha on the colors; a pixel gets
/// the weighted mean over all windows that it is in. `layers` must have the guide's size.
pub fn coefficients(guide: &RgbaImage, layers: &[RgbaImage]) -> Vec<[f32; 4]> {
    let size = (guide.width() as usize, guide.height() as usize);
    let colors: Vec<[f32; 3]> = guide.par_chunks_exact(4).map(premultiplied).collect();
    let products: Vec<[f32; 9]> =
        colors.par_iter().map(|&[r, g, b]| [r, g, b, r * r, r * g, r * b, g * g, g * b, b * b]).collect();
    let windows: Vec<ColorWindow> = box_mean(&products, size).into_par_iter().map(ColorWindow::new).collect();

    let mut found = vec![[0.0; 4]; colors.len() * layers.len()];
    for (index, layer) in layers.iter().enumerate() {
        let with_alpha: Vec<[f32; 5]> = colors
            .par_iter()
            .zip(layer.par_chunks_exact(4))
            .map(|(&[r, g, b], pixel)| {
                let alpha = f32::from(pixel[3]) / 255.0;
                [r * alpha, g * alpha, b * alpha, alpha, alpha * alpha]
            })
            .collect();
        let means = box_mean(&with_alpha, size);
        let fits: Vec<[f32; 5]> =
            means.into_par_iter().zip(&windows).map(|(means, window)| window.fit(means)).collect();
        let fits = box_mean(&fits, size);
        found.par_chunks_mut(layers.len()).zip(fits).for_each(|(found, [x, y, z, constant, weight])| {
            found[index] = [x, y, z, constant].map(|value| value / weight);
        });
    }
    found
}

/// Color times alpha, from 0 to 1.
#[inline(always)]
pub fn premultiplied(pixel: &[u8]) -> [f32; 3] {
    let scale = f32::from(pixel[3]) / (255.0 * 255.0);
    [f32::from(pixel[0]) * scale, f32::from(pixel[1]) * scale, f32::from(pixel[2]) * scale]
}

/// The colors in a window: their mean, and the inverse of their covariance plus `EPSILON`, a symmetric matrix as
/// `[rr, rg, rb, gg, gb, bb]`.
struct ColorWindow {
    mean: [f32; 3],
    inverse: [f32; 6],
}

impl ColorWindow {
    /// From the means of `[r, g, b, rr, rg, rb, gg, gb, bb]`.
    fn new([r, g, b, rr, rg, rb, gg, gb, bb]: [f32; 9]) -> Self {
        let (rr, gg, bb) = (rr - r * r + EPSILON, gg - g * g + EPSILON, bb - b * b + EPSILON);
        let (rg, rb, gb) = (rg - r * g, rb - r * b, gb - g * b);
        let (first, second, third) = (gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg);
        let scale = 1.0 / (rr * first + rg * second + rb * third);
        let inverse = [first, second, third, rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg];
        Self { mean: [r, g, b], inverse: inverse.map(|value| value * scale) }
    }

    /// The regression on the colors, from the means of `[r * alpha, g * alpha, b * alpha, alpha, alpha^2]`: the
    /// coefficients times their weight, and the weight.
    fn fit(&self, [r, g, b, alpha, square]: [f32; 5]) -> [f32; 5] {
        let [mean_r, mean_g, mean_b] = self.mean;
        let (r, g, b) = (r - mean_r * alpha, g - mean_g * alpha, b - mean_b * alpha);
        let [rr, rg, rb, gg, gb, bb] = self.inverse;
        let (x, y, z) = (rr * r + rg * g + rb * b, rg * r + gg * g + gb * b, rb * r + gb * g + bb * b);
        let variance = (square - alpha * alpha).max(0.0);
        // By (covariance + epsilon) x = r, the variance of what the fit leaves is this.
        let explained = x * r + y * g + z * b + EPSILON * (x * x + y * y + z * z);
        let left = (variance - explained).max(0.0);
        let all = variance + NOISE;
        let shrink = (all - left) * variance / (all * all);
        let (x, y, z) = (x * shrink, y * shrink, z * shrink);
        let weight = 1.0 / (left + NOISE_OF_FIT);
        [x, y, z, alpha - x * mean_r - y * mean_g - z * mean_b, 1.0].map(|value| value * weight)
    }
}

/// The mean over the window around each pixel; at the border, over what is inside.
fn box_mean<const C: usize>(values: &[[f32; C]], (width, height): (usize, usize)) -> Vec<[f32; C]> {
    let around = |at: usize, end: usize| at.saturating_sub(RADIUS)..(at + RADIUS + 1).min(end);
    let mut across = vec![[0.0; C]; values.len()];
    across.par_chunks_exact_mut(width).zip(values.par_chunks_exact(width)).for_each(|(out, row)| {
        for (x, out) in out.iter_mut().enumerate() {
            let window = around(x, width);
            let scale = 1.0 / window.len() as f32;
            for values in &row[window] {
                for (out, value) in out.iter_mut().zip(values) {
                    *out += value * scale;
                }
            }
        }
    });
    let mut down = vec![[0.0; C]; values.len()];
    down.par_chunks_exact_mut(width).enumerate().for_each(|(y, out)| {
        let window = around(y, height);
        let scale = 1.0 / window.len() as f32;
        for from in window {
            let row = &across[from * width..(from + 1) * width];
            for (out, value) in out.iter_mut().flatten().zip(row.iter().flatten()) {
                *out += value * scale;
            }
        }
    });
    down
}
