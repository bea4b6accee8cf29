//! The parts of a checkpoint, loaded and held against each other.

use std::path::Path;

use candle_core::{DType, Device};

use super::{
    constants::{Constants, Pipeline},
    placement::{Place, Placement},
    prompt,
};
use crate::models::{
    Loaded, Loading, ModelError, Movable, Part, Scheduler,
    text_encoder::TextEncoder,
    transformer::Transformer,
    vae::{Tiling, Vae},
};

pub struct Checkpoint {
    pub constants: Constants,
    pub scheduler: Scheduler,
    pub text_encoder: Part<TextEncoder>,
    pub transformer: Part<Transformer>,
    pub vae: Part<Vae>,
    pub device: Device,
    pub dtype: DType,
}

/// How a checkpoint is loaded.
#[derive(Clone)]
pub struct LoadOptions<'a> {
    pub loading: Loading<'a>,
    pub placement: Placement,
    /// The transformer's blocks in eight bits, which only some GPUs multiply.
    pub fp8: bool,
    /// Of another checkpoint with the same text encoder.
    pub text_encoder: Option<Part<TextEncoder>>,
}

impl<'a> LoadOptions<'a> {
    /// All of it stays on the device.
    pub fn new(loading: Loading<'a>) -> Self {
        Self { loading, placement: Placement::KEPT, fp8: false, text_encoder: None }
    }
}

impl Checkpoint {
    /// Loads a folder in diffusers' layout for this pipeline.
    pub fn load(folder: &Path, pipeline: Pipeline, options: LoadOptions<'_>) -> Loaded<Self> {
        let LoadOptions { loading, placement, fp8, text_encoder } = options;
        let constants = Constants::load(folder, pipeline)?;
        let scheduler = Scheduler::load(&folder.join("scheduler"))?;
        let text_encoder = match text_encoder {
            Some(shared) => shared,
            None => {
                let Place { blocks, .. } = placement.text_encoder;
                let captions = pipeline == Pipeline::Layered;
                let encoder = TextEncoder::load_with(folder, loading, captions, blocks)?;
                part(encoder, placement.text_encoder, loading.device)?
            }
        };
        let transformer =
            Transformer::load_with(&folder.join("transformer"), loading, placement.transformer.blocks, fp8)?;
        let transformer = part(transformer, placement.transformer, loading.device)?;
        let vae =
            part(Vae::load_with(&folder.join("vae"), loading, Tiling::default())?, placement.vae, loading.device)?;
        let (device, dtype) = (loading.device.clone(), loading.dtype);
        let checkpoint = Self { constants, scheduler, text_encoder, transformer, vae, device, dtype };
        checkpoint.check(folder, pipeline)?;
        Ok(checkpoint)
    }

    /// Frees the device's memory; the weights stay on the host. The text encoder may be another's too.
    ///
    /// # Errors
    /// When there is no host memory for it, or the device refuses.
    pub fn leave(&self, with_text_encoder: bool) -> candle_core::Result<()> {
        if with_text_encoder {
            self.text_encoder.leave()?;
        }
        self.transformer.leave()?;
        self.vae.leave()
    }

    /// Bytes of weights on the device, rooms of streamed blocks not counted.
    pub fn bytes_on_device(&self) -> candle_core::Result<u64> {
        Ok(self.text_encoder.bytes_on_device()? + self.transformer.bytes_on_device()? + self.vae.bytes_on_device()?)
    }

    fn check(&self, folder: &Path, pipeline: Pipeline) -> Loaded<()> {
        let fail = |reason: String| Err(ModelError::invalid(folder, reason));
        let (takes, packed) =
            (self.transformer.about(Transformer::in_channels), 4 * self.vae.about(Vae::latent_channels));
        if takes != packed {
            return fail(format!("the transformer takes {takes} channels, but the VAE's latents pack to {packed}"));
        }
        let (reads, writes) = (
            self.transformer.about(Transformer::joint_attention_dim),
            self.text_encoder.about(TextEncoder::hidden_size),
        );
        if reads != writes {
            return fail(format!("the transformer reads text of width {reads}, but the text encoder writes {writes}"));
        }
        let template = match pipeline {
            Pipeline::Layered => prompt::decompose(""),
            Pipeline::EditPlus => prompt::edit(0, ""),
        };
        let drop = self.constants.prompt_template_encode_start_idx;
        let tokens = self.text_encoder.about(|encoder| encoder.input_ids(&template, &[]).map_or(0, |ids| ids.len()));
        if drop >= tokens {
            return Err(ModelError::invalid(
                folder.join("acetate.json"),
                format!("`prompt_template_encode_start_idx` is {drop}, but the whole template has {tokens} tokens"),
            ));
        }
        let (channels, wanted, what) = match pipeline {
            Pipeline::Layered => (self.vae.about(Vae::channels), 4, "layers need"),
            Pipeline::EditPlus => (self.vae.about(Vae::channels), 3, "edits need"),
        };
        if channels != wanted {
            return fail(format!("the VAE has {channels} channels; {what} one with {wanted}"));
        }
        Ok(())
    }
}

fn part<T: Movable>(model: T, place: Place, device: &Device) -> Loaded<Part<T>> {
    Ok(if place.in_turn { Part::in_turn(model, device)? } else { Part::new(model, device) })
}
