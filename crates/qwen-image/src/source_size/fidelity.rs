//! How true layers are to their picture.

use ::image::RgbaImage;
use rayon::prelude::*;

use crate::image_processor::{ImageError, composite, lanczos};

/// Alpha of this and more counts as visible.
const VISIBLE: u8 = 26;
/// A layer with a smaller share of visible pixels is empty.
const EMPTY: f64 = 0.0001;

/// The difference between composited layers and their picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CompositeFidelity {
    /// Peak signal-to-noise ratio in dB: `10 log10(255^2 / mean squared error)`. None: there is no difference.
    pub psnr: Option<f64>,
    /// The largest difference of a channel, of 255.
    pub max_error: u8,
}

/// The part of its picture that a layer covers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coverage {
    /// The mean of its alpha, from 0 to 1.
    pub area: f64,
    /// Whether next to nothing is visible: fewer than 1 in 10,000 pixels have a tenth of full opacity.
    pub is_empty: bool,
}

/// Composes `layers`, back to front, and compares the result with `source`, which is resized to their size as for the
/// models, if it has another one.
///
/// Compared are red, green and blue, times alpha, and alpha as a fourth channel if the picture is not opaque.
///
/// # Errors
/// [`ImageError`] if there are no layers, or their sizes differ.
pub fn fidelity(source: &RgbaImage, layers: &[RgbaImage]) -> Result<CompositeFidelity, ImageError> {
    let made = composite(layers)?;
    let resized;
    let source = if source.dimensions() == made.dimensions() {
        source
    } else {
        resized = lanczos(source, made.width(), made.height());
        &resized
    };
    // Rows, so that sums of bytes stay exact in integers.
    let row = (source.width() as usize * 4).max(4);
    let (squares, largest, opaque) = source
        .par_chunks_exact(row)
        .zip(made.par_chunks_exact(row))
        .map(|(source, made)| compare_rows(source, made))
        .reduce(|| (0.0, 0.0, true), |a, b| (a.0 + b.0, a.1.max(b.1), a.2 && b.2));
    let channels = if opaque { 3.0 } else { 4.0 };
    let mean = squares / (channels * (source.len() / 4).max(1) as f64);
    let psnr = (mean > 0.0).then(|| 10.0 * (255.0 * 255.0 / mean).log10());
    Ok(CompositeFidelity { psnr, max_error: largest.round() as u8 })
}

/// The sum of squared differences, the largest difference, and whether the picture is opaque.
fn compare_rows(source: &[u8], made: &[u8]) -> (f64, f32, bool) {
    let (mut squares, mut largest, mut opaque) = (0.0, 0.0_f32, true);
    for (source, made) in source.chunks_exact(4).zip(made.chunks_exact(4)) {
        if source == made {
            opaque &= source[3] == 255;
            continue;
        }
        let channel = |pixel: &[u8], index: usize| {
            let alpha = f32::from(pixel[3]);
            if index == 3 { alpha } else { f32::from(pixel[index]) * alpha / 255.0 }
        };
        opaque &= source[3] == 255;
        for index in 0..4 {
            let difference = (channel(source, index) - channel(made, index)).abs();
            squares += f64::from(difference * difference);
            largest = largest.max(difference);
        }
    }
    (squares, largest, opaque)
}

impl Coverage {
    /// Of a layer.
    pub fn of(layer: &RgbaImage) -> Self {
        let pixels = (layer.len() / 4).max(1) as f64;
        let (alpha, visible) = layer
            .par_chunks(1 << 16)
            .map(|part| {
                let alphas = part.chunks_exact(4).map(|pixel| pixel[3]);
                alphas.fold((0_u64, 0_u64), |(sum, seen), alpha| {
                    (sum + u64::from(alpha), seen + u64::from(alpha >= VISIBLE))
                })
            })
            .reduce(|| (0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        Self { area: alpha as f64 / 255.0 / pixels, is_empty: (visible as f64) < EMPTY * pixels }
    }
}
