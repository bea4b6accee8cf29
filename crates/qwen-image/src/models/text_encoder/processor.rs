//! The picture processor: resizes to whole merged patches, then scales and normalizes the patches.
//!
//! Sources: `Qwen2VLImageProcessor` and `Qwen2VLImageProcessorPil` in transformers.

use std::{path::Path, str::FromStr};

use ::image::RgbImage;
use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde_json::Value;

use super::{config::VisionConfig, error::TextError};
use crate::{
    image_processor,
    models::{LoadResult, ModelError, read_json},
};

/// Which of transformers' two picture processors to match. Their resizes differ in the last bit, which changes an edit
/// by up to about 20/255 at single pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageProcessorBackend {
    /// The one that `from_pretrained` uses if torchvision is installed: torch resizes byte tensors.
    #[default]
    Torchvision,
    /// The one that it uses without torchvision: Pillow resizes.
    Pil,
}

impl ImageProcessorBackend {
    /// The name in `acetate.json`, settings and manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Torchvision => "torchvision",
            Self::Pil => "pil",
        }
    }
}

impl FromStr for ImageProcessorBackend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "torchvision" => Ok(Self::Torchvision),
            "pil" => Ok(Self::Pil),
            other => Err(format!("`{other}` is not an image processor; write torchvision or pil")),
        }
    }
}

/// Patches of a picture, down and across.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatchGrid {
    /// Patches down.
    pub height: usize,
    /// Patches across.
    pub width: usize,
}

impl PatchGrid {
    /// The size after merging `merge` x `merge` patches into one token.
    pub fn merged(self, merge: usize) -> (usize, usize) {
        (self.height / merge, self.width / merge)
    }
}

/// Turns pictures into patches, as `preprocessor_config.json` says.
#[derive(Debug)]
pub struct PictureProcessor {
    settings: Settings,
    patch: usize,
    merge: usize,
    frames: usize,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct Settings {
    do_resize: bool,
    do_rescale: bool,
    do_normalize: bool,
    image_mean: [f32; 3],
    image_std: [f32; 3],
    rescale_factor: f64,
    resample: Option<u32>,
    size: Option<Size>,
    min_pixels: Option<usize>,
    max_pixels: Option<usize>,
    patch_size: usize,
    merge_size: usize,
    temporal_patch_size: usize,
}

/// These are areas in pixels, despite their names.
#[derive(Debug, Default, Deserialize)]
struct Size {
    shortest_edge: Option<usize>,
    longest_edge: Option<usize>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            do_resize: true,
            do_rescale: true,
            do_normalize: true,
            image_mean: [0.48145466, 0.4578275, 0.40821073],
            image_std: [0.26862954, 0.261_302_6, 0.275_777_1],
            rescale_factor: 1.0 / 255.0,
            resample: Some(BICUBIC),
            size: None,
            min_pixels: None,
            max_pixels: None,
            patch_size: 14,
            merge_size: 2,
            temporal_patch_size: 2,
        }
    }
}

/// Pillow's number of the filter.
const BICUBIC: u32 = 3;
/// The most that one side of a picture may be longer than the other.
const MAX_RATIO: f64 = 200.0;

impl PictureProcessor {
    /// Reads `preprocessor_config.json`, or the newer `processor_config.json` that holds it, in `folder`.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if neither file can be read, or it asks for something that is not supported.
    pub fn load(folder: &Path, vision: &VisionConfig) -> LoadResult<Self> {
        let (path, settings) = read_settings(folder)?;
        let fail = |reason: String| Err(ModelError::invalid(&path, reason));
        let here = (settings.patch_size, settings.merge_size, settings.temporal_patch_size);
        let there = (vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size);
        if here != there {
            return fail(format!("patch, merge and temporal sizes are {here:?}, but the vision tower has {there:?}"));
        }
        if settings.resample.is_some_and(|filter| filter != BICUBIC) {
            return fail(format!("`resample` is {:?}; only 3 (bicubic) is supported", settings.resample));
        }
        if vision.in_channels != 3 {
            return fail(format!("the vision tower reads {} channels; pictures have 3", vision.in_channels));
        }
        if settings.image_std.contains(&0.0) {
            return fail("`image_std` holds a 0".to_owned());
        }
        let (patch, merge, frames) = here;
        Ok(Self { settings, patch, merge, frames })
    }

    /// Patches `(n, 3 * frames * patch * patch)`, float32 on `device`, in the order that the vision tower merges
    /// them: four neighbors, then the next four.
    ///
    /// # Errors
    /// [`TextError::Picture`] if the picture has no pixels, or one side is more than 200 times the other.
    pub fn process(
        &self,
        picture: &RgbImage,
        backend: ImageProcessorBackend,
        device: &Device,
    ) -> Result<(Tensor, PatchGrid), TextError> {
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let fail = |reason: &str| TextError::Picture { width, height, reason: reason.to_owned() };
        if width == 0 || height == 0 {
            return Err(fail("it has no pixels"));
        }
        let (rows, columns) = if self.settings.do_resize { self.target_size(height, width)? } else { (height, width) };
        if rows % (self.patch * self.merge) != 0 || columns % (self.patch * self.merge) != 0 {
            return Err(fail(&format!("its sides must be multiples of {}", self.patch * self.merge)));
        }
        let grid = PatchGrid { height: rows / self.patch, width: columns / self.patch };
        let resize = match backend {
            ImageProcessorBackend::Torchvision => image_processor::bicubic_rgb_torchvision,
            ImageProcessorBackend::Pil => image_processor::bicubic_rgb,
        };
        let resized = resize(picture, columns as u32, rows as u32);
        let values = self.patches(&resized, &self.table(backend), grid);
        let n = grid.height * grid.width;
        let width = values.len() / n;
        Ok((Tensor::from_vec(values, (n, width), device)?, grid))
    }

