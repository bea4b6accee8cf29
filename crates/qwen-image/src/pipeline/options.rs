//! The options and outputs of calls, with diffusers' names and defaults, except that guidance is on.

use std::ops::RangeInclusive;

use ::image::RgbaImage;

use super::{
    error::{PipelineError, Result},
    sampler::Sampler,
    sampling::{SamplingOptions, SamplingRecord},
};
use crate::hub::{LORA_STRENGTH, Lora};

/// The number of layers that a decompose may request; most checkpoints are trained for 2 and more, and 0 is for those
/// that lift one part out of the picture.
pub const LAYERS: RangeInclusive<u32> = 0..=10;
/// The number of layers if none is asked for.
const DEFAULT_LAYERS: u32 = 4;
/// Denoise steps.
pub const NUM_INFERENCE_STEPS: RangeInclusive<u32> = 1..=1000;
/// The denoise steps if no number is given.
pub(super) const DEFAULT_NUM_INFERENCE_STEPS: u32 = 50;
/// The guidance scales that a request may ask for; 1 and less turn guidance off.
pub const CFG_SCALE: RangeInclusive<f64> = 0.0..=100.0;
/// The most steps in a row that a step cache skips.
pub const STEP_CACHE: RangeInclusive<u32> = 0..=10;
/// The share of the steps that have guidance.
pub const CFG_UNTIL: RangeInclusive<f64> = 0.0..=1.0;
/// The width in pixels of the soft edge of a mask.
pub const FEATHER: RangeInclusive<u32> = 0..=512;
/// Resolutions in pixels, multiples of [`RESOLUTION_STEP`]; a checkpoint supports a few of them.
pub const RESOLUTION: RangeInclusive<u32> = 32..=4096;
/// A resolution is a multiple of this, in pixels.
pub const RESOLUTION_STEP: u32 = 32;

/// The options of a decompose.
#[derive(Debug, Clone, PartialEq)]
pub struct DecomposeOptions {
    /// A caption of the whole picture. Empty: the text encoder writes one in English.
    pub prompt: String,
    /// What the picture should not show. A single space also counts as a negative prompt; without one, diffusers turns
    /// guidance off.
    pub negative_prompt: String,
    /// Number of layers, 2 to 10, but no more than the checkpoint was trained for; 1 if the checkpoint makes that. 0 is
    /// for Layered-Control checkpoints, which lift the one part out of the picture that the prompt names.
    pub layers: u32,
    /// Find out how many layers the picture has, with [`auto_layers`](crate::auto_layers): the checkpoint's most are
    /// made. `layers` then keeps its default.
    pub auto_layers: bool,
    /// Working resolution in pixels, the side of a square with the same area. None: the first one that the checkpoint
    /// was made for, 640 for the full model.
    pub resolution: Option<u32>,
    /// Denoise steps, 1 to 1000.
    pub num_inference_steps: u32,
    /// Guidance scale, 0 to 100; 1 or less turns guidance (and the second forward pass) off.
    pub cfg_scale: f64,
    /// The solver. None: the one that the checkpoint's scheduler names, Euler for all published ones.
    pub sampler: Option<Sampler>,
    /// The noise levels, falling from at most 1 to exactly 0, used as they are; there is one more than there are
    /// steps. `num_inference_steps` then says the same, or keeps its default. None: the checkpoint's schedule.
    pub sigmas: Option<Vec<f64>>,
    /// The most steps in a row that the step cache may skip, 0 to 10; 0 turns it off.
    pub step_cache: u32,
    /// The share of the steps that have guidance, from the start, 0 to 1.
    pub cfg_until: f64,
    /// Rescale the guided prediction of each token to the norm of the unguided one.
    pub cfg_normalize: bool,
    /// Seed of the initial noise, as for `torch.Generator("cpu").manual_seed`. None: a random one, which is in the
    /// output.
    pub seed: Option<u64>,
    /// Ask the text encoder what each layer is, unless the caption says so. It reads each layer's picture and writes a
    /// few words.
    pub name_layers: bool,
    /// The LoRAs of this call, in the order in which they are added. None: those of the pipeline.
    pub loras: Option<Vec<Lora>>,
    /// Adds the checkpoint's Lightning LoRA for so many steps, unless there is one among the others
    /// ([`Preset::Lightning`](super::Preset::Lightning)).
    pub lightning: Option<u32>,
}

