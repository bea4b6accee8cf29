//! Resizing of samples, by rows.

use super::GuidedPixel;
use crate::image_processor::{Taps, bicubic_taps};

/// Resizes samples with Pillow's bicubic filter (Keys' cubic convolution with a = -1/2), which is widened where a side
/// shrinks.
pub struct Upsampler<'a> {
    samples: &'a [GuidedPixel],
    /// Samples per pixel.
    layers: usize,
    width: usize,
    columns: Vec<Taps<f32>>,
    rows: Vec<Taps<f32>>,
}

impl<'a> Upsampler<'a> {
    /// `samples` are `from.0` x `from.1` pixels of `layers` samples each, and become `to.0` x `to.1` pixels.
    pub fn new(samples: &'a [GuidedPixel], layers: usize, from: (u32, u32), to: (u32, u32)) -> Self {
        Self {
            samples,
            layers,
            width: from.0 as usize,
            columns: bicubic_taps(from.0, to.0),
            rows: bicubic_taps(from.1, to.1),
        }
    }

    /// The length of the buffer for [`Self::row`].
    pub fn row_samples(&self) -> usize {
        self.width * self.layers
    }

    /// A row of the target's height and the source's width.
    #[inline(always)]
    pub fn row(&self, y: usize, row: &mut [GuidedPixel]) {
        let Taps { start, weights } = &self.rows[y];
        row.fill([0.0; 8]);
        for (source, weight) in self.samples.chunks_exact(row.len()).skip(*start).zip(weights) {
            for (out, sample) in row.iter_mut().zip(source) {
                add(out, sample, *weight);
            }
        }
    }

    /// The samples of a pixel in such a row.
    #[inline(always)]
    pub fn pixel(&self, x: usize, row: &[GuidedPixel], pixel: &mut [GuidedPixel]) {
        let Taps { start, weights } = &self.columns[x];
        pixel.fill([0.0; 8]);
        for (source, weight) in row.chunks_exact(self.layers).skip(*start).zip(weights) {
            for (out, sample) in pixel.iter_mut().zip(source) {
                add(out, sample, *weight);
            }
        }
    }
}

#[inline(always)]
fn add(out: &mut GuidedPixel, sample: &GuidedPixel, weight: f32) {
    for (out, value) in out.iter_mut().zip(sample) {
        *out += value * weight;
    }
}
