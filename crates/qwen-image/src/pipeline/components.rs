//! The parts of a checkpoint, loaded and checked against each other.

use std::path::Path;

use candle_core::{DType, Device};

use super::{
    cfg_parallel::{CfgParallel, CfgParallelOptions, Transformers},
    constants::{Conditioning, Constants, PipelineKind},
    error::Result as RunResult,
    placement::{ComponentPlacement, DeviceMap},
    prompt,
};
use crate::models::{
    Component, LoadContext, LoadResult, ModelError, OffloadGroups, Offloadable, Scheduler, WeightOptions,
    lora::{Adapter, AppliedLora, Overlays},
    text_encoder::TextEncoder,
    transformer::Transformer,
    vae::{Tiling, Vae},
};

/// diffusers' `pipe.components`: the parts of a checkpoint.
pub struct Components {
    /// The checkpoint's constants, such as its resolutions.
    pub constants: Constants,
    /// Makes the noise levels.
    pub scheduler: Scheduler,
    /// Reads prompts and writes captions.
    pub text_encoder: Offloadable<TextEncoder>,
    /// Predicts the velocity.
    pub transformer: Offloadable<Transformer>,
    /// The transformer of the negative branch, if that has its own device.
    pub cfg_parallel: Option<CfgParallel>,
    /// Turns pictures into latents and back.
    pub vae: Offloadable<Vae>,
    /// Where all of them compute.
    pub device: Device,
    /// The number format of activations.
    pub dtype: DType,
    /// The LoRAs in the transformer.
    pub loras: Vec<AppliedLora>,
}

/// The options for loading a checkpoint.
#[derive(Clone)]
pub struct LoadOptions<'a> {
    /// The device, the number format and the callback.
    pub context: LoadContext<'a>,
    /// Where the parts are while idle and while computing.
    pub placement: DeviceMap,
    /// The device of the negative branch, if it has its own, and the transformer's placement there.
    pub cfg_parallel: Option<CfgParallelOptions<'a>>,
    /// Whether the transformer's blocks are in fp8, which only some GPUs support.
    pub fp8: bool,
    /// Files with the weights of components, instead of those in the folder.
    pub files: &'a WeightOptions,
    /// The text encoder of another checkpoint that has the same one.
    pub text_encoder: Option<Offloadable<TextEncoder>>,
    /// How the text encoder reads pictures.
    pub conditioning: Conditioning,
    /// Merged into the transformer, in this order.
    pub loras: &'a [Adapter],
}

impl<'a> LoadOptions<'a> {
    /// Everything stays on the device.
    pub fn new(context: LoadContext<'a>) -> Self {
        static NO_FILES: WeightOptions =
            WeightOptions { transformer: None, text_encoder: None, text_encoder_fp8: false };
        let conditioning = Conditioning::default();
        let placement = DeviceMap::KEPT;
        Self {
            context,
            placement,
            cfg_parallel: None,
            fp8: false,
            files: &NO_FILES,
            text_encoder: None,
            conditioning,
            loras: &[],
        }
    }
}

impl Components {
    /// Loads a folder in diffusers' layout for this pipeline.
    ///
    /// # Errors
    /// [`ModelError`] if the folder is not a checkpoint for this pipeline, or its parts do not fit together.
    pub fn load(folder: &Path, pipeline: PipelineKind, options: LoadOptions<'_>) -> LoadResult<Self> {
        let LoadOptions { context, placement, cfg_parallel, fp8, files, text_encoder, conditioning, loras } = options;
        let constants =
            Constants::load(folder, pipeline, conditioning)?.with_transformer(files.of(Component::Transformer));
        let scheduler = Scheduler::load(&folder.join("scheduler"))?;
        // Before anything large is read.
        Transformer::check_is(&folder.join("transformer"), pipeline == PipelineKind::Layered)?;
        overlays(folder, loras)?;
        let text_encoder = match text_encoder {
            Some(shared) => shared,
            None => {
                let ComponentPlacement { blocks, .. } = placement.text_encoder;
                let captions = pipeline == PipelineKind::Layered;
                let context = LoadContext {
                    file: files.of(Component::TextEncoder),
                    fp8_weights: files.text_encoder_fp8,
                    ..context
                };
                let encoder = TextEncoder::load_with(folder, context, captions, blocks)?;
                part(encoder, placement.text_encoder, context.device)?
            }
        };
        let of_transformer = LoadContext { file: files.of(Component::Transformer), ..context };
        let (transformer, applied) = load_transformer(folder, of_transformer, placement.transformer, fp8, loras, None)?;
        let cfg_parallel = cfg_parallel
            .map(|options| CfgParallel::load(folder, of_transformer, options, fp8, loras, None))
            .transpose()?;
        let vae =
            part(Vae::load_with(&folder.join("vae"), context, Tiling::default())?, placement.vae, context.device)?;
        let (device, dtype) = (context.device.clone(), context.dtype);
        let components =
            Self { constants, scheduler, text_encoder, transformer, cfg_parallel, vae, device, dtype, loras: applied };
        components.check(folder, pipeline)?;
        Ok(components)
    }

