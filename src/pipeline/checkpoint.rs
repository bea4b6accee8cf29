//! The parts of a checkpoint, loaded and held against each other.

use std::{ops::ControlFlow, path::Path};

use candle_core::{DType, Device};

use super::{
    constants::{Constants, Pipeline},
    prompt,
};
use crate::models::{
    Loaded, ModelError, Scheduler,
    text_encoder::TextEncoder,
    transformer::Transformer,
    vae::{Tiling, Vae},
};

pub struct Checkpoint {
    pub constants: Constants,
    pub scheduler: Scheduler,
    pub text_encoder: TextEncoder,
    pub transformer: Transformer,
    pub vae: Vae,
    pub device: Device,
    pub dtype: DType,
}

impl Checkpoint {
    /// Loads a folder in diffusers' layout for this pipeline. `loaded` is told after each large part, and may stop
    /// the loading there.
    pub fn load(
        folder: &Path,
        pipeline: Pipeline,
        device: &Device,
        dtype: DType,
        mut loaded: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Loaded<Self> {
        let constants = Constants::load(folder, pipeline)?;
        let scheduler = Scheduler::load(&folder.join("scheduler"))?;
        let captions = pipeline == Pipeline::Layered;
        let text_encoder = TextEncoder::load(folder, device, dtype, captions)?;
        let mut loaded = |part: &str| match loaded(part) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ModelError::Cancelled),
        };
        loaded("text encoder")?;
        let transformer = Transformer::load(&folder.join("transformer"), device, dtype)?;
        loaded("transformer")?;
        let vae = Vae::load(&folder.join("vae"), device, dtype, Tiling::default())?;
        loaded("vae")?;
        let checkpoint = Self { constants, scheduler, text_encoder, transformer, vae, device: device.clone(), dtype };
        checkpoint.check(folder, pipeline)?;
        Ok(checkpoint)
    }

    pub fn into_fp8(self) -> candle_core::Result<Self> {
        Ok(Self { transformer: self.transformer.into_fp8()?, ..self })
    }

    fn check(&self, folder: &Path, pipeline: Pipeline) -> Loaded<()> {
        let fail = |reason: String| Err(ModelError::invalid(folder, reason));
        let (takes, packed) = (self.transformer.in_channels(), 4 * self.vae.latent_channels());
        if takes != packed {
            return fail(format!("the transformer takes {takes} channels, but the VAE's latents pack to {packed}"));
        }
        let (reads, writes) = (self.transformer.joint_attention_dim(), self.text_encoder.hidden_size());
        if reads != writes {
            return fail(format!("the transformer reads text of width {reads}, but the text encoder writes {writes}"));
        }
        let template = match pipeline {
            Pipeline::Layered => prompt::decompose(""),
            Pipeline::EditPlus => prompt::edit(0, ""),
        };
        let drop = self.constants.prompt_template_encode_start_idx;
        let tokens = self.text_encoder.input_ids(&template, &[]).map_or(0, |ids| ids.len());
        if drop >= tokens {
            return Err(ModelError::invalid(
                folder.join("acetate.json"),
                format!("`prompt_template_encode_start_idx` is {drop}, but the whole template has {tokens} tokens"),
            ));
        }
        let (channels, wanted, what) = match pipeline {
            Pipeline::Layered => (self.vae.channels(), 4, "layers need"),
            Pipeline::EditPlus => (self.vae.channels(), 3, "edits need"),
        };
        if channels != wanted {
            return fail(format!("the VAE has {channels} channels; {what} one with {wanted}"));
        }
        Ok(())
    }
}
