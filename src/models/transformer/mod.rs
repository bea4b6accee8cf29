//! `QwenImageTransformer2DModel`: a two-stream diffusion transformer over text tokens and packed latent patches.

mod block;
mod conditions;
pub(super) mod config;
mod rope;
mod time;

use std::path::Path;

use candle_core::{DType, Device, Result, Tensor};

use self::{
    block::{Block, Body, Modulations, Next, Streams, Tokens},
    config::Config,
    time::TimeEmbedding,
};
use super::{Blocks, Loaded, Loading, Movable, Weights, streamed::Streamed, weights::read_json};
use crate::nn::{self, HostCopy, Linear, RmsNorm, Tensors, release, tensors_of};

pub use self::{
    conditions::{Conditioning, Conditions},
    rope::{Frame, TokenRotations},
};

#[derive(Debug)]
pub struct Transformer {
    config: Config,
    ends: Ends,
    /// Those that are streamed have their weights only as copies, see `streamed`.
    blocks: Vec<Block>,
    /// Blocks that are on the device all the time; they come first.
    resident: usize,
    streamed: Option<Streamed<SETS>>,
}

/// What comes before the blocks and after them.
#[derive(Debug)]
struct Ends {
    time: TimeEmbedding,
    txt_norm: RmsNorm,
    txt_in: Linear,
    img_in: Linear,
    norm_out: Linear,
    proj_out: Linear,
}

tensors_of!(Ends: time, txt_norm, txt_in, img_in, norm_out, proj_out);

/// The sets of copies of a streamed block. Modulations are needed once for each timestep, and known before the first
/// step, so that a third of the weights does not travel in every step.
const MODULATIONS: usize = 0;
const BODIES: usize = 1;
const SETS: usize = 2;

/// One of the passes that share a timestep: with the prompt, or with the negative prompt.
#[derive(Debug, Clone, Copy)]
pub struct Branch<'a> {
    /// What [`Transformer::project_text`] gave.
    pub text: &'a Tensor,
    pub rotations: &'a TokenRotations,
}

impl Transformer {
    /// Loads the `transformer/` folder of a checkpoint onto a device.
    pub fn load(folder: &Path, device: &Device, dtype: DType) -> Loaded<Self> {
        Self::load_with(folder, Loading::new(device, dtype), Blocks::OnDevice, false)
    }

