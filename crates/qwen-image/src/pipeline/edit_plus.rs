//! Qwen-Image-Edit-2509 and -2511: one to three pictures and an instruction -> one picture.

use std::{ops::ControlFlow, path::Path};

use ::image::{RgbImage, RgbaImage};
use candle_core::{DType, Device, Tensor};

use super::{
    callbacks::{Callbacks, Stage},
    components::{Components, LoadOptions},
    constants::PipelineKind,
    denoise::Denoise,
    edit_inputs::EditInputs,
    error::{PipelineError, Result},
    finish::{Finished, finish},
    guidance::Guidance,
    held::HeldLatents,
    image_tensor,
    image_tensor::ImageSize,
    latents,
    options::{AlphaMode, EditOptions, EditOutput},
    prompt,
    sampling::{SamplingOptions, SamplingRecord},
    seeds::{check_seeds, only_one},
};
use crate::{
    image_processor::{self, GROUNDS, Mask},
    models::{LoadContext, LoadResult, text_encoder::Prompt, vae::Vae},
};

/// diffusers' `QwenImageEditPlusPipeline`: edits a picture by an instruction.
pub struct QwenImageEditPlusPipeline(Components);

impl QwenImageEditPlusPipeline {
    /// Loads a checkpoint folder onto a device.
    ///
    /// # Errors
    /// [`ModelError`](crate::models::ModelError) if the folder is not a checkpoint for edits, or its parts do not fit
    /// together.
    pub fn load(folder: &Path, device: &Device, dtype: DType) -> LoadResult<Self> {
        Self::load_with(folder, LoadOptions::new(LoadContext::new(device, dtype)))
    }

    /// The same, with progress and the given placement of parts.
    ///
    /// # Errors
    /// Those of [`Self::load`], and [`ModelError::Cancelled`](crate::models::ModelError::Cancelled).
    pub fn load_with(folder: &Path, options: LoadOptions<'_>) -> LoadResult<Self> {
        Components::load(folder, PipelineKind::EditPlus, options).map(Self)
    }

    /// The parts of the checkpoint.
    pub fn components(&self) -> &Components {
        &self.0
    }

    /// The same with other LoRAs; see [`Components::with_loras`].
    ///
    /// # Errors
    /// Those of [`Components::with_loras`].
    pub fn with_loras(self, folder: &Path, options: LoadOptions<'_>) -> LoadResult<Self> {
        self.0.with_loras(folder, options).map(Self)
    }

    pub(crate) fn components_mut(&mut self) -> &mut Components {
        &mut self.0
    }

