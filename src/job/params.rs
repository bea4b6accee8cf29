//! The parameters of each kind of job, with their defaults and bounds.
//!
//! The names are diffusers' own where it has one. Defaults and bounds are the library's ([`qwen_image::pipeline`]);
//! they are checked once, here, for every kind of submission. The schema repeats the numbers, and a test checks that
//! they are equal.

use qwen_image::{DecomposeOptions, EditOptions, pipeline::PipelineError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::JobError;

/// The largest seed, because databases and JSON readers store signed integers.
pub const MAX_SEED: u64 = i64::MAX as u64;

/// The parameters that both pipelines share. Defaults are those of the reference, except that guidance is on.
///
/// Each kind of request repeats these fields, because serde's `flatten` would accept misspelled ones.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Denoise steps.
    pub steps: u32,
    /// Guidance scale; 1 or less turns guidance (and the second forward pass) off.
    pub cfg_scale: f64,
    /// Seed of the initial noise, as `torch.Generator("cpu").manual_seed`. Absent: derived from the job's id.
    pub seed: Option<u64>,
    /// What the picture should not show; a single space still guides.
    pub negative_prompt: String,
}

impl Default for Sampling {
    fn default() -> Self {
        let EditOptions { num_inference_steps: steps, cfg_scale, negative_prompt, .. } = EditOptions::default();
        Self { steps, cfg_scale, seed: None, negative_prompt }
    }
}

/// Decompose: one picture -> `layers` RGBA layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DecomposeParams {
    /// A caption of the whole picture. Empty: the text encoder writes one.
    pub prompt: String,
    /// Number of layers, 2 to 10.
    #[schema(minimum = 2, maximum = 10)]
    pub layers: u32,
    /// Working resolution in pixels, the side of a square with the same area: 640 or 1024 for the full model. Absent:
    /// the first one that the checkpoint was made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 32, maximum = 4096, multiple_of = 32)]
    pub resolution: Option<u32>,
    /// Rescale the guided prediction of each token to the norm of the unguided one.
    pub cfg_normalize: bool,
    /// Denoise steps, 1 to 1000.
    #[schema(minimum = 1, maximum = 1000)]
    pub steps: u32,
    /// Guidance, 0 to 100; 1 is off.
    #[schema(minimum = 0, maximum = 100)]
    pub cfg_scale: f64,
    pub seed: Option<u64>,
    pub negative_prompt: String,
}

impl Default for DecomposeParams {
    fn default() -> Self {
        let Sampling { steps, cfg_scale, seed, negative_prompt } = Sampling::default();
        let DecomposeOptions { prompt, layers, resolution, cfg_normalize, .. } = DecomposeOptions::default();
        Self { prompt, layers, resolution, cfg_normalize, steps, cfg_scale, seed, negative_prompt }
    }
}

/// The size of an edited picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputSize {
    /// The last input's size, with its exact alpha.
    #[default]
    Source,
    /// The size that the model works at; alpha is resized to it (Lanczos).
    Model,
}

/// Edit: one to three pictures and an instruction -> one picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EditParams {
    pub instruction: String,
    pub output_size: OutputSize,
    /// Denoise steps, 1 to 1000.
    #[schema(minimum = 1, maximum = 1000)]
    pub steps: u32,
    /// Guidance, 0 to 100; 1 is off.
    #[schema(minimum = 0, maximum = 100)]
    pub cfg_scale: f64,
    pub seed: Option<u64>,
    pub negative_prompt: String,
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

/// One edit of a workflow: `layer` is the number in the file name, 1 is the rearmost; the rest is as in [`EditParams`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LayerEdit {
    pub layer: u32,
    pub instruction: String,
    #[serde(default = "default_steps")]
    pub steps: u32,
    #[serde(default = "default_cfg_scale")]
    pub cfg_scale: f64,
    #[serde(default)]
    pub seed: Option<u64>,
    #[serde(default = "default_negative_prompt")]
    pub negative_prompt: String,
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

impl Default for EditParams {
    fn default() -> Self {
        let Sampling { steps, cfg_scale, seed, negative_prompt } = Sampling::default();
        Self { instruction: String::new(), output_size: OutputSize::default(), steps, cfg_scale, seed, negative_prompt }
    }
}

impl LayerEdit {
    /// The layer goes back into its picture, so it keeps its size and alpha.
    pub fn params(&self) -> EditParams {
        EditParams {
            instruction: self.instruction.clone(),
            output_size: OutputSize::Source,
            steps: self.steps,
            cfg_scale: self.cfg_scale,
            seed: self.seed,
            negative_prompt: self.negative_prompt.clone(),
        }
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

/// The request's name for an option of the library.
pub fn parameter_of(option: &str) -> &str {
    match option {
        "num_inference_steps" => "steps",
        other => other,
    }
}

impl DecomposeParams {
    /// The parameters for the library.
    pub fn options(&self) -> DecomposeOptions {
        DecomposeOptions {
            prompt: self.prompt.clone(),
            negative_prompt: self.negative_prompt.clone(),
            layers: self.layers,
            resolution: self.resolution,
            num_inference_steps: self.steps,
            cfg_scale: self.cfg_scale,
            cfg_normalize: self.cfg_normalize,
            seed: self.seed,
        }
    }

    pub fn validate(&self, at: &str) -> Result<(), JobError> {
        validated(at, self.seed, self.options().check())
    }
}

impl EditParams {
    /// The parameters for the library, without the instruction.
    pub fn options(&self) -> EditOptions {
        EditOptions {
            negative_prompt: self.negative_prompt.clone(),
            output_size: match self.output_size {
                OutputSize::Source => qwen_image::OutputSize::Source,
                OutputSize::Model => qwen_image::OutputSize::Model,
            },
            num_inference_steps: self.steps,
            cfg_scale: self.cfg_scale,
            seed: self.seed,
        }
    }

    pub(super) fn validate(&self, at: &str) -> Result<(), JobError> {
        if self.instruction.trim().is_empty() {
            return Err(JobError::invalid(
                format!("{at}.instruction"),
                "is empty; say what to change, for instance \"Change the color to blue\"",
            ));
        }
        validated(at, self.seed, self.options().check())
    }
}

impl WorkflowParams {
    pub(super) fn validate(&self, at: &str) -> Result<(), JobError> {
        self.decompose.validate(&format!("{at}.decompose"))?;
        for (index, edit) in self.edits.iter().enumerate() {
            let at = format!("{at}.edits[{index}]");
            if edit.layer == 0 || edit.layer > self.decompose.layers {
                return Err(JobError::invalid(
                    format!("{at}.layer"),
                    format!("{} is not between 1 and {}, the number of layers", edit.layer, self.decompose.layers),
                ));
            }
            edit.params().validate(&at)?;
        }
        Ok(())
    }
}
