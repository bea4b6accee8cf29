//! The pixels of a stack: those of each layer, and the composite of the visible ones.

use std::borrow::Cow;

use ::image::RgbaImage;

use qwen_image::image_processor::composite;

use super::Sheet;
use crate::{
    image::{Limits, decode},
    job::JobError,
};

pub(super) struct Merged {
    /// One per sheet, as stored, without opacity.
    pub layers: Vec<RgbaImage>,
    /// The composite of the visible sheets, on a transparent background.
    pub whole: RgbaImage,
}

impl Merged {
    pub fn of(sheets: &[Sheet], limits: &Limits) -> Result<Self, JobError> {
        if sheets.is_empty() {
            return Err(JobError::invalid("layers", "there are none to export; at least one is needed"));
        }
        let mut layers: Vec<RgbaImage> = Vec::with_capacity(sheets.len());
        for (index, sheet) in sheets.iter().enumerate() {
            if !(0.0..=1.0).contains(&sheet.opacity) {
                let reason = format!("{} is not a number from 0 (invisible) to 1 (opaque)", sheet.opacity);
                return Err(JobError::invalid(format!("layers[{index}].opacity"), reason));
            }
            let layer = decode(&sheet.file, &sheet.png, limits)?.pixels;
            if let Some(first) = layers.first().filter(|first| first.dimensions() != layer.dimensions()) {
                return Err(other_size(sheet, &layer, &sheets[0], first));
            }
            layers.push(layer);
        }
        let shown = sheets.iter().zip(&layers).filter(|(sheet, _)| sheet.visible && sheet.opacity > 0.0);
        let shown: Vec<Cow<'_, RgbaImage>> = shown.map(|(sheet, layer)| faded(layer, sheet.opacity)).collect();
        let whole =
            if shown.is_empty() { RgbaImage::new(layers[0].width(), layers[0].height()) } else { composite(&shown)? };
        Ok(Self { layers, whole })
    }

    /// The size of every layer, in pixels.
    pub fn size(&self) -> (u32, u32) {
        self.whole.dimensions()
    }
}

fn other_size(sheet: &Sheet, layer: &RgbaImage, other: &Sheet, first: &RgbaImage) -> JobError {
    let ((width, height), (first_width, first_height)) = (layer.dimensions(), first.dimensions());
    JobError::InvalidImage {
        input: sheet.file.clone(),
        reason: format!(
            "it is {width}x{height} pixels but {} is {first_width}x{first_height}; all layers must have the same \
             size (an edit with output_size \"source\" keeps it)",
            other.file
        ),
    }
}

/// The layer with its alpha times `opacity`.
fn faded(layer: &RgbaImage, opacity: f32) -> Cow<'_, RgbaImage> {
    if opacity == 1.0 {
        return Cow::Borrowed(layer);
    }
    let mut layer = layer.clone();
    for pixel in layer.pixels_mut() {
        pixel.0[3] = (f32::from(pixel.0[3]) * opacity).round() as u8;
    }
    Cow::Owned(layer)
}
