//! How models would be placed on a GPU that is not here.

use std::path::Path;

use super::{
    device::{ComputeDType, DeviceChoice},
    device_options::DeviceOptions,
    memory_plan::{PlanRequest, on_negative_device, plan},
    open_devices::negative_branch,
};
use crate::{
    Error, PipelineOptions,
    models::{PartSize, Sizes, WeightOptions},
    pipeline::{self, PipelineKind},
};

/// What a driver and its libraries take before any model, in bytes.
const CONTEXT: u64 = 512 << 20;
const MIB: u64 = 1 << 20;

/// The published models in one form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedForm {
    /// The form of the transformer's weights: `bf16`, `Q4_K_M`.
    pub transformer: &'static str,
    /// Whether the transformer is rounded to fp8 as it is loaded, as with [`ComputeDType::Fp8`].
    pub rounded_to_fp8: bool,
    /// The form of the text encoder's weights.
    pub text_encoder: &'static str,
    sizes: Sizes,
}

/// How a model would be placed on a GPU, in words; or why it would not fit.
pub type WhatIf = Result<String, String>;

/// The full models in the forms that people have, from the largest to the smallest.
pub fn published_forms() -> Vec<PublishedForm> {
    // Bits of a block's weights over tokens and of its modulation, in bits times 1000.
    let transformer = |body: u64, modulation: u64| {
        let room = BODY * body / 8000;
        let block = room + MODULATION * modulation / 8000;
        // Other forms than numbers are dequantized a matrix at a time.
        let dequantized = if body == 16_000 { 0 } else { 2 * WIDEST * 2 };
        PartSize { ends: 64 * MIB, block, blocks: 60, room, work: 2700 * MIB + dequantized }
    };
    let text_encoder = |bits: u64| {
        let block = 222 * MIB * bits / 8000;
        PartSize { ends: 3480 * MIB, block, blocks: 28, room: block, work: 390 * MIB }
    };
    let vae = PartSize { ends: 484 * MIB, work: 2304 * MIB, ..PartSize::default() };
    let form = |name, rounded_to_fp8, transformer, text_name, text_encoder| PublishedForm {
        transformer: name,
        rounded_to_fp8,
        text_encoder: text_name,
        sizes: Sizes { text_encoder, transformer, vae },
    };
    let bf16 = ("bf16", text_encoder(16_000));
    let fp8 = ("fp8 file", text_encoder(8000));
    [
        ("bf16", false, transformer(16_000, 16_000), bf16),
        ("bf16", true, transformer(8000, 16_000), bf16),
        ("Q8_0", false, transformer(8500, 8500), bf16),
        ("fp8 file", false, transformer(8000, 8000), fp8),
        ("Q4_K_M", false, transformer(4672, 6563), bf16),
        ("Q4_K_M", false, transformer(4672, 6563), fp8),
    ]
    .map(|(name, rounded, size, (text_name, text_size))| form(name, rounded, size, text_name, text_size))
    .into()
}

/// The weights of a block that products over tokens read: 8 matrices of 3072 x 3072, 4 of 3072 x 12288.
const BODY: u64 = 8 * 3072 * 3072 + 4 * 3072 * 12_288;
/// Those of its modulation.
const MODULATION: u64 = 2 * 3072 * 6 * 3072;
const WIDEST: u64 = 3072 * 12_288;

impl PublishedForm {
    /// On a GPU with `vram` bytes and a host with `host` bytes of free memory.
    pub fn on_card(&self, vram: u64, host: u64) -> WhatIf {
        on_cards(self.sizes, vram, host, &PipelineOptions::default().device_options())
    }
}

/// A checkpoint on a GPU with `vram` bytes, in bf16 unless fp8 is configured.
///
/// # Errors
/// [`Error::Model`] if the checkpoint is unusable.
pub fn estimate_for_gpu(
    options: &DeviceOptions,
    folder: &Path,
    files: &WeightOptions,
    pipeline: PipelineKind,
    vram: u64,
) -> Result<WhatIf, Error> {
    let fp8 = options.dtype == ComputeDType::Fp8;
    let sizes = pipeline::sizes(folder, files, pipeline, ComputeDType::Bf16.candle(), fp8)
        .map_err(|source| Error::model(&folder.display().to_string(), "cuda", source))?;
    Ok(on_cards(sizes, vram, options.host_memory(), options))
}

/// Two cards of this size, if the branches of guidance have one each.
fn on_cards(sizes: Sizes, vram: u64, host: u64, options: &DeviceOptions) -> WhatIf {
    let free = vram.saturating_sub(CONTEXT);
    place(options, sizes, host, free, options.cfg_parallel_device.map(|device| (device, free)))
}

/// The placement on a GPU, and on that of the negative branch, each with its free memory.
pub(super) fn place(
    options: &DeviceOptions,
    sizes: Sizes,
    host: u64,
    free: u64,
    second: Option<(DeviceChoice, u64)>,
) -> WhatIf {
    let request = PlanRequest { host, ..PlanRequest::new(options, sizes, free) };
    let main = plan(&request).map_err(|refused| refused.to_string())?;
    let Some((device, free)) = second else { return Ok(main.to_string()) };
    let second = plan(&request.of_negative_branch(free, 0, main.host))
        .map_err(|refused| on_negative_device(&device.name(), &refused))?;
    Ok(main.to_string() + &negative_branch(device, Some(&second)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// The sizes that the files' authors report, and those that the plan counts with.
    #[test]
    fn forms_are_as_large_as_their_files() {
        let gigabytes = |form: &PublishedForm| form.sizes.transformer.weights() as f64 / 1e9;
        let sizes: Vec<f64> = published_forms().iter().map(gigabytes).collect();
        for (found, wanted) in sizes.iter().zip([40.9, 27.3, 21.8, 20.4, 13.6, 13.6]) {
            assert!((found - wanted).abs() < 0.5, "{sizes:?}");
        }
    }

    #[test]
    fn smaller_forms_need_smaller_cards() {
        let forms = published_forms();
        let streams = |form: &PublishedForm, gib: u64| {
            form.on_card(gib * GIB, 128 * GIB).is_ok_and(|plan| plan.starts_with("blocks streamed"))
        };
        let (bf16, q4) = (&forms[0], &forms[5]);
        assert!(streams(bf16, 24) && !streams(bf16, 48) && !streams(q4, 24) && streams(q4, 12));
        // Every form runs on 12 GB if the host has room for it, and none on 1 GB.
        for form in &forms {
            assert!(form.on_card(12 * GIB, 128 * GIB).is_ok(), "{form:?}");
            assert!(form.on_card(GIB, 128 * GIB).is_err() && form.on_card(12 * GIB, GIB).is_err());
        }
        assert!(q4.on_card(24 * GIB, 32 * GIB).is_ok() && bf16.on_card(24 * GIB, 32 * GIB).is_err());
    }
}