impl Default for DecomposeOptions {
    fn default() -> Self {
        Self {
            prompt: String::new(),
            negative_prompt: " ".to_owned(),
            layers: DEFAULT_LAYERS,
            auto_layers: false,
            resolution: None,
            num_inference_steps: DEFAULT_NUM_INFERENCE_STEPS,
            cfg_scale: 4.0,
            sampler: None,
            sigmas: None,
            step_cache: 0,
            cfg_until: 1.0,
            cfg_normalize: true,
            seed: None,
            name_layers: false,
            loras: None,
            lightning: None,
        }
    }
}

impl DecomposeOptions {
    /// Checks the options against the bounds of all checkpoints.
    ///
    /// # Errors
    /// [`PipelineError::Invalid`] with the first field that is out of bounds.
    pub fn check(&self) -> Result<()> {
        if !LAYERS.contains(&self.layers) {
            let (least, most) = LAYERS.into_inner();
            let reason = format!("{} is not between {least} and {most}; most checkpoints make 2 and more", self.layers);
            return Err(PipelineError::invalid("layers", reason));
        }
        if self.auto_layers && self.layers != DEFAULT_LAYERS {
            let reason =
                format!("finds out the number of layers, but layers is {}; leave one of them out", self.layers);
            return Err(PipelineError::invalid("auto_layers", reason));
        }
        if let Some(resolution) = self.resolution
            && !(RESOLUTION.contains(&resolution) && resolution.is_multiple_of(RESOLUTION_STEP))
        {
            let (least, most) = RESOLUTION.into_inner();
            let reason = format!(
                "{resolution} is not a multiple of {RESOLUTION_STEP} from {least} to {most}; the full model supports 640 \
                 and 1024"
            );
            return Err(PipelineError::invalid("resolution", reason));
        }
        check_loras("loras", self.loras.as_deref().unwrap_or_default())?;
        check_lightning(self.lightning, self.num_inference_steps)?;
        SamplingOptions::from(self).check()
    }
}

fn check_lightning(lightning: Option<u32>, steps: u32) -> Result<()> {
    match lightning {
        Some(made_for) if made_for != steps => {
            let reason = format!("is for {made_for} steps, but num_inference_steps is {steps}; both must be the same");
            Err(PipelineError::invalid("lightning", reason))
        }
        _ => Ok(()),
    }
}

/// Checks the strengths of the LoRAs in a field.
pub(crate) fn check_loras(field: &'static str, loras: &[Lora]) -> Result<()> {
    let wrong = loras.iter().find(|lora| !LORA_STRENGTH.contains(&lora.strength));
    wrong.map_or(Ok(()), |Lora { source, strength }| {
        let (least, most) = LORA_STRENGTH.into_inner();
        let reason = format!("{source}: the strength {strength} is not a number from {least} to {most}");
        Err(PipelineError::invalid(field, reason))
    })
}

/// The size of an edited picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OutputSize {
    /// The input picture's size, with its exact alpha.
    #[default]
    Source,
    /// The size that the model works at; alpha is resized to it (Lanczos).
    Model,
}

/// What becomes of the alpha of an edited picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AlphaMode {
    /// It is the source's, bit for bit.
    #[default]
    Keep,
    /// It may change. The edit is made twice, over a dark and over a light ground
    /// ([`GROUNDS`](crate::image_processor::GROUNDS)), with the same noise, and the new alpha is that of the difference
    /// ([`from_two_grounds`](crate::image_processor::from_two_grounds)). Where that says the same as the source's, it
    /// is the source's. An opaque picture keeps its alpha, because both grounds would give the same.
    Grow,
}

