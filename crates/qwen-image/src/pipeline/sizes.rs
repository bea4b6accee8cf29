//! The memory that a checkpoint needs for its pipeline's work.

use std::path::Path;

use candle_core::DType;

use super::constants::{Conditioning, Constants, PipelineKind};
use crate::models::{LoadResult, Sizes, WeightOptions, Workload, memory_estimate};

/// Latents per side of a patch, pixels per side of a latent.
const PATCH_PIXELS: usize = 16;
/// The default of requests; more may still fit.
const LAYERS: usize = 4;
/// The maximum number of references of an edit.
const REFERENCES: usize = 3;

/// The sizes of a checkpoint's parts, and of the work of its largest resolution with the usual number of layers.
///
/// # Errors
/// Those of [`memory_estimate`].
pub fn sizes(
    folder: &Path,
    paths: &WeightOptions,
    pipeline: PipelineKind,
    dtype: DType,
    fp8: bool,
) -> LoadResult<Sizes> {
    let constants = Constants::load(folder, pipeline, Conditioning::default())?;
    let layered = pipeline == PipelineKind::Layered;
    let pixels = match pipeline {
        PipelineKind::Layered => constants.resolutions.iter().map(|side| (side * side) as usize).max().unwrap_or(0),
        PipelineKind::EditPlus => constants.vae_area as usize,
    };
    // The composite, the layers and the condition; or the output and its references.
    let frames = if layered { LAYERS + 2 } else { REFERENCES + 1 };
    let patches = frames * pixels / (PATCH_PIXELS * PATCH_PIXELS);
    let workload = Workload { patches, pixels, captions: layered, fp8 };
    memory_estimate(folder, paths, dtype, workload)
}
