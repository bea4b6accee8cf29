//! The parameters of each kind of job, with their defaults and bounds.
//!
//! Parameters that diffusers also has keep its names. Defaults and bounds come from the library
//! ([`qwen_image::pipeline`]). They are checked once, here, for every way to submit a job. The schema repeats the
//! numbers, and a test checks that they are equal.

use std::ops::RangeInclusive;

use qwen_image::{
    DecomposeOptions, EditOptions, Preset, Sampler,
    pipeline::{LAYERS, PipelineError},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    JobError, LayerCount, PresetName, SamplerName, Sampling, Seeds,
    lora::{LoraParam, check_loras},
    sampling::parameter_of,
};

/// The largest seed, because databases and JSON readers store signed integers.
pub const MAX_SEED: u64 = i64::MAX as u64;
/// The ratios, in dB, below which a result may be marked.
pub const MIN_PSNR: RangeInclusive<f64> = 0.0..=100.0;

/// Declares the parameters of a kind of request with their defaults, followed by those of [`Sampling`]. Each kind
/// repeats them, because serde's `flatten` would accept misspelled ones.
macro_rules! with_sampling {
    ($(#[$about:meta])* pub struct $name:ident {
        $($(#[$field_about:meta])* pub $field:ident: $type:ty = $default:expr,)*
    }) => {
        $(#[$about])*
        pub struct $name {
            $($(#[$field_about])* pub $field: $type,)*
            /// What the parameters below are if the request does not say: `exact` is as diffusers, `balanced` is as
            /// good with 2 of 5 passes, `fast` nearly as good with 1 of 4, `lightning` a LoRA for 4 or 8 passes.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schema(value_type = Option<PresetName>)]
            pub preset: Option<Preset>,
            /// Denoise steps, 1 to 1000.
            #[serde(default = "default_steps")]
            #[schema(minimum = 1, maximum = 1000)]
            pub steps: u32,
            /// Guidance, 0 to 100; 1 is off.
            #[serde(default = "default_cfg_scale")]
            #[schema(minimum = 0, maximum = 100)]
            pub cfg_scale: f64,
            /// Seed of the initial noise, as in `torch.Generator("cpu").manual_seed`. Absent: derived from the job's
            /// id.
            #[serde(default)]
            pub seed: Option<u64>,
            /// What the picture should not show. A single space also counts as a negative prompt.
            #[serde(default = "default_negative_prompt")]
            pub negative_prompt: String,
            /// The solver: `euler`, `abm2` or `unipc`. Absent: the one that the checkpoint's scheduler names.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schema(value_type = Option<SamplerName>)]
            pub sampler: Option<Sampler>,
            /// Noise levels of your own, falling from at most 1 to 0, one more than there are steps; a request has
            /// `steps` or `sigmas`.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub sigmas: Option<Vec<f64>>,
            /// The most steps in a row that the step cache may skip, 0 to 10; 0 turns it off.
            #[serde(default, skip_serializing_if = "is_default_step_cache")]
            #[schema(minimum = 0, maximum = 10)]
            pub step_cache: u32,
            /// The share of the steps that have guidance, from the start, 0 to 1.
            #[serde(default = "default_cfg_until", skip_serializing_if = "is_default_cfg_until")]
            #[schema(minimum = 0, maximum = 1)]
            pub cfg_until: f64,
            /// LoRAs, in the order in which they are added. Absent: those of the worker's settings.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schema(max_items = 16)]
            pub loras: Option<Vec<LoraParam>>,
        }

        impl $name {
            /// The names of all parameters.
            pub const FIELDS: &'static [&'static str] = &[
                $(stringify!($field),)*
                "preset", "steps", "cfg_scale", "seed", "negative_prompt", "sampler", "sigmas", "step_cache",
                "cfg_until", "loras",
            ];

            /// These parameters of sampling; everything else has its default.
            pub fn sampled(sampling: Sampling) -> Self {
                let Sampling {
                    preset,
                    steps,
                    cfg_scale,
                    seed,
                    negative_prompt,
                    sampler,
                    sigmas,
                    step_cache,
                    cfg_until,
                    loras,
                } = sampling;
                Self {
                    $($field: $default,)*
                    preset,
                    steps,
                    cfg_scale,
                    seed,
                    negative_prompt,
                    sampler,
                    sigmas,
                    step_cache,
                    cfg_until,
                    loras,
                }
            }

            /// The parameters that both pipelines share.
            pub fn sampling(&self) -> Sampling {
                Sampling {
                    preset: self.preset,
                    steps: self.steps,
                    cfg_scale: self.cfg_scale,
                    seed: self.seed,
                    negative_prompt: self.negative_prompt.clone(),
                    sampler: self.sampler,
                    sigmas: self.sigmas.clone(),
                    step_cache: self.step_cache,
                    cfg_until: self.cfg_until,
                    loras: self.loras.clone(),
                }
            }
        }
    };
}

with_sampling! {
/// Decompose: one picture -> `layers` RGBA layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DecomposeParams {
    /// A caption of the whole picture. Empty: the text encoder writes one.
    pub prompt: String = DecomposeOptions::default().prompt,
    /// Number of layers, 2 to 10, or `auto`: as many as the picture has. 1 if the checkpoint makes that; 0 lifts the
    /// part out of the picture that `prompt` names, with a Layered-Control checkpoint.
    pub layers: LayerCount = LayerCount::Exactly(DecomposeOptions::default().layers),
    /// Working resolution in pixels, the side of a square with the same area: 640 or 1024 for the full model. Absent:
    /// the first one that the checkpoint was made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 32, maximum = 4096, multiple_of = 32)]
    pub resolution: Option<u32> = DecomposeOptions::default().resolution,
    /// Rescale the guided prediction of each token to the norm of the unguided one.
    pub cfg_normalize: bool = DecomposeOptions::default().cfg_normalize,
    /// The size of the layers: `source`, the picture's, so that their composite is exactly that picture, or `model`,
    /// what the model made. Absent: `source` for pictures that are larger than the model's, or of another shape.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_size: Option<OutputSize> = None,
    /// Marks the result with `"quality": "low"` if the composite of the layers, as the model made them or as they are
    /// stored, is less true to the picture: a peak signal-to-noise ratio in dB, 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 100)]
    pub min_psnr: Option<f64> = None,
    /// Cuts each layer's file to its visible part. `placement` of the file then says where that is.
    #[serde(skip_serializing_if = "is_false")]
    pub trim: bool = false,
    /// How many variants, 1 to 64: results that differ only by their seed, which is `seed`, `seed` + 1 and so on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 64)]
    pub count: Option<u32> = None,
    /// The seed of each variant, instead of `seed` and `count`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, max_items = 64)]
    pub seeds: Option<Vec<u64>> = None,
}
}

impl Default for DecomposeParams {
    fn default() -> Self {
        Self::sampled(Sampling::default())
    }
}

/// The size of the resulting pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputSize {
    /// The picture's size. For an edit, that of the last input, with its exact alpha.
    #[default]
    Source,
    /// The size that the model works at. For an edit, alpha is resized to it (Lanczos).
    Model,
}

/// What becomes of the alpha of an edited picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AlphaMode {
    /// It is the source's, exactly.
    #[default]
    Keep,
    /// It may change: the edit is made over two grounds, which takes twice the time, and its alpha is found from them.
    Grow,
}

/// What becomes of the pixels that an edit was not asked to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeepRest {
    /// They are as the model made them.
    #[default]
    Off,
    /// What changed is found, and everything else is the source's, exactly.
    Auto,
}

