//! Layers at the size of the picture that they were made of, and true to it.
//!
//! A model works at its own size, and its layers show the picture a little changed. They are taken as a proposal here,
//! and the picture's own pixels as the truth:
//!
//! 1. `guided_filter` finds how each layer's alpha depends on the colors of the small picture. The coefficients are
//!    resized and applied to the large one, so that alpha gets the edges of the picture.
//! 2. `upsample` resizes the layers' colors, premultiplied. What other layers hide stays as the model painted it.
//! 3. `unmix` changes the colors by as little as possible so that the stack composites to the picture, pixel for pixel.
//!
//! Everything is computed in strips of rows, in parallel; beside the layers themselves it holds only pictures of the
//! model's size.

mod fidelity;
mod guided_filter;
mod unmix;
mod upsample;

use ::image::RgbaImage;
use multiversion::multiversion;
use rayon::prelude::*;

pub use fidelity::{CompositeFidelity, Coverage, fidelity};

use self::{
    unmix::{Unmixed, unmix},
    upsample::Upsampler,
};
use crate::{
    image_processor::{ImageError, lanczos},
    pipeline::ImageSize,
};

/// Rows per strip. Each strip needs memory for one row of the model's size.
const ROWS: usize = 16;
/// A layer's weight at a pixel of the small picture when its color is resized: its alpha, but at least this, so that a
/// color is known where alpha grows.
const LEAST_WEIGHT: f32 = 0.02;

/// What is known of a layer at a pixel: the coefficients of its alpha (for red, green, blue, and the constant), its
/// color times a weight, and the weight. All but the coefficients are from 0 to 1.
pub(crate) type GuidedPixel = [f32; 8];

/// Whether layers of the model's size say less than the picture: it is larger, or has another shape.
pub fn differs(source: (u32, u32), model: (u32, u32)) -> bool {
    let product = |a: u32, b: u32| u64::from(a) * u64::from(b);
    source.0 > model.0 || source.1 > model.1 || product(source.0, model.1) != product(source.1, model.0)
}

/// The size at which a model works on a picture.
pub fn model_size(resolution: u32, (width, height): (u32, u32)) -> (u32, u32) {
    let size = ImageSize::with_area(resolution.saturating_mul(resolution), width, height);
    (size.width, size.height)
}

/// Brings `layers` (back to front, of one size, straight alpha) to the size of `source`, the picture that they were
/// made of, so that their composite is the picture: [`crate::image_processor::composite`] of the result is `source`,
/// byte for byte wherever it is visible.
///
/// The result has the picture's colors where a single layer is seen, and its alpha. Where the picture is opaque, the
/// rearmost layer is opaque wherever it is seen. Fully transparent pixels of a layer are transparent black.
///
/// # Errors
/// [`ImageError`] if there are no layers, or their sizes differ.
pub fn at_source_size(source: &RgbaImage, layers: &[RgbaImage]) -> Result<Vec<RgbaImage>, ImageError> {
    let Some(first) = layers.first() else { return Err(ImageError::NoLayers) };
    let (width, height) = first.dimensions();
    for (index, layer) in layers.iter().enumerate() {
        if layer.dimensions() != (width, height) {
            let ((first_width, first_height), (width, height)) = ((width, height), layer.dimensions());
            return Err(ImageError::LayerSize { index, width, height, first_width, first_height });
        }
    }
    let mut out: Vec<_> = layers.iter().map(|_| RgbaImage::new(source.width(), source.height())).collect();
    let row_bytes = source.width() as usize * 4;
    if row_bytes == 0 || source.height() == 0 || width == 0 || height == 0 {
        return Ok(out);
    }

    let samples = samples(&lanczos(source, width, height), layers);
    let upsampler = Upsampler::new(&samples, layers.len(), (width, height), source.dimensions());
    let mut strips: Vec<Vec<&mut [u8]>> = Vec::new();
    for layer in &mut out {
        for (index, strip) in layer.chunks_mut(ROWS * row_bytes).enumerate() {
            if strips.len() == index {
                strips.push(Vec::with_capacity(layers.len()));
            }
            strips[index].push(strip);
        }
    }
    strips.into_par_iter().zip(source.par_chunks(ROWS * row_bytes)).enumerate().for_each(
        |(index, (mut strip, source))| {
            fill(&mut strip, source, &upsampler, index * ROWS, row_bytes);
        },
    );
    Ok(out)
}

/// All layers' samples at the model's size: those of a pixel are next to each other.
fn samples(small: &RgbaImage, layers: &[RgbaImage]) -> Vec<GuidedPixel> {
    let coefficients = guided_filter::coefficients(small, layers);
    let mut samples = vec![[0.0; 8]; coefficients.len()];
    samples.par_chunks_mut(layers.len()).zip(coefficients.par_chunks(layers.len())).enumerate().for_each(
        |(at, (samples, coefficients))| {
            for ((sample, of_alpha), layer) in samples.iter_mut().zip(coefficients).zip(layers) {
                let [r, g, b, a] = [0, 1, 2, 3].map(|channel| f32::from(layer.as_raw()[at * 4 + channel]) / 255.0);
                let weight = a.max(LEAST_WEIGHT);
                let [x, y, z, constant] = *of_alpha;
                *sample = [x, y, z, constant, r * weight, g * weight, b * weight, weight];
            }
        },
    );
    samples
}

/// Fills a strip of every layer, which begins at the row `top`.
#[multiversion(targets = "simd")]
fn fill(strip: &mut [&mut [u8]], source: &[u8], upsampler: &Upsampler<'_>, top: usize, row_bytes: usize) {
    let layers = strip.len();
    let mut row = vec![[0.0; 8]; upsampler.row_samples()];
    let mut pixel = vec![[0.0; 8]; layers];
    let mut unmixed = Unmixed::new(layers);
    for (y, source) in source.chunks_exact(row_bytes).enumerate() {
        upsampler.row(top + y, &mut row);
        for (x, source) in source.chunks_exact(4).enumerate() {
            let at = y * row_bytes + x * 4;
            let source = [source[0], source[1], source[2], source[3]];
            if source[3] == 0 {
                continue;
            }
            upsampler.pixel(x, &row, &mut pixel);
            unmix(source, &pixel, &mut unmixed);
            for (layer, made) in strip.iter_mut().zip(&unmixed.pixels) {
                layer[at..at + 4].copy_from_slice(made);
            }
        }
    }
}

#[cfg(test)]
mod tests;
