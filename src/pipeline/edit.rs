//! Qwen-Image-Edit-2509 and -2511: one to three pictures and an instruction -> one picture.

use std::{ops::ControlFlow, path::Path};

use ::image::{RgbImage, RgbaImage};
use candle_core::{DType, Device, Tensor};

use super::{
    checkpoint::Checkpoint,
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
    models::{Loaded, text_encoder::Prompt},
};

pub struct EditPipeline(Checkpoint);

impl EditPipeline {
    /// Loads a checkpoint folder. `loaded` is told after each large part, and may stop
    /// the loading there.
    pub fn load(
        folder: &Path,
        device: &Device,
        dtype: DType,
        loaded: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Loaded<Self> {
        Checkpoint::load(folder, Pipeline::EditPlus, device, dtype, loaded).map(Self)
    }

    /// With the transformer's blocks in eight bits.
    ///
    /// # Errors
    /// On anything but a GPU that multiplies such numbers.
    pub fn into_fp8(self) -> candle_core::Result<Self> {
        self.0.into_fp8().map(Self)
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
            let mut tokens = Vec::with_capacity(pictures.len());
            for picture in pictures {
                let size = Size::with_area(self.0.constants.condition_area, picture.width(), picture.height());
                let resized = image::lanczos_rgb(picture, size.width, size.height);
                let seen = picture::fit(&self.0.text_encoder, &resized)?;
                tokens.push(self.0.text_encoder.encode_picture(picture::view(&seen))?);
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
                Ok(self.0.text_encoder.embed(&prompt)?.states)
            };
            let negative = (params.cfg_scale > 1.0).then(|| embed(&params.negative_prompt)).transpose()?;
            Ok((embed(&params.instruction)?, negative))
        })?;
        let references = control.stage(Stage::VaeEncode, |control| {
            let mut references = Vec::with_capacity(pictures.len());
            for (index, picture) in pictures.iter().enumerate() {
                let size = Size::with_area(self.0.constants.vae_area, picture.width(), picture.height());
                let resized = image::lanczos_rgb(picture, size.width, size.height);
                references.push(self.0.vae.encode(&picture::rgb_to_tensor(&resized, &self.0.device)?)?);
                control.report(Stage::VaeEncode, index + 1, pictures.len())?;
            }
            Ok(references)
        })?;

        // The output has the shape of the last reference.
        let frames: Vec<_> = references.iter().map(latents::frame_of).collect::<candle_core::Result<_>>()?;
        let frame = frames[frames.len() - 1];
        let packed: Vec<_> = references.iter().map(latents::pack).collect::<candle_core::Result<_>>()?;
        let noise = latents::noise(seed, 1, frame, self.0.vae.latent_channels(), &self.0.device)?;
        let schedule = self.0.scheduler.edit(params.steps as usize, frame.patches());
        let latents = control.stage(Stage::Denoise, |control| {
            let denoise = Denoise {
                transformer: &self.0.transformer,
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
                picture::to_bytes(&self.0.vae.decode(&latents::unpack(&latents, frame)?)?)?;
            RgbImage::from_raw(width, height, bytes)
                .ok_or_else(|| candle_core::Error::Msg("the decoded picture has another size".to_owned()).into())
        })
    }
}