with_sampling! {
/// Edit: one to three pictures and an instruction -> one picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EditParams {
    pub instruction: String = String::new(),
    pub output_size: OutputSize = OutputSize::Source,
    /// Whether the picture's outline may change, as for "Add a shadow" or "Make it bigger".
    #[serde(skip_serializing_if = "is_default")]
    pub alpha: AlphaMode = AlphaMode::Keep,
    /// The rectangle that may change, instead of a mask: `[x, y, width, height]` in pixels of the edited picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<[u32; 4]> = None,
    /// Over how many pixels the edit fades in at the edge of its mask or region, inside of it. Absent: 1 % of the
    /// picture's shorter side, from 1 to 16.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 512)]
    pub feather: Option<u32> = None,
    #[serde(skip_serializing_if = "is_default")]
    pub keep_rest: KeepRest = KeepRest::Off,
    /// Measure how far the edited picture moved against its source, and undo up to 3 % of shift and zoom.
    #[serde(skip_serializing_if = "is_on")]
    pub drift_guard: bool = true,
    /// How many variants, 1 to 64: results that differ only by their seed, which is `seed`, `seed` + 1 and so on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 64)]
    pub count: Option<u32> = None,
    /// The seed of each variant, instead of `seed` and `count`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, max_items = 64)]
    pub seeds: Option<Vec<u64>> = None,
}
}

/// Composite: layers, back to front -> one picture. It has no parameters yet.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompositeParams {}

/// Workflow: decompose, then edit some of the layers, then composite.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WorkflowParams {
    pub decompose: DecomposeParams,
    pub edits: Vec<LayerEdit>,
}