/// The options of an edit.
#[derive(Debug, Clone, PartialEq)]
pub struct EditOptions {
    /// What the picture should not show. A single space also counts as a negative prompt.
    pub negative_prompt: String,
    /// Whether the edited picture has the input's size or the model's.
    pub output_size: OutputSize,
    /// Whether the picture may get another outline.
    pub alpha: AlphaMode,
    /// Over how many pixels of the source the edit fades in at the edge of the mask, inside of it, 0 to 512. None: 1 %
    /// of the shorter side, from 1 to 16.
    pub feather: Option<u32>,
    /// Without a mask: find what changed, and put the source's pixels back everywhere else.
    pub keep_rest: bool,
    /// Without a mask: measure how far the edited picture moved against its source, and undo up to 3 % of shift and
    /// zoom ([`Drift`](crate::image_processor::Drift)). diffusers does not.
    pub drift_guard: bool,
    /// Denoise steps, 1 to 1000.
    pub num_inference_steps: u32,
    /// Guidance scale, 0 to 100; 1 or less turns guidance (and the second forward pass) off.
    pub cfg_scale: f64,
    /// The solver. None: the one that the checkpoint's scheduler names, Euler for all published ones.
    pub sampler: Option<Sampler>,
    /// The noise levels, falling from at most 1 to exactly 0, used as they are; there is one more than there are
    /// steps. `num_inference_steps` then says the same, or keeps its default. None: the checkpoint's schedule.
    pub sigmas: Option<Vec<f64>>,
    /// The most steps in a row that the step cache may skip, 0 to 10; 0 turns it off.
    pub step_cache: u32,
    /// The share of the steps that have guidance, from the start, 0 to 1.
    pub cfg_until: f64,
    /// Seed of the initial noise, as for `torch.Generator("cpu").manual_seed`. None: a random one, which is in the
    /// output.
    pub seed: Option<u64>,
    /// The LoRAs of this call, in the order in which they are added. None: those of the pipeline.
    pub loras: Option<Vec<Lora>>,
    /// Adds the checkpoint's Lightning LoRA for so many steps, unless there is one among the others
    /// ([`Preset::Lightning`](super::Preset::Lightning)).
    pub lightning: Option<u32>,
}

impl Default for EditOptions {
    fn default() -> Self {
        let DecomposeOptions {
            negative_prompt,
            num_inference_steps,
            cfg_scale,
            sampler,
            sigmas,
            step_cache,
            cfg_until,
            seed,
            loras,
            lightning,
            ..
        } = DecomposeOptions::default();
        let output_size = OutputSize::default();
        Self {
            negative_prompt,
            output_size,
            alpha: AlphaMode::default(),
            feather: None,
            keep_rest: false,
            drift_guard: false,
            num_inference_steps,
            cfg_scale,
            sampler,
            sigmas,
            step_cache,
            cfg_until,
            seed,
            loras,
            lightning,
        }
    }
}

impl EditOptions {
    /// Like [`DecomposeOptions::check`].
    ///
    /// # Errors
    /// [`PipelineError::Invalid`] with the first field that is out of bounds.
    pub fn check(&self) -> Result<()> {
        if let Some(feather) = self.feather.filter(|feather| !FEATHER.contains(feather)) {
            let (least, most) = FEATHER.into_inner();
            return Err(PipelineError::invalid("feather", format!("{feather} is not between {least} and {most}")));
        }
        check_loras("loras", self.loras.as_deref().unwrap_or_default())?;
        check_lightning(self.lightning, self.num_inference_steps)?;
        SamplingOptions::from(self).check()
    }
}

/// The caption that the text encoder wrote because the prompt was empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caption {
    /// The caption.
    pub text: String,
    /// Its length in tokens of the text encoder.
    pub tokens: u32,
}

/// The output of a decompose.
#[derive(Debug, Clone)]
pub struct DecomposeOutput {
    /// `layers + 1` pictures of one size: the regenerated whole, then the layers back to front. For 0 layers, only the
    /// part that was lifted.
    pub images: Vec<RgbaImage>,
    /// A few words for each layer, where the caption, the prompt or the text encoder clearly say what it is.
    pub layer_names: Vec<Option<String>>,
    /// None: there was a prompt.
    pub caption: Option<Caption>,
    /// The working resolution.
    pub resolution: u32,
    /// The seed that was used.
    pub seed: u64,
    /// How the run was sampled.
    pub sampling: SamplingRecord,
    /// Notes for the user about this run.
    pub notes: Vec<String>,
}

/// How far an edited picture had moved against its source.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DriftRecord {
    /// At the center, right and down, in pixels of the source.
    pub shift: [f64; 2],
    /// How many times larger it had become.
    pub zoom: f64,
    /// Whether it was moved back. False if the drift cannot be seen, or is so large that it may be meant.
    pub undone: bool,
}

/// The output of an edit.
#[derive(Debug, Clone)]
pub struct EditOutput {
    /// The edited picture.
    pub image: RgbaImage,
    /// The seed that was used.
    pub seed: u64,
    /// For [`AlphaMode::Grow`], of the first run, with the passes of both.
    pub sampling: SamplingRecord,
    /// None: not asked for, or too little is alike to tell.
    pub drift: Option<DriftRecord>,
    /// The share of the pixels that may differ from the source's, where a mask was given or found.
    pub changed: Option<f64>,
    /// For [`AlphaMode::Grow`]: the share of the pixels whose alpha may differ from the source's.
    pub alpha_changed: Option<f64>,
    /// Notes for the user about this run.
    pub notes: Vec<String>,
}
