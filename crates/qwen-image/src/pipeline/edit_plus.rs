//! Qwen-Image-Edit-2509 and -2511: one to three pictures and an instruction -> one picture.

use std::path::Path;

use ::image::{RgbImage, RgbaImage};
use candle_core::{DType, Device, Tensor};

use super::{
    callbacks::{Callbacks, Stage},
    components::{Components, LoadOptions},
    constants::PipelineKind,
    denoise::Denoise,
    error::{PipelineError, Result},
    finish::{Finished, finish},
    held::HeldLatents,
    image_tensor,
    image_tensor::Size,
    latents,
    options::{AlphaMode, EditInputs, EditOptions, EditOutput},
    prompt,
    sampling::{Sampling, SamplingRecord},
};
use crate::{
    image_processor::{self, GROUNDS, Mask, MaskCoverage},
    models::{LoadContext, LoadResult, text_encoder::Prompt, vae::Vae},
};

/// The maximum number of pictures in addition to the edited one.
pub const MOST_REFERENCES: usize = 2;

pub struct QwenImageEditPlusPipeline(Components);

impl QwenImageEditPlusPipeline {
    /// Loads a checkpoint folder onto a device.
    pub fn load(folder: &Path, device: &Device, dtype: DType) -> LoadResult<Self> {
        Self::load_with(folder, LoadOptions::new(LoadContext::new(device, dtype)))
    }

    /// The same, with progress and the given placement of parts.
    pub fn load_with(folder: &Path, options: LoadOptions<'_>) -> LoadResult<Self> {
        Components::load(folder, PipelineKind::EditPlus, options).map(Self)
    }

    pub fn components(&self) -> &Components {
        &self.0
    }

    /// The same with other LoRAs; see [`Components::with_loras`].
    pub fn with_loras(self, folder: &Path, options: LoadOptions<'_>) -> LoadResult<Self> {
        self.0.with_loras(folder, options).map(Self)
    }

    pub(crate) fn components_mut(&mut self) -> &mut Components {
        &mut self.0
    }

    /// Edits a picture. The model sees RGB; alpha bypasses it, or is found by a second run. Outside a mask, the latents are held on the picture's
    /// trajectory, and the finished pixels are those of the picture.
    ///
    /// # Errors
    /// [`PipelineError::Invalid`] for options or pictures that this checkpoint does not support, otherwise the error
    /// that stopped the run.
    pub fn run(
        &self,
        inputs: EditInputs<'_>,
        instruction: &str,
        options: &EditOptions,
        seed: u64,
        callbacks: &mut Callbacks<'_>,
    ) -> Result<EditOutput> {
        options.check()?;
        let references = inputs.references.len();
        if references > MOST_REFERENCES {
            let reason = format!("{references} references were given; the model reads at most {MOST_REFERENCES}");
            return Err(PipelineError::invalid("input", reason));
        }
        inputs.numbered().try_for_each(image_tensor::check_shape)?;
        let mask = checked_mask(&inputs, options)?;
        let mut pictures: Vec<_> = inputs.references.iter().map(image_processor::rgb_of).collect();
        let (given, notes) = given(inputs.image, options.alpha);
        let (mut seen, mut edited, mut sampling) = (Vec::new(), Vec::new(), SamplingRecord::default());
        for picture in given {
            pictures.push(picture);
            let (made, record) = self.run_rgb(&pictures, mask, instruction, options, seed, callbacks)?;
            seen.extend(pictures.pop());
            let passes = sampling.passes + record.passes;
            sampling = SamplingRecord { passes, ..if edited.is_empty() { record } else { sampling } };
            edited.push(made);
        }
        let Finished { image, drift, changed, alpha_changed } = finish(edited, inputs.image, &seen, mask, options);
        Ok(EditOutput { image, seed, sampling, drift, changed, alpha_changed, notes })
    }

