//! Qwen-Image-Layered: a picture -> its composite as the model regenerates it, and RGBA layers, back to front.

use std::{ops::ControlFlow, path::Path};

use ::image::RgbaImage;
use candle_core::{DType, Device, Tensor};

use super::{
    constants::{Constants, MAX_PROMPT_TOKENS, Pipeline},
    control::Control,
    denoise::Denoise,
    error::{PipelineError, Result},
    latents, picture,
    picture::Size,
    prompt,
    schedule::Scheduler,
};
use crate::{
    image,
    job::{Caption, DecomposeParams, Stage},
    models::{
        Loaded, ModelError,
        text_encoder::{PositionRule, Prompt, TextEncoder},
        transformer::Transformer,
        vae::{Tiling, Vae},
    },
};

pub struct DecomposePipeline {
    constants: Constants,
    scheduler: Scheduler,
    text_encoder: TextEncoder,
    transformer: Transformer,
    vae: Vae,
    device: Device,
    dtype: DType,
}

/// What a run made.
pub struct Decomposed {
    /// The composite, then the layers.
    pub images: Vec<RgbaImage>,
    pub caption: Option<Caption>,
    /// The `resolution` that the model worked at.
    pub resolution: u32,
}

impl DecomposePipeline {
    /// Loads a checkpoint folder. `loaded` is told after each part.
    pub fn load(folder: &Path, device: &Device, dtype: DType, mut loaded: impl FnMut(&str)) -> Loaded<Self> {
        let constants = Constants::load(folder, Pipeline::Layered)?;
        let scheduler = Scheduler::load(&folder.join("scheduler"))?;
        let text_encoder = TextEncoder::load(folder, device, dtype, true)?;
        loaded("text encoder");
        let transformer = Transformer::load(&folder.join("transformer"), device, dtype)?;
        loaded("transformer");
        let vae = Vae::load(&folder.join("vae"), device, dtype, Tiling::default())?;
        loaded("vae");
        super::check_parts(folder, &transformer, &vae, &text_encoder)?;
        if vae.channels() != 4 {
            return Err(ModelError::invalid(
                folder.join("vae"),
                format!("has {} channels; layers need one with 4", vae.channels()),
            ));
        }
        Ok(Self { constants, scheduler, text_encoder, transformer, vae, device: device.clone(), dtype })
    }

    /// What the checkpoint says about itself.
    pub fn note(&self) -> Option<&str> {
        self.constants.note.as_deref()
    }

    /// Takes the picture apart. `watch` sees the packed latents after every step.
    pub fn run(
        &self,
        picture: &RgbaImage,
        params: &DecomposeParams,
        seed: u64,
        control: &mut Control<'_>,
        watch: impl FnMut(usize, &Tensor),
    ) -> Result<Decomposed> {
        let accepted = &self.constants.resolutions;
        let resolution = params.resolution.unwrap_or(accepted[0]);
        if !accepted.contains(&resolution) {
            let reason = format!("{resolution} is not one that this checkpoint was made for: {accepted:?}");
            return Err(PipelineError::Invalid { field: "params.resolution", reason });
        }
        let size = Size::with_area(resolution * resolution, picture.width(), picture.height());
        let resized = image::lanczos(picture, size.width, size.height);

        let mut prompt = params.prompt.clone();
        let mut caption = None;
        if matches!(params.prompt.as_str(), "" | " ") {
            let written = control.stage(Stage::Caption, |control| self.caption(&resized, control))?;
            prompt.clone_from(&written.text);
            caption = Some(written);
        }
        let (positive, negative) = control.stage(Stage::TextEncode, |_| {
            let negative = (params.cfg_scale > 1.0).then(|| self.embed(&params.negative_prompt)).transpose()?;
            Ok((self.embed(&prompt)?, negative))
        })?;
        let condition = control
            .stage(Stage::VaeEncode, |_| Ok(self.vae.encode(&picture::rgba_to_tensor(&resized, &self.device)?)?))?;

        let frame = latents::frame_of(&condition)?;
        let targets = params.layers as usize + 1;
        let noise = latents::noise(seed, targets, frame, self.vae.latent_channels(), &self.device)?;
        let schedule = self.scheduler.layered(params.steps as usize, frame.patches());
        let packed = control.stage(Stage::Denoise, |control| {
            let denoise = Denoise {
                transformer: &self.transformer,
                device: &self.device,
                dtype: self.dtype,
                schedule: &schedule,
                frames: &vec![frame; targets + 1],
                condition: &latents::pack(&condition)?,
                prompt: &positive,
                negative: negative.as_ref(),
                cfg_scale: params.cfg_scale,
                normalize: params.cfg_normalize,
            };
            denoise.run(noise, control, watch)
        })?;

        let images = control.stage(Stage::VaeDecode, |control| {
            let mut images = Vec::with_capacity(targets);
            for index in 0..targets {
                let patches = packed.narrow(1, index * frame.patches(), frame.patches())?;
                let decoded = self.vae.decode(&latents::unpack(&patches, frame)?)?;
                let (bytes, Size { width, height }) = picture::to_bytes(&decoded)?;
                let image = RgbaImage::from_raw(width, height, bytes);
                images.extend(image);
                control.report(Stage::VaeDecode, index + 1, targets)?;
            }
            Ok(images)
        })?;
        Ok(Decomposed { images, caption, resolution })
    }

    fn embed(&self, text: &str) -> Result<Tensor> {
        let prompt = Prompt {
            text: &prompt::decompose(text),
            pictures: &[],
            rule: PositionRule::Sequence,
            drop: self.constants.prompt_template_encode_start_idx,
            keep: Some(MAX_PROMPT_TOKENS),
        };
        let embedded = self.text_encoder.embed(&prompt)?;
        if embedded.tokens > MAX_PROMPT_TOKENS {
            tracing::warn!(
                tokens = embedded.tokens,
                read = MAX_PROMPT_TOKENS,
                "the prompt is too long; its end is not read"
            );
        }
        Ok(embedded.states)
    }

    /// The text encoder's own description of the picture.
    fn caption(&self, resized: &RgbaImage, control: &mut Control<'_>) -> Result<Caption> {
        let flat = picture::fit(&self.text_encoder, &image::on_white(resized))?;
        let most = self.constants.caption_max_new_tokens;
        let mut report = |token: usize, of: usize| match control.report(Stage::Caption, token, of) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        };
        match self.text_encoder.caption(prompt::CAPTION, picture::view(&flat), most, &mut report)? {
            Some(caption) => Ok(Caption { tokens: caption.tokens.len() as u32, text: caption.text }),
            None => Err(PipelineError::Cancelled),
        }
    }
}