    /// Edits a picture. The model sees RGB; alpha bypasses it, or is found by a second run. Outside a mask, the latents
    /// are held on the picture's trajectory, and the finished pixels are those of the picture.
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
        only_one(|each| self.run_seeds(inputs, instruction, options, &[seed], callbacks, each))
    }

    /// Edits the picture once for each seed: the instruction and the pictures are encoded once. `each` gets the outputs
    /// in order, and may break the run off. With the same seed, an output is the same as alone.
    ///
    /// # Errors
    /// Like [`Self::run`]; also if there are no seeds.
    pub fn run_seeds(
        &self,
        inputs: EditInputs<'_>,
        instruction: &str,
        options: &EditOptions,
        seeds: &[u64],
        callbacks: &mut Callbacks<'_>,
        each: &mut dyn FnMut(EditOutput) -> ControlFlow<()>,
    ) -> Result<()> {
        check_seeds(seeds)?;
        let mask = inputs.check(instruction, options)?;
        let mut pictures: Vec<_> = inputs.references.iter().map(image_processor::rgb_of).collect();
        let (given, notes) = given(inputs.image, options.alpha);
        // For each seed, its pictures over each ground, and how they were sampled.
        let mut made = vec![(Vec::new(), SamplingRecord::default()); seeds.len()];
        let (mut seen, grounds) = (Vec::new(), given.len());
        for (ground, picture) in given.into_iter().enumerate() {
            pictures.push(picture);
            let part = GroundRun { index: ground, of: grounds };
            let runs = self.run_rgb(&pictures, mask, instruction, options, seeds, part, callbacks)?;
            seen.extend(pictures.pop());
            for ((edited, sampling), (picture, record)) in made.iter_mut().zip(runs) {
                let passes = sampling.passes + record.passes;
                let parallel_passes = sampling.parallel_passes + record.parallel_passes;
                let first = if edited.is_empty() { record } else { std::mem::take(sampling) };
                *sampling = SamplingRecord { passes, parallel_passes, ..first };
                edited.push(picture);
            }
        }
        for (&seed, (edited, sampling)) in seeds.iter().zip(made) {
            if callbacks.is_cancelled() {
                return Err(PipelineError::Cancelled);
            }
            let Finished { image, drift, changed, alpha_changed } = finish(edited, inputs.image, &seen, mask, options);
            let notes = notes.clone();
            let output = EditOutput { image, seed, sampling, drift, changed, alpha_changed, notes };
            if each(output).is_break() {
                return Err(PipelineError::Cancelled);
            }
        }
        Ok(())
    }

    /// One picture for each seed.
    #[expect(clippy::too_many_arguments, reason = "all are of one call, and named where it is made")]
    fn run_rgb(
        &self,
        pictures: &[RgbImage],
        mask: Option<&Mask>,
        instruction: &str,
        options: &EditOptions,
        seeds: &[u64],
        part: GroundRun,
        callbacks: &mut Callbacks<'_>,
    ) -> Result<Vec<(RgbImage, SamplingRecord)>> {
        let sampling = SamplingOptions::from(options);
        let (positive, negative) = callbacks.stage(Stage::TextEncode, |callbacks| {
            let encoder = self.0.text_encoder.enter()?;
            let mut tokens = Vec::with_capacity(pictures.len());
            for picture in pictures {
                let size = ImageSize::with_area(self.0.constants.condition_area, picture.width(), picture.height());
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
                let size = ImageSize::with_area(self.0.constants.vae_area, picture.width(), picture.height());
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
        let channels = self.0.vae.about(Vae::latent_channels);
        let source = &packed[packed.len() - 1];
        let condition = Tensor::cat(&packed, 1)?;
        let scheduler = &self.0.scheduler;
        let plan = sampling.plan(scheduler, |steps, spacing| scheduler.edit(steps, frame.patches(), spacing));
        let parts = part.of * seeds.len();
        let part_of = |index: usize| part.index * seeds.len() + index;
        let denoised = callbacks.stage(Stage::Denoise, |callbacks| {
            let transformers = self.0.transformers(negative.is_some())?;
            let denoise = |(index, seed): (usize, &u64)| {
                let noise = latents::noise(*seed, 1, frame, channels, &self.0.device)?;
                let held =
                    mask.map(|mask| HeldLatents::new(mask, source, &noise, frame, &self.0.device)).transpose()?;
                let denoise = Denoise {
                    transformers: &transformers,
                    dtype: self.0.dtype,
                    plan: plan.clone(),
                    frames: &[&[frame], frames.as_slice()].concat(),
                    condition: &condition,
                    prompt: &positive,
                    negative: negative.as_ref(),
                    guidance: Guidance { scale: options.cfg_scale, normalize: true, order: transformers.order() },
                    held: held.as_ref(),
                };
                callbacks.in_part(part_of(index), parts, |callbacks| denoise.run(noise, callbacks))
            };
            seeds.iter().enumerate().map(denoise).collect::<Result<Vec<_>>>()
        })?;
        callbacks.stage(Stage::VaeDecode, |callbacks| {
            let vae = self.0.vae.enter()?;
            let mut made = Vec::with_capacity(denoised.len());
            for (index, (latents, sampling)) in denoised.into_iter().enumerate() {
                made.push((image_tensor::to_picture(&vae.decode(&latents::unpack(&latents, frame)?)?)?, sampling));
                if parts > 1 {
                    callbacks.in_part(part_of(index), parts, |callbacks| callbacks.report(Stage::VaeDecode, 1, 1))?;
                }
            }
            Ok(made)
        })
    }
}

/// Which of the runs over several grounds it is.
#[derive(Clone, Copy)]
struct GroundRun {
    index: usize,
    of: usize,
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