with_sampling! {
/// One edit of a workflow: `layer` is the number in the file name, 1 is the rearmost; the rest is as in [`EditParams`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LayerEdit {
    pub layer: u32 = 1,
    pub instruction: String = String::new(),
    #[serde(default, skip_serializing_if = "is_default")]
    pub alpha: AlphaMode = AlphaMode::Keep,
    /// The rectangle of the layer that may change, instead of a mask: `[x, y, width, height]` in its pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<[u32; 4]> = None,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 512)]
    pub feather: Option<u32> = None,
    #[serde(default, skip_serializing_if = "is_default")]
    pub keep_rest: KeepRest = KeepRest::Off,
    #[serde(default = "on", skip_serializing_if = "is_on")]
    pub drift_guard: bool = true,
}
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

fn on() -> bool {
    true
}

fn is_on(guard: &bool) -> bool {
    *guard
}

fn default_steps() -> u32 {
    Sampling::default().steps
}

fn default_cfg_scale() -> f64 {
    Sampling::default().cfg_scale
}

fn default_negative_prompt() -> String {
    Sampling::default().negative_prompt
}

fn default_cfg_until() -> f64 {
    Sampling::default().cfg_until
}

fn is_default_step_cache(step_cache: &u32) -> bool {
    *step_cache == Sampling::default().step_cache
}

#[allow(clippy::float_cmp, reason = "the default is exact")]
fn is_default_cfg_until(cfg_until: &f64) -> bool {
    *cfg_until == default_cfg_until()
}

impl Default for EditParams {
    fn default() -> Self {
        Self::of(String::new(), Sampling::default())
    }
}

impl LayerEdit {
    pub fn of(layer: u32, instruction: String, sampling: Sampling) -> Self {
        Self { layer, instruction, ..Self::sampled(sampling) }
    }

    /// The layer goes back into its picture, so it keeps its size.
    pub fn params(&self) -> EditParams {
        let Self { alpha, region, feather, keep_rest, drift_guard, .. } = *self;
        let params = EditParams::of(self.instruction.clone(), self.sampling());
        EditParams { alpha, region, feather, keep_rest, drift_guard, ..params }
    }
}

fn validated(at: &str, seed: Option<u64>, checked: Result<(), PipelineError>) -> Result<(), JobError> {
    let invalid = |name: &str, reason: String| Err(JobError::invalid(format!("{at}.{name}"), reason));
    match checked {
        Err(PipelineError::Invalid { field, reason }) => invalid(parameter_of(field), reason),
        Err(error) => invalid("", error.to_string()),
        Ok(()) if seed.is_some_and(|seed| seed > MAX_SEED) => {
            invalid("seed", format!("a seed is between 0 and {MAX_SEED}"))
        }
        Ok(()) => Ok(()),
    }
}

impl DecomposeParams {
    /// The parameters for the library, without what only a worker knows: LoRAs, and whether it names layers.
    pub fn options(&self) -> DecomposeOptions {
        DecomposeOptions {
            prompt: self.prompt.clone(),
            negative_prompt: self.negative_prompt.clone(),
            layers: self.layers.number().unwrap_or(DecomposeOptions::default().layers),
            auto_layers: self.layers == LayerCount::Auto,
            resolution: self.resolution,
            num_inference_steps: self.sampling().num_inference_steps(),
            cfg_scale: self.cfg_scale,
            cfg_normalize: self.cfg_normalize,
            seed: self.seed,
            sampler: self.sampler,
            sigmas: self.sampling().levels(),
            step_cache: self.step_cache,
            cfg_until: self.cfg_until,
            name_layers: false,
            loras: None,
            lightning: self.sampling().lightning(),
        }
    }

    pub fn validate(&self, at: &str) -> Result<(), JobError> {
        check_loras(self.loras.as_deref(), at)?;
        let (least, most) = MIN_PSNR.into_inner();
        let wrong_psnr = self.min_psnr.and_then(|psnr| match self.layers {
            _ if !MIN_PSNR.contains(&psnr) => Some(format!("{psnr} is not between {least} and {most} dB")),
            LayerCount::Exactly(0) => Some("has no effect on one part; leave it out with 0 layers".to_owned()),
            _ => None,
        });
        wrong_psnr.map_or(Ok(()), |reason| Err(JobError::invalid(format!("{at}.min_psnr"), reason)))?;
        self.seeds().check(at)?;
        self.sampling().check_levels(at)?;
        validated(at, self.seed, self.options().check())
    }