    fn run_rgb(
        &self,
        pictures: &[RgbImage],
        mask: Option<&Mask>,
        instruction: &str,
        options: &EditOptions,
        seed: u64,
        callbacks: &mut Callbacks<'_>,
    ) -> Result<(RgbImage, SamplingRecord)> {
        let sampling = Sampling::from(options);
        let (positive, negative) = callbacks.stage(Stage::TextEncode, |callbacks| {
            let encoder = self.0.text_encoder.enter()?;
            let mut tokens = Vec::with_capacity(pictures.len());
            for picture in pictures {
                let size = Size::with_area(self.0.constants.condition_area, picture.width(), picture.height());
                let resized = image_processor::lanczos_rgb(picture, size.width, size.height);
                tokens.push(encoder.encode_picture(&resized, self.0.constants.image_processor)?);
                callbacks.report(Stage::TextEncode, tokens.len(), pictures.len())?;
            }
            let embed = |text: &str| -> Result<Tensor> {
                let prompt = Prompt {
                    text: &prompt::edit(pictures.len(), text),
                    pictures: &tokens,
                    text_positions: self.0.constants.text_positions,
                    drop: self.0.constants.prompt_template_encode_start_idx,
                    keep: None,
                };
                Ok(encoder.embed(&prompt)?.states)
            };
            let negative = sampling.is_guided().then(|| embed(&options.negative_prompt)).transpose()?;
            Ok((embed(instruction)?, negative))
        })?;
        let references = callbacks.stage(Stage::VaeEncode, |callbacks| {
            let vae = self.0.vae.enter()?;
            let mut references = Vec::with_capacity(pictures.len());
            for (index, picture) in pictures.iter().enumerate() {
                let size = Size::with_area(self.0.constants.vae_area, picture.width(), picture.height());
                let resized = image_processor::lanczos_rgb(picture, size.width, size.height);
                references.push(vae.encode(&image_tensor::rgb_to_tensor(&resized, &self.0.device)?)?);
                callbacks.report(Stage::VaeEncode, index + 1, pictures.len())?;
            }
            Ok(references)
        })?;

        // The output has the aspect ratio of the last reference.
        let frames: Vec<_> = references.iter().map(latents::frame_of).collect::<candle_core::Result<_>>()?;
        let frame = frames[frames.len() - 1];
        let packed: Vec<_> = references.iter().map(latents::pack).collect::<candle_core::Result<_>>()?;
        let noise = latents::noise(seed, 1, frame, self.0.vae.about(Vae::latent_channels), &self.0.device)?;
        let source = &packed[packed.len() - 1];
        let held = mask.map(|mask| HeldLatents::new(mask, source, &noise, frame, &self.0.device)).transpose()?;
        let scheduler = &self.0.scheduler;
        let plan = sampling.plan(scheduler, |steps| scheduler.edit(steps, frame.patches()));
        let (latents, sampling) = callbacks.stage(Stage::Denoise, |callbacks| {
            let transformer = self.0.transformer.enter()?;
            let denoise = Denoise {
                transformer: &transformer,
                device: &self.0.device,
                dtype: self.0.dtype,
                plan,
                frames: &[&[frame], frames.as_slice()].concat(),
                condition: &Tensor::cat(&packed, 1)?,
                prompt: &positive,
                negative: negative.as_ref(),
                guidance: self.0.guidance(&transformer, options.cfg_scale, true),
                held: held.as_ref(),
            };
            denoise.run(noise, callbacks)
        })?;
        let image = callbacks.stage(Stage::VaeDecode, |_| {
            image_tensor::to_picture(&self.0.vae.enter()?.decode(&latents::unpack(&latents, frame)?)?)
        })?;
        Ok((image, sampling))
    }
}

/// The picture as the model gets it: once, or over each ground; and a note if only once is of use.
fn given(image: &RgbaImage, alpha: AlphaMode) -> (Vec<RgbImage>, Vec<String>) {
    let is_opaque = || image.pixels().all(|pixel| pixel[3] == u8::MAX);
    match alpha {
        AlphaMode::Keep => (vec![image_processor::rgb_of(image)], Vec::new()),
        AlphaMode::Grow if is_opaque() => {
            let note = "alpha grow had no effect, because the picture is opaque everywhere; edit a layer of it";
            (vec![image_processor::rgb_of(image)], vec![note.to_owned()])
        }
        AlphaMode::Grow => (GROUNDS.map(|ground| image_processor::over_ground(image, ground)).to_vec(), Vec::new()),
    }
}

/// The mask, unless it lets everything change.
fn checked_mask<'a>(inputs: &EditInputs<'a>, options: &EditOptions) -> Result<Option<&'a Mask>> {
    let Some(mask) = inputs.mask else { return Ok(None) };
    let invalid = |field, reason: String| Err(PipelineError::invalid(field, reason));
    if options.keep_rest {
        return invalid("keep_rest", "finds what changed without a mask; give a mask, or this".to_owned());
    }
    let ((width, height), (wanted_width, wanted_height)) = (mask.dimensions(), inputs.image.dimensions());
    if (width, height) != (wanted_width, wanted_height) {
        return invalid("mask", format!("is {width}x{height}, but the picture is {wanted_width}x{wanted_height}"));
    }
    match mask.coverage() {
        MaskCoverage::Empty => invalid("mask", "is black everywhere, so that nothing may change".to_owned()),
        MaskCoverage::Part => Ok(Some(mask)),
        MaskCoverage::Full => Ok(None),
    }
}
