//! Qwen-Image-Layered: a picture -> the regenerated whole, and RGBA layers, back to front.

use std::{ops::ControlFlow, path::Path};

use ::image::RgbaImage;
use candle_core::{DType, Device, Tensor};

use super::{
    callbacks::{Callbacks, Stage},
    components::{Components, LoadOptions},
    constants::{MAX_PROMPT_TOKENS, PipelineKind},
    denoise::Denoise,
    error::{PipelineError, Result},
    guidance::Guidance,
    image_tensor,
    image_tensor::ImageSize,
    latents,
    options::{Caption, DecomposeOptions, DecomposeOutput},
    prompt,
    sampling::SamplingOptions,
    seeds::{check_seeds, only_one},
};
use crate::{
    auto_layers, image_processor,
    layer_names::{crop_to_ask_about, name_from_answer, names_from_caption},
    models::{
        LoadContext, LoadResult,
        text_encoder::{Prompt, TextEncoder, TextPositions},
        vae::Vae,
    },
};

/// The most tokens of a layer's name.
const NAME_TOKENS: usize = 16;

/// diffusers' `QwenImageLayeredPipeline`: splits a picture into layers.
pub struct QwenImageLayeredPipeline(Components);

impl QwenImageLayeredPipeline {
    /// Loads a checkpoint folder onto a device.
    ///
    /// # Errors
    /// [`ModelError`](crate::models::ModelError) if the folder is not a layered checkpoint, or its parts do not fit
    /// together.
    pub fn load(folder: &Path, device: &Device, dtype: DType) -> LoadResult<Self> {
        Self::load_with(folder, LoadOptions::new(LoadContext::new(device, dtype)))
    }

