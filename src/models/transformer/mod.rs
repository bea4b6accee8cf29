//! `QwenImageTransformer2DModel`: a two-stream diffusion transformer over text tokens and packed latent patches.

mod block;
pub(super) mod config;
mod rope;
mod time;

use std::path::Path;

use candle_core::{DType, Device, Result, Tensor};

use self::{
    block::{Block, Modulation, Next, Streams, Tokens},
    config::Config,
    time::TimeEmbedding,
};
use super::{Loaded, Weights, weights::read_json};
use crate::nn::{self, Linear, RmsNorm};

pub use self::rope::{Frame, TokenRotations};

#[derive(Debug)]
pub struct Transformer {
    config: Config,
    time: TimeEmbedding,
    txt_norm: RmsNorm,
    txt_in: Linear,
    img_in: Linear,
    blocks: Vec<Block>,
    norm_out: Linear,
    proj_out: Linear,
}

/// What a timestep means to every block. Both branches of guidance share it.
#[derive(Debug)]
pub struct Conditioning {
    blocks: Vec<Modulation>,
    /// Scale and shift of the last norm, `(1, 1, 2 dim)`.
    out: Tensor,
}

impl Transformer {
    /// Loads the `transformer/` folder of a checkpoint.
    pub fn load(folder: &Path, device: &Device, dtype: DType) -> Loaded<Self> {
        let path = folder.join("config.json");
        let config: Config = read_json(&path)?;
        config.check(&path)?;
        let w = Weights::open(folder, device, dtype)?;
        let dim = config.inner_dim();
        let blocks = (0..config.num_layers)
            .map(|index| {
                let last = index + 1 == config.num_layers;
                Block::load(&w.pp("transformer_blocks").pp(index), &config, last)
            })
            .collect::<Loaded<_>>()?;
        let model = Self {
            time: TimeEmbedding::load(&w.pp("time_text_embed"), dim, config.use_additional_t_cond)?,
            txt_norm: w.pp("txt_norm").rms_norm(config.joint_attention_dim, 1e-6)?,
            txt_in: w.pp("txt_in").linear(config.joint_attention_dim, dim, true)?,
            img_in: w.pp("img_in").linear(config.in_channels, dim, true)?,
            blocks,
            norm_out: w.pp("norm_out.linear").linear(dim, 2 * dim, true)?,
            proj_out: w.pp("proj_out").linear(dim, config.patch_channels(), true)?,
            config,
        };
        w.finish()?;
        Ok(model)
    }

    /// The blocks in eight bits (e4m3, a scale for each row of weights and activations). Modulation, embeddings and
    /// the last projection stay as they are.
    ///
    /// # Errors
    /// On anything but a GPU that multiplies such numbers.
    pub fn into_fp8(self) -> Result<Self> {
        let blocks = self.blocks.into_iter().map(Block::into_fp8).collect::<Result<_>>()?;
        Ok(Self { blocks, ..self })
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
        self.txt_in.forward(&self.txt_norm.forward(embeds)?)
    }

    /// Rotations for these frames of patches and so many text tokens.
    pub fn rotations(&self, frames: &[Frame], text_tokens: usize, device: &Device) -> Result<TokenRotations> {
        TokenRotations::new(&self.config, frames, text_tokens, device)
    }

    /// `timestep` is the scheduler's divided by 1000, so it is the noise level, 1 to 0.
    pub fn condition(&self, timestep: f32, device: &Device) -> Result<Conditioning> {
        let dtype = self.dtype();
        let embed = |t: f32| self.time.forward(t, device, dtype).and_then(|t| nn::silu(&t));
        let now = embed(timestep)?;
        // With `zero_cond_t` everything but the first frame is modulated as if it were free of noise.
        let clean = self.config.zero_cond_t.then(|| embed(0.0)).transpose()?;
        let blocks = self.blocks.iter().map(|block| block.modulation(&now, clean.as_ref())).collect::<Result<_>>()?;
        Ok(Conditioning { blocks, out: self.norm_out.forward(&now)? })
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
        let dim = self.config.inner_dim();
        let patches = hidden.dim(1)?;
        let out = [conditioning.out.narrow(2, 0, dim)?, conditioning.out.narrow(2, dim, dim)?];
        let layers = || self.blocks.iter().zip(&conditioning.blocks);
        // How the streams enter each block, and leave the last one.
        let mut entries = layers().map(|(block, modulation)| block.entry(modulation, rotations, patches));
        let Some(first) = entries.next() else { candle_core::bail!("a transformer without blocks") };
        let mut streams = enter(self.img_in.forward(hidden)?, text, &first?)?;
        for (block, modulation) in layers() {
            let next = entries.next().unwrap_or_else(|| Ok(Next { img: out.clone(), txt: None }))?;
            streams = block.forward(streams, modulation, rotations, targets, &next)?;
        }
        self.proj_out.forward(&streams.img.normed)
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
        self.txt_norm.weight().dtype()
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