    /// The same, watched, with the blocks where they are wanted; with `fp8` in eight bits (e4m3, a scale for each row of
    /// weights and activations), but for modulation, embeddings and the last projection.
    ///
    /// # Errors
    /// Also with `fp8` on anything but a GPU that multiplies such numbers.
    pub fn load_with(folder: &Path, loading: Loading<'_>, place: Blocks, fp8: bool) -> Loaded<Self> {
        let path = folder.join("config.json");
        let config: Config = read_json(&path)?;
        config.check(&path)?;
        let w = Weights::open(folder, loading)?;
        let dim = config.inner_dim();
        let resident = place.resident(config.num_layers);
        let mut sets = [Vec::new(), Vec::new()];
        let mut blocks = Vec::with_capacity(config.num_layers);
        for index in 0..config.num_layers {
            let last = index + 1 == config.num_layers;
            let mut block = Block::load(&w.pp("transformer_blocks").pp(index), &config, last)?;
            if fp8 {
                block = block.into_fp8()?;
            }
            if index >= resident {
                sets[MODULATIONS].push(HostCopy::of(&mut Modulations(&mut block), loading.device)?);
                sets[BODIES].push(HostCopy::of(&mut Body(&mut block), loading.device)?);
                release(&mut block)?;
            }
            blocks.push(block);
        }
        let ends = Ends {
            time: TimeEmbedding::load(&w.pp("time_text_embed"), dim, config.use_additional_t_cond)?,
            txt_norm: w.pp("txt_norm").rms_norm(config.joint_attention_dim, 1e-6)?,
            txt_in: w.pp("txt_in").linear(config.joint_attention_dim, dim, true)?,
            img_in: w.pp("img_in").linear(config.in_channels, dim, true)?,
            norm_out: w.pp("norm_out.linear").linear(dim, 2 * dim, true)?,
            proj_out: w.pp("proj_out").linear(dim, config.patch_channels(), true)?,
        };
        w.finish()?;
        let streamed = (resident < blocks.len()).then(|| Streamed::new(sets, loading.device));
        Ok(Self { config, ends, blocks, resident, streamed })
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

    /// Rotations for these frames of patches and so many text tokens.
    pub fn rotations(&self, frames: &[Frame], text_tokens: usize, device: &Device) -> Result<TokenRotations> {
        TokenRotations::new(&self.config, frames, text_tokens, device)
    }

    /// Whether blocks come to the device one after the other. Then all branches of a step should run in one pass.
    pub fn is_streamed(&self) -> bool {
        self.streamed.is_some()
    }

    /// Brings every block to the device once and does nothing with it: what transfers alone take.
    pub fn fetch_blocks(&self) -> Result<()> {
        self.each_block(|_, _| Ok(()))
    }

    /// Predicts the velocity of the first `targets` patches.
    ///
    /// `hidden` is `(1, s, in_channels)`: the patches of all frames in order, noisy ones first; `text` is what
    /// [`Self::project_text`] gave. Returns `(1, targets, patch channels)`.
    pub fn forward(
        &self,
        hidden: &Tensor,
        text: &Tensor,
        conditioning: &Conditioning,
        rotations: &TokenRotations,
        targets: usize,
    ) -> Result<Tensor> {
        let mut made = self.forward_branches(hidden, &[Branch { text, rotations }], conditioning, targets)?;
        made.pop().ok_or_else(|| candle_core::Error::Msg("a pass without a result".to_owned()))
    }

    /// [`Self::forward`] for several branches, each block running on all of them while it is there.
    pub fn forward_branches(
        &self,
        hidden: &Tensor,
        branches: &[Branch<'_>],
        conditioning: &Conditioning,
        targets: usize,
    ) -> Result<Vec<Tensor>> {
        let dim = self.config.inner_dim();
        let patches = hidden.dim(1)?;
        let out = [conditioning.out.narrow(2, 0, dim)?, conditioning.out.narrow(2, dim, dim)?];
        // How a branch enters a block, or leaves the last one.
        let entry = |index: usize, branch: &Branch<'_>| match self.blocks.get(index) {
            Some(block) => block.entry(&conditioning.blocks[index], branch.rotations, patches),
            None => Ok(Next { img: out.clone(), txt: None }),
        };
        let img = self.ends.img_in.forward(hidden)?;
        let mut streams = branches
            .iter()
            .map(|branch| enter(img.clone(), branch.text, &entry(0, branch)?))
            .collect::<Result<Vec<_>>>()?;
        drop(img);
        self.each_block(|index, block| {
            for (streams, branch) in streams.iter_mut().zip(branches) {
                let next = entry(index + 1, branch)?;
                block.forward(streams, &conditioning.blocks[index], branch.rotations, targets, &next)?;
            }
            Ok(())
        })?;
        streams.iter().map(|streams| self.ends.proj_out.forward(&streams.img.normed)).collect()
    }

    /// Calls `run` with every block in order, its weights on the device.
    fn each_block(&self, mut run: impl FnMut(usize, &Block) -> Result<()>) -> Result<()> {
        let (resident, others) = self.blocks.split_at(self.resident);
        resident.iter().enumerate().try_for_each(|(index, block)| run(index, block))?;
        let Some(streamed) = &self.streamed else { return Ok(()) };
        streamed.pass(BODIES, true, |place, copy, room| {
            let mut block = others[place].clone();
            copy.point(&mut Body(&mut block), room)?;
            run(self.resident + place, &block)
        })
    }

    /// Floating-point operations of [`Self::forward`] in matrix products and attention; the rest is not counted.
    pub fn operations(&self, patches: usize, text_tokens: usize, targets: usize) -> f64 {
        let (dim, joint) = (self.config.inner_dim() as f64, (patches + text_tokens) as f64);
        let product = |rows: f64, width: f64| 2.0 * rows * dim * width;
        let attention = |queries: f64| 4.0 * queries * joint * dim;
        let block = product(joint, 12.0 * dim) + attention(joint);
        // The last one makes all keys and values, but only the targets' outputs.
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

impl Movable for Transformer {
    fn pieces(&mut self) -> Vec<&mut dyn Tensors> {
        let resident = self.blocks[..self.resident].iter_mut().map(|block| block as &mut dyn Tensors);
        std::iter::once(&mut self.ends as &mut dyn Tensors).chain(resident).collect()
    }

    fn vacate(&mut self) {
        if let Some(streamed) = &self.streamed {
            streamed.vacate();
        }
    }
}

fn enter(img: Tensor, txt: &Tensor, first: &Next) -> Result<Streams> {
    let norm = |x: &Tensor, [scale, shift]: &block::Affine| nn::layer_norm_modulate(x, scale, shift, block::EPS);
    let txt_normed = first.txt.as_ref().map_or_else(|| Ok(txt.clone()), |affine| norm(txt, affine))?;
    Ok(Streams {
        img: Tokens { normed: norm(&img, &first.img)?, x: img },
        txt: Tokens { normed: txt_normed, x: txt.clone() },
    })
}
