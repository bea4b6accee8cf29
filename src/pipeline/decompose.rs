//! Qwen-Image-Layered: a picture -> its composite as the model regenerates it, and RGBA layers, back to front.

use std::{ops::ControlFlow, path::Path};

use ::image::RgbaImage;
use candle_core::{DType, Device, Tensor};

use super::{
    checkpoint::{Checkpoint, LoadOptions},
    constants::{MAX_PROMPT_TOKENS, Pipeline},
    control::Control,
    denoise::Denoise,
    error::{PipelineError, Result},
    latents, picture,
    picture::Size,
    prompt,
};
use crate::{
    image,
    job::{Caption, DecomposeParams, Stage},
    models::{
        Loaded, Loading,
        text_encoder::{PositionRule, Prompt, TextEncoder},
        vae::Vae,
    },
};

pub struct DecomposePipeline(Checkpoint);

/// What a run made.
pub struct Decomposed {
    /// The composite, then the layers.
    pub images: Vec<RgbaImage>,
    pub caption: Option<Caption>,
    /// The `resolution` that the model worked at.
    pub resolution: u32,
    /// What the user should know about this run.
    pub notes: Vec<String>,
}

impl DecomposePipeline {
    /// Loads a checkpoint folder onto a device.
    pub fn load(folder: &Path, device: &Device, dtype: DType) -> Loaded<Self> {
        Self::load_with(folder, LoadOptions::new(Loading::new(device, dtype)))
    }

    /// The same, watched, with the parts where they are wanted.
    pub fn load_with(folder: &Path, options: LoadOptions<'_>) -> Loaded<Self> {
        Checkpoint::load(folder, Pipeline::Layered, options).map(Self)
    }

    pub fn checkpoint(&self) -> &Checkpoint {
        &self.0
    }

    /// What the checkpoint says about itself.
    pub fn note(&self) -> Option<&str> {
        self.0.constants.note.as_deref()
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
        picture::check_shape(picture)?;
        let accepted = &self.0.constants.resolutions;
        let resolution = params.resolution.unwrap_or(accepted[0]);
        if !accepted.contains(&resolution) {
            let reason = format!("{resolution} is not one that this checkpoint was made for: {accepted:?}");
            return Err(PipelineError::Invalid { field: "params.resolution", reason });
        }
        let most = self.0.constants.max_layers;
        if params.layers > most {
            let reason = format!("{} are more than this checkpoint was made for: 2 to {most}", params.layers);
            return Err(PipelineError::Invalid { field: "params.layers", reason });
        }
        let size = Size::with_area(resolution * resolution, picture.width(), picture.height());
        let resized = image::lanczos(picture, size.width, size.height);

        let encoder = self.0.text_encoder.enter()?;
        let mut prompt = params.prompt.clone();
        let mut caption = None;
        if matches!(params.prompt.as_str(), "" | " ") {
            let written = control.stage(Stage::Caption, |control| self.caption(&encoder, &resized, control))?;
            prompt.clone_from(&written.text);
            caption = Some(written);
        }
        let mut notes = Vec::new();
        let (positive, negative) = control.stage(Stage::TextEncode, |_| {
            let negative = (params.cfg_scale > 1.0)
                .then(|| self.embed(&encoder, "negative_prompt", &params.negative_prompt, &mut notes))
                .transpose()?;
            Ok((self.embed(&encoder, "prompt", &prompt, &mut notes)?, negative))
        })?;
        drop(encoder);
        let condition = control.stage(Stage::VaeEncode, |_| {
            Ok(self.0.vae.enter()?.encode(&picture::rgba_to_tensor(&resized, &self.0.device)?)?)
        })?;

        let frame = latents::frame_of(&condition)?;
        let targets = params.layers as usize + 1;
        let noise = latents::noise(seed, targets, frame, self.0.vae.about(Vae::latent_channels), &self.0.device)?;
        let schedule = self.0.scheduler.layered(params.steps as usize, frame.patches());
        let packed = control.stage(Stage::Denoise, |control| {
            let transformer = self.0.transformer.enter()?;
            let denoise = Denoise {
                transformer: &transformer,
                device: &self.0.device,
                dtype: self.0.dtype,
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
            let vae = self.0.vae.enter()?;
            let mut images = Vec::with_capacity(targets);
            for index in 0..targets {
                let patches = packed.narrow(1, index * frame.patches(), frame.patches())?;
                let decoded = vae.decode(&latents::unpack(&patches, frame)?)?;
                let (bytes, Size { width, height }) = picture::to_bytes(&decoded)?;
                let image = RgbaImage::from_raw(width, height, bytes);
                images.extend(image);
                control.report(Stage::VaeDecode, index + 1, targets)?;
            }
            Ok(images)
        })?;
        Ok(Decomposed { images, caption, resolution, notes })
    }

    /// Embeds a text; when its end had to be cut off, a note says so.
    fn embed(&self, encoder: &TextEncoder, name: &str, text: &str, notes: &mut Vec<String>) -> Result<Tensor> {
        let prompt = Prompt {
            text: &prompt::decompose(text),
            pictures: &[],
            rule: PositionRule::Sequence,
            drop: self.0.constants.prompt_template_encode_start_idx,
            keep: Some(MAX_PROMPT_TOKENS),
        };
        let embedded = encoder.embed(&prompt)?;
        if embedded.tokens > MAX_PROMPT_TOKENS {
            notes.push(format!(
                "{name} has {} tokens; the model reads {MAX_PROMPT_TOKENS}, so its end was not read",
                embedded.tokens
            ));
        }
        Ok(embedded.states)
    }

    /// The text encoder's own description of the picture.
    fn caption(&self, encoder: &TextEncoder, resized: &RgbaImage, control: &mut Control<'_>) -> Result<Caption> {
        let flat = picture::fit(encoder, &image::on_white(resized))?;
        let most = self.0.constants.caption_max_new_tokens;
        let mut report = |token: usize, of: usize| match control.report(Stage::Caption, token, of) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        };
        match encoder.caption(prompt::CAPTION, picture::view(&flat), most, &mut report)? {
            Some(caption) => Ok(Caption { tokens: caption.tokens.len() as u32, text: caption.text }),
            None => Err(PipelineError::Cancelled),
        }
    }
}