    /// The height and width to resize a picture to: whole merged patches, an area within the bounds, and the aspect
    /// ratio as close as possible.
    ///
    /// # Errors
    /// [`TextError::Picture`] if one side is more than 200 times the other.
    pub fn target_size(&self, height: usize, width: usize) -> Result<(usize, usize), TextError> {
        let size = self.settings.size.as_ref();
        let min = self.settings.min_pixels.or(size.and_then(|size| size.shortest_edge)).unwrap_or(56 * 56);
        let max = self.settings.max_pixels.or(size.and_then(|size| size.longest_edge)).unwrap_or(28 * 28 * 1280);
        smart_resize(height, width, self.patch * self.merge, min, max)
    }

    fn patches(&self, pixels: &[u8], table: &[[f32; 256]; 3], grid: PatchGrid) -> Vec<f32> {
        let Self { patch, merge, frames, .. } = *self;
        let columns = grid.width * patch;
        let mut out = Vec::with_capacity(grid.height * grid.width * 3 * frames * patch * patch);
        for (top, left) in (0..grid.height / merge).flat_map(|top| (0..grid.width / merge).map(move |left| (top, left)))
        {
            for inner in 0..merge * merge {
                let (top, left) = (top * merge + inner / merge, left * merge + inner % merge);
                for (channel, table) in table.iter().enumerate() {
                    let start = out.len();
                    for row in top * patch..(top + 1) * patch {
                        let row = &pixels[(row * columns + left * patch) * 3..][..patch * 3];
                        out.extend(row.iter().skip(channel).step_by(3).map(|&value| table[usize::from(value)]));
                    }
                    // A still picture is repeated for all frames of a patch.
                    let end = out.len();
                    (1..frames).for_each(|_| out.extend_from_within(start..end));
                }
            }
        }
        out
    }

    /// The value of each byte in each channel.
    fn table(&self, backend: ImageProcessorBackend) -> [[f32; 256]; 3] {
        let Settings { do_rescale, do_normalize, rescale_factor, image_mean, image_std, .. } = &self.settings;
        std::array::from_fn(|channel| {
            let (mean, std) = (image_mean[channel], image_std[channel]);
            std::array::from_fn(|byte| match (backend, do_rescale, do_normalize) {
                // Both steps at once, with the mean and deviation scaled to bytes.
                (ImageProcessorBackend::Torchvision, true, true) => {
                    let whole = (1.0 / rescale_factor) as f32;
                    (byte as f32 - mean * whole) / (std * whole)
                }
                // Rescaled in double precision and then rounded, like numpy.
                (ImageProcessorBackend::Pil, true, true) => ((byte as f64 * rescale_factor) as f32 - mean) / std,
                (_, false, true) => (byte as f32 - mean) / std,
                (ImageProcessorBackend::Torchvision, true, false) => byte as f32 * *rescale_factor as f32,
                (ImageProcessorBackend::Pil, true, false) => (byte as f64 * rescale_factor) as f32,
                (_, false, false) => byte as f32,
            })
        })
    }
}

fn read_settings(folder: &Path) -> LoadResult<(std::path::PathBuf, Settings)> {
    let nested = folder.join("processor_config.json");
    if nested.is_file()
        && let Some(inner) = read_json::<Value>(&nested)?.get("image_processor")
    {
        let settings = Settings::deserialize(inner).map_err(|error| ModelError::invalid(&nested, error.to_string()))?;
        return Ok((nested, settings));
    }
    let path = folder.join("preprocessor_config.json");
    let settings = read_json(&path)?;
    Ok((path, settings))
}

fn smart_resize(
    height: usize,
    width: usize,
    factor: usize,
    min: usize,
    max: usize,
) -> Result<(usize, usize), TextError> {
    let (h, w, side) = (height as f64, width as f64, factor as f64);
    if h.max(w) / h.min(w) > MAX_RATIO {
        let reason = format!("one side is more than {MAX_RATIO} times the other; crop it");
        return Err(TextError::Picture { width, height, reason });
    }
    let whole = |length: f64| length as usize * factor;
    let nearest = ((h / side).round_ties_even(), (w / side).round_ties_even());
    let area = nearest.0 * side * nearest.1 * side;
    if area > max as f64 {
        let beta = (h * w / max as f64).sqrt();
        let fit = |length: f64| whole((length / beta / side).floor()).max(factor);
        return Ok((fit(h), fit(w)));
    }
    if area < min as f64 {
        let beta = (min as f64 / (h * w)).sqrt();
        let fit = |length: f64| whole((length * beta / side).ceil());
        return Ok((fit(h), fit(w)));
    }
    Ok((whole(nearest.0), whole(nearest.1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs of sizes by transformers' `smart_resize`.
    #[test]
    fn sizes_are_the_references() {
        for (height, width, expected) in [
            (10, 10, (56, 56)),
            (42, 42, (56, 56)),
            (70, 14, (140, 28)),
            (96, 160, (84, 168)),
            (384, 384, (392, 392)),
            (1024, 768, (1036, 756)),
            (99, 7001, (112, 7000)),
            (5000, 4000, (4004, 3192)),
            (14, 2799, (28, 812)),
        ] {
            assert_eq!(smart_resize(height, width, 28, 56 * 56, 12_845_056).unwrap(), expected, "{height}x{width}");
        }
        let error = smart_resize(10, 2001, 28, 56 * 56, 12_845_056).unwrap_err();
        assert_eq!(error.to_string(), "the picture is 2001x10: one side is more than 200 times the other; crop it");
    }
}
