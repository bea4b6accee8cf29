//! The options and outputs of calls, with diffusers' names and defaults, except that guidance is on.

use std::ops::RangeInclusive;

use ::image::RgbaImage;

use super::error::{PipelineError, Result};

/// The number of layers that a decompose may request; a checkpoint may be trained for fewer.
pub const LAYERS: RangeInclusive<u32> = 2..=10;
/// Denoise steps.
pub const NUM_INFERENCE_STEPS: RangeInclusive<u32> = 1..=1000;
pub const CFG_SCALE: RangeInclusive<f64> = 0.0..=100.0;
/// Resolutions in pixels, multiples of [`RESOLUTION_STEP`]; a checkpoint supports a few of them.
pub const RESOLUTION: RangeInclusive<u32> = 32..=4096;
pub const RESOLUTION_STEP: u32 = 32;

/// The options of a decompose.
#[derive(Debug, Clone, PartialEq)]
pub struct DecomposeOptions {
    /// A caption of the whole picture. Empty: the text encoder writes one in English.
    pub prompt: String,
    /// What the picture should not show. A single space still guides; diffusers turns guidance off without a negative
    /// prompt.
    pub negative_prompt: String,
    /// Number of layers, 2 to 10, but no more than the checkpoint was trained for.
    pub layers: u32,
    /// Working resolution in pixels, the side of a square with the same area. None: the first one that the checkpoint
    /// was made for, 640 for the full model.
    pub resolution: Option<u32>,
    /// Denoise steps, 1 to 1000.
    pub num_inference_steps: u32,
    /// Guidance scale, 0 to 100; 1 or less turns guidance (and the second forward pass) off.
    pub cfg_scale: f64,
    /// Rescale the guided prediction of each token to the norm of the unguided one.
    pub cfg_normalize: bool,
    /// Seed of the initial noise, as for `torch.Generator("cpu").manual_seed`. None: a random one, which is in the
    /// output.
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
    /// Checks the options against the bounds of all checkpoints.
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

/// The size of an edited picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OutputSize {
    /// The input picture's size, with its exact alpha.
    #[default]
    Source,
    /// The size that the model works at; alpha is resized to it (Lanczos).
    Model,
}

/// The options of an edit.
#[derive(Debug, Clone, PartialEq)]
pub struct EditOptions {
    /// What the picture should not show. A single space still guides.
    pub negative_prompt: String,
    pub output_size: OutputSize,
    /// Denoise steps, 1 to 1000.
    pub num_inference_steps: u32,
    /// Guidance scale, 0 to 100; 1 or less turns guidance (and the second forward pass) off.
    pub cfg_scale: f64,
    /// Seed of the initial noise, as for `torch.Generator("cpu").manual_seed`. None: a random one, which is in the
    /// output.
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
    /// The picture to edit; the output has its aspect ratio.
    pub image: &'a RgbaImage,
    /// Up to two that the instruction may refer to. They are numbered before the edited one: "Picture 1", "Picture 2".
    pub references: &'a [RgbaImage],
}

impl<'a> EditInputs<'a> {
    /// All pictures in the order of the model's numbering.
    pub(crate) fn numbered(&self) -> impl Iterator<Item = &'a RgbaImage> + use<'a> {
        self.references.iter().chain(std::iter::once(self.image))
    }
}

/// The caption that the text encoder wrote because the prompt was empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caption {
    pub text: String,
    pub tokens: u32,
}

/// The output of a decompose.
#[derive(Debug, Clone)]
pub struct DecomposeOutput {
    /// `layers + 1` pictures of one size: the regenerated whole, then the layers back to front.
    pub images: Vec<RgbaImage>,
    pub caption: Option<Caption>,
    /// The working resolution.
    pub resolution: u32,
    /// The seed that was used.
    pub seed: u64,
    /// Notes for the user about this run.
    pub notes: Vec<String>,
}

/// The output of an edit.
#[derive(Debug, Clone)]
pub struct EditOutput {
    pub image: RgbaImage,
    /// The seed that was used.
    pub seed: u64,
    /// Notes for the user about this run.
    pub notes: Vec<String>,
}