    /// Whether it uses what version 1 of messages did not have.
    pub(super) fn is_of_version_3(&self) -> bool {
        let is_newer = self.output_size.is_some() || self.min_psnr.is_some() || self.trim;
        is_newer || !self.layers.is_of_version_1() || self.seeds().is_of_version_3()
    }

    pub fn seeds(&self) -> Seeds<'_> {
        Seeds { seed: self.seed, count: self.count, seeds: self.seeds.as_deref() }
    }

    /// Whether layers that the model made of a picture are brought to its size.
    pub fn is_at_source_size(&self, source: (u32, u32), model: (u32, u32)) -> bool {
        match self.output_size {
            Some(OutputSize::Source) => true,
            Some(OutputSize::Model) => false,
            None => qwen_image::source_size::differs(source, model),
        }
    }
}

impl EditParams {
    /// An edit of the whole picture, which keeps its size.
    pub fn of(instruction: String, sampling: Sampling) -> Self {
        Self { instruction, ..Self::sampled(sampling) }
    }

    /// Whether it uses what version 2 of messages did not have.
    pub(super) fn is_of_version_3(&self) -> bool {
        let is_default = self.keep_rest == KeepRest::Off && self.drift_guard && self.alpha == AlphaMode::Keep;
        self.region.is_some() || self.feather.is_some() || !is_default || self.seeds().is_of_version_3()
    }

    pub fn seeds(&self) -> Seeds<'_> {
        Seeds { seed: self.seed, count: self.count, seeds: self.seeds.as_deref() }
    }

    /// The parameters for the library, without the instruction and the LoRAs.
    pub fn options(&self) -> EditOptions {
        EditOptions {
            negative_prompt: self.negative_prompt.clone(),
            output_size: match self.output_size {
                OutputSize::Source => qwen_image::OutputSize::Source,
                OutputSize::Model => qwen_image::OutputSize::Model,
            },
            alpha: match self.alpha {
                AlphaMode::Keep => qwen_image::AlphaMode::Keep,
                AlphaMode::Grow => qwen_image::AlphaMode::Grow,
            },
            feather: self.feather,
            keep_rest: self.keep_rest == KeepRest::Auto,
            drift_guard: self.drift_guard,
            num_inference_steps: self.sampling().num_inference_steps(),
            cfg_scale: self.cfg_scale,
            seed: self.seed,
            sampler: self.sampler,
            sigmas: self.sampling().levels(),
            step_cache: self.step_cache,
            cfg_until: self.cfg_until,
            loras: None,
            lightning: self.sampling().lightning(),
        }
    }

    pub(super) fn validate(&self, at: &str) -> Result<(), JobError> {
        if self.instruction.trim().is_empty() {
            return Err(JobError::invalid(
                format!("{at}.instruction"),
                "is empty; say what to change, for instance \"Change the color to blue\"",
            ));
        }
        if let Some([_, _, width, height]) = self.region
            && (width == 0 || height == 0)
        {
            let reason = "is empty; write [x, y, width, height] in pixels, for instance [100, 50, 200, 150]";
            return Err(JobError::invalid(format!("{at}.region"), reason));
        }
        check_loras(self.loras.as_deref(), at)?;
        self.seeds().check(at)?;
        self.sampling().check_levels(at)?;
        validated(at, self.seed, self.options().check())
    }
}

impl WorkflowParams {
    pub(super) fn validate(&self, at: &str) -> Result<(), JobError> {
        self.decompose.validate(&format!("{at}.decompose"))?;
        let variants = [("count", self.decompose.count.is_some()), ("seeds", self.decompose.seeds.is_some())];
        if let Some((name, _)) = variants.into_iter().find(|(_, given)| *given) {
            let reason =
                "a workflow makes one result; make variants with a decompose, and edit the layers of the best one";
            return Err(JobError::invalid(format!("{at}.decompose.{name}"), reason));
        }
        if self.decompose.layers == LayerCount::Exactly(0) {
            let reason = "0 lifts one part out of the picture, which makes no layers to put together; use a decompose";
            return Err(JobError::invalid(format!("{at}.decompose.layers"), reason));
        }
        for (index, edit) in self.edits.iter().enumerate() {
            let at = format!("{at}.edits[{index}]");
            let most = self.decompose.layers.number().unwrap_or(*LAYERS.end());
            if edit.layer == 0 || edit.layer > most {
                return Err(JobError::invalid(
                    format!("{at}.layer"),
                    format!("{} is not between 1 and {most}, the number of layers", edit.layer),
                ));
            }
            edit.params().validate(&at)?;
        }
        Ok(())
    }
}
