//! The composite of a stack, made layer by layer: however many there are, one is decoded at a time.

use ::image::RgbaImage;

use qwen_image::image_processor::Compositor;

use super::Sheet;
use crate::{
    image::{DecodeLimits, decode, placed, probe, trim::check_placement},
    job::JobError,
};

pub(super) struct Merged {
    /// The composite of the visible sheets, on a transparent background.
    pub whole: RgbaImage,
    /// The part of each layer's file that is not transparent.
    pub bounds: Vec<VisibleRect>,
    limits: DecodeLimits,
}

impl Merged {
    pub fn of(sheets: &[Sheet], limits: &DecodeLimits) -> Result<Self, JobError> {
        let Some(first) = sheets.first() else {
            return Err(JobError::invalid("layers", "there are none to export; at least one is needed"));
        };
        let (width, height) = size(sheets, limits)?;
        let mut whole = Compositor::new(width, height);
        let mut bounds = Vec::with_capacity(sheets.len());
        for sheet in sheets {
            let layer = decode(&sheet.file, &sheet.png, limits)?.pixels;
            bounds.push(VisibleRect::of(&layer));
            let layer = placed(&sheet.file, layer, sheet.placement, limits)?;
            if layer.dimensions() != (width, height) {
                return Err(other_size(sheet, layer.dimensions(), first, (width, height)));
            }
            if sheet.visible {
                whole.add(&layer, sheet.opacity)?;
            }
        }
        Ok(Self { whole: whole.finish(), bounds, limits: *limits })
    }

    /// The size of the canvas, in pixels.
    pub fn size(&self) -> (u32, u32) {
        self.whole.dimensions()
    }

    pub fn is_opaque(&self) -> bool {
        self.whole.pixels().all(|pixel| pixel.0[3] == 255)
    }

    /// A layer's file as stored, without opacity. It is decoded again.
    pub fn layer(&self, sheet: &Sheet) -> Result<RgbaImage, JobError> {
        Ok(decode(&sheet.file, &sheet.png, &self.limits)?.pixels)
    }
}

/// Checks all headers before anything is decoded: the sizes, and the memory that the whole stack needs.
fn size(sheets: &[Sheet], limits: &DecodeLimits) -> Result<(u32, u32), JobError> {
    let mut first: Option<(&Sheet, (u32, u32))> = None;
    let (mut largest, mut files) = (0, 0);
    for (index, sheet) in sheets.iter().enumerate() {
        if !(0.0..=1.0).contains(&sheet.opacity) {
            let reason = format!("{} is not a number from 0 (invisible) to 1 (opaque)", sheet.opacity);
            return Err(JobError::invalid(format!("layers[{index}].opacity"), reason));
        }
        limits.check_file(&sheet.file, sheet.png.len() as u64)?;
        let seen = probe(&sheet.file, &sheet.png, limits)?;
        let mut size = (seen.width, seen.height);
        let mut memory = seen.memory;
        if let Some(placement) = sheet.placement {
            check_placement(&sheet.file, size, placement, limits)?;
            size = (placement.width, placement.height);
            memory += 4 * placement.pixels();
        }
        match first {
            Some((other, wanted)) if wanted != size => return Err(other_size(sheet, size, other, wanted)),
            Some(_) => {}
            None => first = Some((sheet, size)),
        }
        largest = largest.max(memory);
        files += sheet.png.len() as u64;
    }
    let (width, height) = first.map(|(_, size)| size).unwrap_or_default();
    let held = u64::from(width) * u64::from(height) * Compositor::BYTES_PER_PIXEL;
    limits.check_memory("layers", held.saturating_add(largest).saturating_add(files))?;
    Ok((width, height))
}

fn other_size(sheet: &Sheet, (width, height): (u32, u32), other: &Sheet, first: (u32, u32)) -> JobError {
    let (first_width, first_height) = first;
    JobError::InvalidImage {
        input: sheet.file.clone(),
        reason: format!(
            "it is {width}x{height} pixels but {} is {first_width}x{first_height}; all layers must have the same \
             size (an edit with output_size \"source\" keeps it)",
            other.file
        ),
    }
}

/// The bounds of the non-transparent part of a layer's file, in pixels; the ends are exclusive.
#[derive(Clone, Copy, Default)]
pub(super) struct VisibleRect {
    pub left: u32,
    pub top: u32,
    pub right: u32,
    pub bottom: u32,
}

impl VisibleRect {
    fn of(layer: &RgbaImage) -> Self {
        let mut seen: Option<Self> = None;
        for (x, y, pixel) in layer.enumerate_pixels() {
            if pixel.0[3] != 0 {
                let before = seen.unwrap_or(Self { left: x, top: y, right: x, bottom: y });
                seen = Some(Self {
                    left: before.left.min(x),
                    top: before.top,
                    right: before.right.max(x + 1),
                    bottom: y + 1,
                });
            }
        }
        seen.unwrap_or_default()
    }

    pub fn is_empty(self) -> bool {
        self.right == self.left
    }
}