    /// The same, with progress and the given placement of parts.
    ///
    /// # Errors
    /// Those of [`Self::load`], and [`ModelError::Cancelled`](crate::models::ModelError::Cancelled).
    pub fn load_with(folder: &Path, options: LoadOptions<'_>) -> LoadResult<Self> {
        Components::load(folder, PipelineKind::Layered, options).map(Self)
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

    /// Splits the picture into layers.
    ///
    /// # Errors
    /// [`PipelineError::Invalid`] for options that this checkpoint does not support, otherwise the error that stopped
    /// the run.
    pub fn run(
        &self,
        picture: &RgbaImage,
        options: &DecomposeOptions,
        seed: u64,
        callbacks: &mut Callbacks<'_>,
    ) -> Result<DecomposeOutput> {
        only_one(|each| self.run_seeds(picture, options, &[seed], callbacks, each))
    }

    /// Splits the picture once for each seed: the prompt and the picture are encoded once. `each` gets the outputs in
    /// order, as they are decoded, and may break the run off. With the same seed, an output is the same as alone.
    ///
    /// # Errors
    /// Like [`Self::run`]; also if there are no seeds.
    pub fn run_seeds(
        &self,
        picture: &RgbaImage,
        options: &DecomposeOptions,
        seeds: &[u64],
        callbacks: &mut Callbacks<'_>,
        each: &mut dyn FnMut(DecomposeOutput) -> ControlFlow<()>,
    ) -> Result<()> {
        check_seeds(seeds)?;
        options.check()?;
        let sampling = SamplingOptions::from(options);
        image_tensor::check_shape(picture)?;
        self.0.constants.check(options)?;
        let resolution = options.resolution.unwrap_or(self.0.constants.resolutions[0]);
        let lifts = self.0.constants.lifts();
        let layers = if options.auto_layers { *self.0.constants.layers.end() } else { options.layers };
        let size = ImageSize::with_area(resolution * resolution, picture.width(), picture.height());
        let resized = image_processor::lanczos(picture, size.width, size.height);

        let encoder = self.0.text_encoder.enter()?;
        let mut prompt = options.prompt.clone();
        let mut caption = None;
        if matches!(options.prompt.as_str(), "" | " ") {
            let written = callbacks.stage(Stage::Caption, |callbacks| self.caption(&encoder, &resized, callbacks))?;
            prompt.clone_from(&written.text);
            caption = Some(written);
        }
        let mut notes = Vec::new();
        let (positive, negative) = callbacks.stage(Stage::TextEncode, |_| {
            let negative = sampling
                .is_guided()
                .then(|| self.embed(&encoder, "negative_prompt", &options.negative_prompt, &mut notes))
                .transpose()?;
            Ok((self.embed(&encoder, "prompt", &prompt, &mut notes)?, negative))
        })?;
        drop(encoder);
        let condition = callbacks.stage(Stage::VaeEncode, |_| {
            Ok(self.0.vae.enter()?.encode(&image_tensor::rgba_to_tensor(&resized, &self.0.device)?)?)
        })?;

        let frame = latents::frame_of(&condition)?;
        let targets = layers as usize + 1;
        let channels = self.0.vae.about(Vae::latent_channels);
        let scheduler = &self.0.scheduler;
        let plan = sampling.plan(scheduler, |steps, spacing| scheduler.layered(steps, frame.patches(), spacing));
        let packed_condition = latents::pack(&condition)?;
        let denoised = callbacks.stage(Stage::Denoise, |callbacks| {
            let transformers = self.0.transformers(negative.is_some())?;
            let denoise = |(index, seed): (usize, &u64)| {
                let noise = latents::noise(*seed, targets, frame, channels, &self.0.device)?;
                let denoise = Denoise {
                    transformers: &transformers,
                    dtype: self.0.dtype,
                    plan: plan.clone(),
                    frames: &vec![frame; targets + 1],
                    condition: &packed_condition,
                    prompt: &positive,
                    negative: negative.as_ref(),
                    guidance: Guidance {
                        scale: options.cfg_scale,
                        normalize: options.cfg_normalize,
                        order: transformers.order(),
                    },
                    held: None,
                };
                callbacks.in_part(index, seeds.len(), |callbacks| denoise.run(noise, callbacks))
            };
            seeds.iter().enumerate().map(denoise).collect::<Result<Vec<_>>>()
        })?;

        callbacks.report(Stage::VaeDecode, 0, 0)?;
        for (index, (seed, (packed, sampling))) in seeds.iter().zip(denoised).enumerate() {
            let mut images = callbacks.timed(Stage::VaeDecode, |callbacks| {
                let vae = self.0.vae.enter()?;
                let mut images = Vec::with_capacity(targets);
                for target in 0..targets {
                    let patches = packed.narrow(1, target * frame.patches(), frame.patches())?;
                    images.push(image_tensor::to_picture(&vae.decode(&latents::unpack(&patches, frame)?)?)?);
                    callbacks.in_part(index, seeds.len(), |c| c.report(Stage::VaeDecode, target + 1, targets))?;
                }
                Ok::<_, PipelineError>(images)
            })?;
            if options.auto_layers {
                let layers = auto_layers(images.split_off(1));
                images.extend(layers);
            }
            let mut layer_names = match lifts {
                true => vec![name_from_answer(&prompt)],
                false => names_from_caption(&prompt, &images[1..]),
            };
            if options.name_layers && !lifts {
                callbacks
                    .stage(Stage::Caption, |callbacks| self.ask_names(&images[1..], &mut layer_names, callbacks))?;
            }
            let (caption, notes, seed) = (caption.clone(), notes.clone(), *seed);
            let output = DecomposeOutput { images, layer_names, caption, resolution, seed, sampling, notes };
            if each(output).is_break() {
                return Err(PipelineError::Cancelled);
            }
        }
        Ok(())
    }

    /// Embeds a text; adds a note if its end was cut off.
    fn embed(&self, encoder: &TextEncoder, name: &str, text: &str, notes: &mut Vec<String>) -> Result<Tensor> {
        let prompt = Prompt {
            text: &prompt::decompose(text),
            pictures: &[],
            // Without pictures, both rules give the same positions.
            text_positions: TextPositions::Sequential,
            drop: self.0.constants.prompt_template_encode_start_idx,
            keep: Some(MAX_PROMPT_TOKENS),
        };
        let embedded = encoder.embed(&prompt)?;
        if embedded.tokens > MAX_PROMPT_TOKENS {
            notes.push(format!(
                "{name} has {} tokens; the model reads {MAX_PROMPT_TOKENS}, so the rest was ignored",
                embedded.tokens
            ));
        }
        Ok(embedded.states)
    }

    /// Asks the text encoder about the layers that have no name yet.
    fn ask_names(
        &self,
        layers: &[RgbaImage],
        names: &mut [Option<String>],
        callbacks: &mut Callbacks<'_>,
    ) -> Result<()> {
        let encoder = self.0.text_encoder.enter()?;
        for (layer, name) in layers.iter().zip(names).filter(|(_, name)| name.is_none()) {
            let Some(crop) = crop_to_ask_about(layer) else { continue };
            let mut report = |token: usize, of: usize| match callbacks.report(Stage::Caption, token, of) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            };
            let backend = self.0.constants.image_processor;
            let answer = encoder.caption(prompt::LAYER_NAME, &crop, backend, NAME_TOKENS, &mut report)?;
            *name = name_from_answer(&answer.ok_or(PipelineError::Cancelled)?.text);
        }
        Ok(())
    }

    /// The text encoder's caption of the picture.
    fn caption(&self, encoder: &TextEncoder, resized: &RgbaImage, callbacks: &mut Callbacks<'_>) -> Result<Caption> {
        let flat = image_processor::on_white(resized);
        let constants = &self.0.constants;
        let (backend, most) = (constants.image_processor, constants.caption_max_new_tokens);
        let mut report = |token: usize, of: usize| match callbacks.report(Stage::Caption, token, of) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        };
        match encoder.caption(prompt::CAPTION, &flat, backend, most, &mut report)? {
            Some(caption) => Ok(Caption { tokens: caption.tokens.len() as u32, text: caption.text }),
            None => Err(PipelineError::Cancelled),
        }
    }
}
