//! `QwenImageTransformer2DModel`: a two-stream diffusion transformer over text tokens and packed latent patches.

mod block;
pub(super) mod config;
mod modulation_cache;
mod pass;
mod reuse;
mod rope;
mod time;

use std::path::Path;

use candle_core::{DType, Device, Result, Tensor};

use self::{
    block::{Block, BlockWeights, Modulations},
    config::TransformerConfig,
    reuse::{Reusable, ReusableBlock},
    time::TimeEmbedding,
};
use super::{
    BlockPlacement, Component, LoadContext, LoadResult, ModelError, OffloadGroups, Remarks, WeightFiles, Weights,
    block_swap::BlockSwap,
    lora::{Modules, OverlayIdentity},
};
use crate::nn::{HostWeights, Linear, RmsNorm, Tensors, release, tensors_of};

pub use self::{
    modulation_cache::{ModulationCache, StepModulations},
    pass::Pass,
    rope::{Frame, TokenRotations},
};

/// The transformer of both pipelines.
#[derive(Debug)]
pub struct Transformer {
    config: TransformerConfig,
    ends: OuterLayers,
    /// Streamed ones have their weights only as host copies, see `streamed`.
    blocks: Vec<Block>,
    /// How many blocks are resident; they come first.
    resident: usize,
    streamed: Option<BlockSwap<SETS>>,
    /// The LoRAs in its weights.
    overlays: OverlayIdentity,
}

/// The weights before and after the blocks.
#[derive(Debug)]
struct OuterLayers {
    time: TimeEmbedding,
    txt_norm: RmsNorm,
    txt_in: Linear,
    img_in: Linear,
    norm_out: Linear,
    proj_out: Linear,
}

tensors_of!(OuterLayers: time, txt_norm, txt_in, img_in, norm_out, proj_out);

/// The checkpoint's names of these, and of the blocks.
const ENDS: [&str; 6] = ["time_text_embed", "txt_norm", "txt_in", "img_in", "norm_out", "proj_out"];
const BLOCKS: &str = "transformer_blocks";

impl OuterLayers {
    fn load(w: &Weights<'_>, config: &TransformerConfig) -> LoadResult<Self> {
        let dim = config.inner_dim();
        Ok(Self {
            time: TimeEmbedding::load(&w.pp("time_text_embed"), dim, config.use_additional_t_cond)?,
            txt_norm: w.pp("txt_norm").rms_norm(config.joint_attention_dim, 1e-6)?,
            txt_in: w.pp("txt_in").linear(config.joint_attention_dim, dim, true)?,
            img_in: w.pp("img_in").linear(config.in_channels, dim, true)?,
            norm_out: w.pp("norm_out.linear").linear(dim, 2 * dim, true)?,
            proj_out: w.pp("proj_out").linear(dim, config.patch_channels(), true)?,
        })
    }
}

/// The sets of copies of a streamed block. Modulations are needed once per timestep and can be computed before the
/// first step, so a third of the weights is not transferred in every step.
const MODULATIONS: usize = 0;
const BODIES: usize = 1;
const SETS: usize = 2;

/// One of the passes that share a timestep: with the prompt, or with the negative prompt.
#[derive(Debug, Clone, Copy)]
pub struct Branch<'a> {
    /// The output of [`Transformer::project_text`].
    pub text: &'a Tensor,
    /// The rotations of both streams.
    pub rotations: &'a TokenRotations,
}

impl Transformer {
    /// Checks the configuration in a component's folder: that of the layered model, or of an edit model.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if it is another model's, or cannot be read.
    pub fn check_is(folder: &Path, layered: bool) -> LoadResult<()> {
        TransformerConfig::read(folder)?.check_is(layered, &folder.join("config.json"))
    }

    /// Loads the `transformer/` folder of a checkpoint onto a device.
    ///
    /// # Errors
    /// [`ModelError`] if the configuration is another model's, or the weights do not fit it.
    pub fn load(folder: &Path, device: &Device, dtype: DType) -> LoadResult<Self> {
        Self::load_with(folder, LoadContext::new(device, dtype), BlockPlacement::OnDevice, false)
    }

