//! Qwen-Image-Edit-2509 and -2511: one to three pictures and an instruction -> one picture.

use std::path::Path;

use ::image::{RgbImage, RgbaImage};
use candle_core::{DType, Device, Tensor};

use super::{
    checkpoint::{Checkpoint, LoadOptions},
    constants::Pipeline,
    control::Control,
    denoise::Denoise,
    error::{PipelineError, Result},
    latents, picture,
    picture::Size,
    prompt,
};
use crate::{
    image,
    job::{EditParams, OutputSize, Stage},
    models::{
        Loaded, Loading, Part,
        text_encoder::{Prompt, TextEncoder},
        vae::Vae,
    },
};

pub struct EditPipeline(Checkpoint);

impl EditPipeline {
    /// Loads a checkpoint folder onto a device.
    pub fn load(folder: &Path, device: &Device, dtype: DType) -> Loaded<Self> {
        Self::load_with(folder, LoadOptions::new(Loading::new(device, dtype)))
    }

    /// The same, watched, with the parts where they are wanted.
    pub fn load_with(folder: &Path, options: LoadOptions<'_>) -> Loaded<Self> {
        Checkpoint::load(folder, Pipeline::EditPlus, options).map(Self)
    }

    pub fn checkpoint(&self) -> &Checkpoint {
        &self.0
    }

    /// Takes another checkpoint's text encoder, which is the same one.
    pub fn share_text_encoder(&mut self, encoder: Part<TextEncoder>) {
        self.0.text_encoder = encoder;
    }

    /// What the checkpoint says about itself.
    pub fn note(&self) -> Option<&str> {
        self.0.constants.note.as_deref()
    }

    /// Edits the last picture, with the others as references. The model sees RGB; alpha goes around it.
    pub fn run(
        &self,
        pictures: &[RgbaImage],
        params: &EditParams,
        seed: u64,
        control: &mut Control<'_>,
        watch: impl FnMut(usize, &Tensor),
    ) -> Result<RgbaImage> {
        let Some(source) = pictures.last() else {
            return Err(PipelineError::Invalid { field: "input", reason: "an edit needs a picture".to_owned() });
        };
        pictures.iter().try_for_each(picture::check_shape)?;
        let edited =
            self.run_rgb(&pictures.iter().map(image::rgb_of).collect::<Vec<_>>(), params, seed, control, watch)?;
        Ok(match params.output_size {
            OutputSize::Source => image::back_to_source(&edited, source),
            OutputSize::Model => image::at_model_size(&edited, source),
        })
    }

    fn run_rgb(
        &self,
        pictures: &[RgbImage],
        params: &EditParams,
        seed: u64,
        control: &mut Control<'_>,
        watch: impl FnMut(usize, &Tensor),
    ) -> Result<RgbImage> {
        let (positive, negative) = control.stage(Stage::TextEncode, |control| {
            let encoder = self.0.text_encoder.enter()?;
            let mut tokens = Vec::with_capacity(pictures.len());
            for picture in pictures {
                let size = Size::with_area(self.0.constants.condition_area, picture.width(), picture.height());
                let resized = image::lanczos_rgb(picture, size.width, size.height);
                let seen = picture::fit(&encoder, &resized)?;
                tokens.push(encoder.encode_picture(picture::view(&seen))?);
                control.report(Stage::TextEncode, tokens.len(), pictures.len())?;
            }
            let embed = |text: &str| -> Result<Tensor> {
                let prompt = Prompt {
                    text: &prompt::edit(pictures.len(), text),
                    pictures: &tokens,
                    rule: self.0.constants.text_positions.rule(),
                    drop: self.0.constants.prompt_template_encode_start_idx,
                    keep: None,
                };
                Ok(encoder.embed(&prompt)?.states)
            };
            let negative = (params.cfg_scale > 1.0).then(|| embed(&params.negative_prompt)).transpose()?;
            Ok((embed(&params.instruction)?, negative))
        })?;
        let references = control.stage(Stage::VaeEncode, |control| {
            let vae = self.0.vae.enter()?;
            let mut references = Vec::with_capacity(pictures.len());
            for (index, picture) in pictures.iter().enumerate() {
                let size = Size::with_area(self.0.constants.vae_area, picture.width(), picture.height());
                let resized = image::lanczos_rgb(picture, size.width, size.height);
                references.push(vae.encode(&picture::rgb_to_tensor(&resized, &self.0.device)?)?);
                control.report(Stage::VaeEncode, index + 1, pictures.len())?;
            }
            Ok(references)
        })?;

        // The output has the shape of the last reference.
        let frames: Vec<_> = references.iter().map(latents::frame_of).collect::<candle_core::Result<_>>()?;
        let frame = frames[frames.len() - 1];
        let packed: Vec<_> = references.iter().map(latents::pack).collect::<candle_core::Result<_>>()?;
        let noise = latents::noise(seed, 1, frame, self.0.vae.about(Vae::latent_channels), &self.0.device)?;
        let schedule = self.0.scheduler.edit(params.steps as usize, frame.patches());
        let latents = control.stage(Stage::Denoise, |control| {
            let transformer = self.0.transformer.enter()?;
            let denoise = Denoise {
                transformer: &transformer,
                device: &self.0.device,
                dtype: self.0.dtype,
                schedule: &schedule,
                frames: &[&[frame], frames.as_slice()].concat(),
                condition: &Tensor::cat(&packed, 1)?,
                prompt: &positive,
                negative: negative.as_ref(),
                cfg_scale: params.cfg_scale,
                normalize: true,
            };
            denoise.run(noise, control, watch)
        })?;
        control.stage(Stage::VaeDecode, |_| {
            let (bytes, Size { width, height }) =
                picture::to_bytes(&self.0.vae.enter()?.decode(&latents::unpack(&latents, frame)?)?)?;
            RgbImage::from_raw(width, height, bytes)
                .ok_or_else(|| candle_core::Error::Msg("the decoded picture has another size".to_owned()).into())
        })
    }
}