    /// Changes the LoRAs: reloads what they change of the transformer and keeps everything else. The options are those
    /// with which it was loaded, except for the LoRAs.
    ///
    /// # Errors
    /// [`ModelError::Lora`] if a LoRA does not fit, otherwise the error that stopped loading; the old parts are lost
    /// then.
    pub fn with_loras(self, folder: &Path, options: LoadOptions<'_>) -> LoadResult<Self> {
        let LoadOptions { context, placement, cfg_parallel, fp8, files, loras, .. } = options;
        let context = LoadContext { file: files.of(Component::Transformer), ..context };
        let old = self.transformer.into_model();
        let (transformer, applied) = load_transformer(folder, context, placement.transformer, fp8, loras, old)?;
        let cfg_parallel = cfg_parallel
            .map(|options| CfgParallel::load(folder, context, options, fp8, loras, self.cfg_parallel))
            .transpose()?;
        Ok(Self { transformer, cfg_parallel, loras: applied, ..self })
    }

    /// The transformers of a run, on their devices.
    ///
    /// # Errors
    /// If a device has no room for its transformer.
    pub fn transformers(&self, guided: bool) -> RunResult<Transformers<'_>> {
        Transformers::enter(&self.transformer, &self.device, self.cfg_parallel.as_ref(), guided)
    }

    /// Frees the memory of its devices; the weights stay on the host. The text encoder may be shared.
    ///
    /// # Errors
    /// If there is no host memory for it, or the device fails.
    pub fn leave(&self, with_text_encoder: bool) -> candle_core::Result<()> {
        if with_text_encoder {
            self.text_encoder.leave()?;
        }
        self.transformer.leave()?;
        if let Some(second) = &self.cfg_parallel {
            second.transformer.leave()?;
        }
        self.vae.leave()
    }

    /// The weights on the device in bytes, without the buffers of streamed blocks.
    pub fn bytes_on_device(&self) -> candle_core::Result<u64> {
        Ok(self.text_encoder.bytes_on_device()? + self.transformer.bytes_on_device()? + self.vae.bytes_on_device()?)
    }

    /// The same on the device of the negative branch.
    pub fn bytes_on_negative_device(&self) -> candle_core::Result<u64> {
        self.cfg_parallel.as_ref().map_or(Ok(0), |second| second.transformer.bytes_on_device())
    }

    fn check(&self, folder: &Path, pipeline: PipelineKind) -> LoadResult<()> {
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
            PipelineKind::Layered => prompt::decompose(""),
            PipelineKind::EditPlus => prompt::edit(0, ""),
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
            PipelineKind::Layered => (self.vae.about(Vae::channels), 4, "layers need"),
            PipelineKind::EditPlus => (self.vae.about(Vae::channels), 3, "edits need"),
        };
        if channels != wanted {
            return fail(format!("the VAE has {channels} channels; {what} one with {wanted}"));
        }
        Ok(())
    }
}

/// What these LoRAs change of the checkpoint's transformer.
///
/// # Errors
/// If one of them does not fit it.
pub(crate) fn overlays(folder: &Path, loras: &[Adapter]) -> LoadResult<Overlays> {
    Ok(Overlays::of(loras, &Transformer::linears(&folder.join("transformer"))?)?)
}

pub(super) fn load_transformer(
    folder: &Path,
    context: LoadContext<'_>,
    place: ComponentPlacement,
    fp8: bool,
    loras: &[Adapter],
    old: Option<Transformer>,
) -> LoadResult<(Offloadable<Transformer>, Vec<AppliedLora>)> {
    let overlays = overlays(folder, loras)?;
    let context = LoadContext { overlays: &overlays, ..context };
    let loaded = Transformer::load_reusing(&folder.join("transformer"), context, place.blocks, fp8, old)?;
    Ok((part(loaded, place, context.device)?, overlays.applied().to_vec()))
}

fn part<T: OffloadGroups>(model: T, place: ComponentPlacement, device: &Device) -> LoadResult<Offloadable<T>> {
    Ok(if place.in_turn { Offloadable::in_turn(model, device)? } else { Offloadable::new(model, device) })
}