    /// The same, with progress and the given placement of blocks; with `fp8`, everything except modulation, embeddings
    /// and the last projection is in fp8 (e4m3, with a scale per row of weights and activations).
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`] and the like if the files do not fit the configuration; [`ModelError::Device`],
    /// also with `fp8` on a device that does not support it.
    pub fn load_with(folder: &Path, loading: LoadContext<'_>, place: BlockPlacement, fp8: bool) -> LoadResult<Self> {
        Self::load_reusing(folder, loading, place, fp8, None)
    }

    /// The same, but takes over what the LoRAs do not change from `old`: this transformer with other LoRAs, loaded in
    /// the same way. What they do change is freed before it is loaded again.
    ///
    /// # Errors
    /// Like [`Self::load_with`].
    pub fn load_reusing(
        folder: &Path,
        loading: LoadContext<'_>,
        place: BlockPlacement,
        fp8: bool,
        old: Option<Self>,
    ) -> LoadResult<Self> {
        let config = TransformerConfig::read(folder)?;
        let w = Weights::open(folder, Component::Transformer, loading)?;
        if loading.file.is_some() {
            check_kind(w.source(), w.contains(LAYERED_EMBEDDING), w.remarks(), &config)?;
        }
        let resident = place.resident(config.num_layers);
        let overlays = loading.overlays.identity();
        let mut old = Reusable::of(old, &overlays, resident);
        old.skip(&w);
        let mut sets = [Vec::new(), Vec::new()];
        let mut blocks = Vec::with_capacity(config.num_layers);
        for index in 0..config.num_layers {
            let ReusableBlock { whole, modulations, copies } = old.block(index);
            let mut block = match whole {
                Some(block) => block,
                None => {
                    let last = index + 1 == config.num_layers;
                    let block = Block::load(&w.pp(BLOCKS).pp(index), &config, last, modulations)?;
                    if fp8 { block.into_fp8()? } else { block }
                }
            };
            if index >= resident {
                let [modulations, body] = copies;
                let device = loading.device;
                sets[MODULATIONS].push(match modulations {
                    Some(copy) => copy,
                    None => HostWeights::of(&mut Modulations(&mut block), device)?,
                });
                sets[BODIES].push(match body {
                    Some(copy) => copy,
                    None => HostWeights::of(&mut BlockWeights(&mut block), device)?,
                });
                release(&mut block)?;
            }
            blocks.push(block);
        }
        let ends = match old.ends() {
            Some(ends) => ends,
            None => OuterLayers::load(&w, &config)?,
        };
        w.finish()?;
        let streamed = (resident < blocks.len()).then(|| BlockSwap::new(sets, loading.device));
        Ok(Self { config, ends, blocks, resident, streamed, overlays })
    }

    /// Checks that a file has the tensors of the transformer in this folder, by its header.
    ///
    /// # Errors
    /// [`ModelError`] with the first tensor that does not fit.
    pub fn check_file(folder: &Path, file: &Path) -> LoadResult<()> {
        let config = TransformerConfig::read(folder)?;
        let files = WeightFiles::of_file(file, Component::Transformer)?;
        check_kind(file, files.tensors.contains_key(LAYERED_EMBEDDING), &files.remarks, &config)?;
        config.check_tensors(file, &files.tensors)
    }

    /// The layers of the transformer in this folder that LoRAs may change.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if its `config.json` is not valid.
    pub fn linears(folder: &Path) -> LoadResult<Modules> {
        Ok(TransformerConfig::read(folder)?.linears())
    }

    /// Whether the transformer in this folder treats the first frame separately, as Qwen-Image-Edit-2511's does.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if its `config.json` is not valid.
    pub fn has_zero_cond_t(folder: &Path) -> LoadResult<bool> {
        Ok(TransformerConfig::read(folder)?.zero_cond_t)
    }

    /// Channels of a packed latent patch, four times those of the VAE's latents.
    pub fn in_channels(&self) -> usize {
        self.config.in_channels
    }

    /// Width of the prompt embeddings.
    pub fn joint_attention_dim(&self) -> usize {
        self.config.joint_attention_dim
    }

    /// The text part of the input; it does not depend on the timestep. `(1, t, joint)` -> `(1, t, dim)`.
    pub fn project_text(&self, embeds: &Tensor) -> Result<Tensor> {
        self.ends.txt_in.forward(&self.ends.txt_norm.forward(embeds)?)
    }

    /// Rotations for these frames of patches and this number of text tokens.
    pub fn rotations(&self, frames: &[Frame], text_tokens: usize, device: &Device) -> Result<TokenRotations> {
        TokenRotations::new(&self.config, frames, text_tokens, device)
    }

    /// Whether blocks are streamed. Then all branches of a step should run in one pass.
    pub fn is_streamed(&self) -> bool {
        self.streamed.is_some()
    }

    /// Transfers every block to the device once without using it, to measure the transfers alone.
    pub fn fetch_blocks(&self) -> Result<()> {
        match &self.streamed {
            Some(streamed) => streamed.pass(BODIES, true, |_, _, _| Ok(())),
            None => Ok(()),
        }
    }

    /// Predicts the velocity of the first `targets` patches.
    ///
    /// `hidden` is `(1, s, in_channels)`: the patches of all frames in order, noisy ones first; `text` is the result of
    /// [`Self::project_text`]. Returns `(1, targets, patch channels)`.
    pub fn forward(
        &self,
        hidden: &Tensor,
        text: &Tensor,
        modulations: &StepModulations,
        rotations: &TokenRotations,
        targets: usize,
    ) -> Result<Tensor> {
        let mut made = self.forward_branches(hidden, &[Branch { text, rotations }], modulations, targets)?;
        made.pop().ok_or_else(|| candle_core::Error::Msg("a pass without a result".to_owned()))
    }

    /// [`Self::forward`] for several branches, with each block running on all of them in turn.
    pub fn forward_branches(
        &self,
        hidden: &Tensor,
        branches: &[Branch<'_>],
        modulations: &StepModulations,
        targets: usize,
    ) -> Result<Vec<Tensor>> {
        self.begin(hidden, branches, modulations, targets)?.run_all()
    }

    /// Starts a pass that the caller runs block by block and may cut short; the arguments are those of
    /// [`Self::forward_branches`].
    pub fn begin<'a>(
        &'a self,
        hidden: &Tensor,
        branches: &'a [Branch<'a>],
        modulations: &'a StepModulations,
        targets: usize,
    ) -> Result<Pass<'a>> {
        Pass::begin(self, hidden, branches, modulations, targets)
    }

    /// Floating-point operations of [`Self::forward`] in matrix products and attention; the rest is not counted.
    pub fn operations(&self, patches: usize, text_tokens: usize, targets: usize) -> f64 {
        let (dim, joint) = (self.config.inner_dim() as f64, (patches + text_tokens) as f64);
        let product = |rows: f64, width: f64| 2.0 * rows * dim * width;
        let attention = |queries: f64| 4.0 * queries * joint * dim;
        let block = product(joint, 12.0 * dim) + attention(joint);
        // The last one computes all keys and values, but only the targets' outputs.
        let wanted = targets as f64;
        let last = product(joint, 3.0 * dim) + attention(wanted) + product(wanted, 9.0 * dim);
        let ends = product(patches as f64, self.config.in_channels as f64)
            + product(wanted, self.config.patch_channels() as f64);
        (self.blocks.len() - 1) as f64 * block + last + ends
    }

    fn dtype(&self) -> DType {
        self.ends.txt_norm.weight().dtype()
    }
}

/// What only Qwen-Image-Layered has.
const LAYERED_EMBEDDING: &str = "time_text_embed.addition_t_embedding.weight";

/// Refuses the file of another of the Qwen-Image models: the folder's configuration says how it would be used.
fn check_kind(path: &Path, layered: bool, remarks: &Remarks, config: &TransformerConfig) -> LoadResult<()> {
    let reason = if layered == config.use_additional_t_cond && !remarks.zero_cond_t {
        return Ok(());
    } else if layered && !config.use_additional_t_cond {
        "is a transformer of Qwen-Image-Layered (it has `time_text_embed.addition_t_embedding.weight`), but the \
         checkpoint folder is for edits; give a folder of Qwen-Image-Layered"
    } else if config.use_additional_t_cond && !layered {
        "is not a transformer of Qwen-Image-Layered (it lacks `time_text_embed.addition_t_embedding.weight`), but the \
         checkpoint folder is Qwen-Image-Layered's; give a file of that model"
    } else if !config.zero_cond_t {
        "is a transformer of Qwen-Image-Edit-2511 (it has the marker `__index_timestep_zero__`), but the checkpoint \
         folder is another one's (its transformer/config.json has no `zero_cond_t`); give a folder of \
         Qwen-Image-Edit-2511"
    } else {
        return Ok(());
    };
    Err(ModelError::invalid(path, reason))
}

impl OffloadGroups for Transformer {
    fn groups(&mut self) -> Vec<&mut dyn Tensors> {
        let resident = self.blocks[..self.resident].iter_mut().map(|block| block as &mut dyn Tensors);
        std::iter::once(&mut self.ends as &mut dyn Tensors).chain(resident).collect()
    }

    fn vacate(&mut self) {
        if let Some(streamed) = &self.streamed {
            streamed.vacate();
        }
    }
}
