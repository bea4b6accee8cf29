//! What a call asks for, and what it gives: diffusers' names and defaults, except that guidance is on.

use std::ops::RangeInclusive;

use ::image::RgbaImage;

use super::error::{PipelineError, Result};

/// Layers that a decompose may ask for; a checkpoint may have been trained for fewer.
pub const LAYERS: RangeInclusive<u32> = 2..=10;
/// Denoise steps.
pub const NUM_INFERENCE_STEPS: RangeInclusive<u32> = 1..=1000;
pub const CFG_SCALE: RangeInclusive<f64> = 0.0..=100.0;
/// Sides in pixels, multiples of [`RESOLUTION_STEP`]; a checkpoint takes a few of them.
pub const RESOLUTION: RangeInclusive<u32> = 32..=4096;
pub const RESOLUTION_STEP: u32 = 32;

/// How a picture is taken apart.
#[derive(Debug, Clone, PartialEq)]
pub struct DecomposeOptions {
    /// A description of the whole picture; empty: the text encoder writes one, in English.
    pub prompt: String,
    /// What the picture should not be. A single blank still guides; diffusers switches guidance off without one.
    pub negative_prompt: String,
    /// Number of layers, 2 to 10, and no more than the checkpoint was trained for.
    pub layers: u32,
    /// Side of the square whose area the model works at, in pixels. None: the first that the checkpoint was made for,
    /// 640 for the full model.
    pub resolution: Option<u32>,
    /// Denoise steps, 1 to 1000.
    pub num_inference_steps: u32,
    /// Guidance scale, 0 to 100; 1 or less switches guidance (and the second forward pass) off.
    pub cfg_scale: f64,
    /// Rescale the guided prediction of each token to the norm of the unguided one.
    pub cfg_normalize: bool,
    /// Of the initial noise, as `torch.Generator("cpu").manual_seed`. None: a random one, which the output names.
    pub seed: Option<u64>,
}

impl Default for DecomposeOptions {
    fn default() -> Self {
        Self {
            prompt: String::new(),
            negative_prompt: " ".to_owned(),
            layers: 4,
            resolution: None,
            num_inference_steps: 50,
            cfg_scale: 4.0,
            cfg_normalize: true,
            seed: None,
        }
    }
}

impl DecomposeOptions {
    /// Whether any checkpoint could take these options.
    ///
    /// # Errors
    /// [`PipelineError::Invalid`] with the first field that is out of bounds.
    pub fn check(&self) -> Result<()> {
        if !LAYERS.contains(&self.layers) {
            return Err(PipelineError::invalid("layers", format!("{} is not between 2 and 10", self.layers)));
        }
        if let Some(resolution) = self.resolution
            && !(RESOLUTION.contains(&resolution) && resolution.is_multiple_of(RESOLUTION_STEP))
        {
            let reason =
                format!("{resolution} is not a multiple of 32 from 32 to 4096; the full model supports 640 and 1024");
            return Err(PipelineError::invalid("resolution", reason));
        }
        check_sampling(self.num_inference_steps, self.cfg_scale)
    }
}

fn check_sampling(steps: u32, cfg_scale: f64) -> Result<()> {
    if !NUM_INFERENCE_STEPS.contains(&steps) {
        return Err(PipelineError::invalid("num_inference_steps", format!("{steps} is not between 1 and 1000")));
    }
    if !CFG_SCALE.contains(&cfg_scale) {
        let reason = format!("{cfg_scale} is not a number between 0 and 100; 4 is usual, 1 turns guidance off");
        return Err(PipelineError::invalid("cfg_scale", reason));
    }
    Ok(())
}

/// What size an edited picture has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OutputSize {
    /// The edited picture's own size before the edit, with its own alpha untouched.
    #[default]
    Source,
    /// The size that the model works at; alpha is resized to it (Lanczos).
    Model,
}

/// How a picture is edited.
#[derive(Debug, Clone, PartialEq)]
pub struct EditOptions {
    /// What the picture should not be. A single blank still guides.
    pub negative_prompt: String,
    pub output_size: OutputSize,
    /// Denoise steps, 1 to 1000.
    pub num_inference_steps: u32,
    /// Guidance scale, 0 to 100; 1 or less switches guidance (and the second forward pass) off.
    pub cfg_scale: f64,
    /// Of the initial noise, as `torch.Generator("cpu").manual_seed`. None: a random one, which the output names.
    pub seed: Option<u64>,
}

impl Default for EditOptions {
    fn default() -> Self {
        let DecomposeOptions { negative_prompt, num_inference_steps, cfg_scale, .. } = DecomposeOptions::default();
        Self { negative_prompt, output_size: OutputSize::default(), num_inference_steps, cfg_scale, seed: None }
    }
}

impl EditOptions {
    /// Like [`DecomposeOptions::check`].
    ///
    /// # Errors
    /// [`PipelineError::Invalid`] with the first field that is out of bounds.
    pub fn check(&self) -> Result<()> {
        check_sampling(self.num_inference_steps, self.cfg_scale)
    }
}

/// The pictures of an edit.
#[derive(Debug, Clone, Copy)]
pub struct EditInputs<'a> {
    /// The one that is edited; the output has its shape.
    pub image: &'a RgbaImage,
    /// Up to two that the instruction may speak of. They are numbered before the edited one: "Picture 1", "Picture 2".
    pub references: &'a [RgbaImage],
}

impl<'a> EditInputs<'a> {
    /// All of them in the order in which the model numbers them.
    pub(crate) fn numbered(&self) -> impl Iterator<Item = &'a RgbaImage> + use<'a> {
        self.references.iter().chain(std::iter::once(self.image))
    }
}

/// The description that the text encoder wrote because the prompt was empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caption {
    pub text: String,
    pub tokens: u32,
}

/// What a decompose made.
#[derive(Debug, Clone)]
pub struct DecomposeOutput {
    /// `layers + 1` pictures of one size: the whole as the model regenerates it, then the layers back to front.
    pub images: Vec<RgbaImage>,
    pub caption: Option<Caption>,
    /// The `resolution` that the model worked at.
    pub resolution: u32,
    /// That was used.
    pub seed: u64,
    /// What the user should know about this run.
    pub notes: Vec<String>,
}

/// What an edit made.
#[derive(Debug, Clone)]
pub struct EditOutput {
    pub image: RgbaImage,
    /// That was used.
    pub seed: u64,
    /// What the user should know about this run.
    pub notes: Vec<String>,
}
