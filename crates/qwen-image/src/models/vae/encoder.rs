//! Picture -> moments of the latents.

use candle_core::{Result, Tensor};

use super::{
    config::VaeConfig,
    layers::{AttentionBlock, MidBlock, Norm, ResidualBlock, conv3d, resample_conv},
};
use crate::{
    models::{LoadResult, Weights},
    nn::{Conv2d, Tensors, tensors_of},
};

#[derive(Debug)]
pub struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<Down>,
    mid_block: MidBlock,
    norm_out: Norm,
    conv_out: Conv2d,
}

#[derive(Debug)]
enum Down {
    Residual(ResidualBlock),
    Attention(AttentionBlock),
    Halve(Conv2d),
}

tensors_of!(Encoder: conv_in, down_blocks, mid_block, norm_out, conv_out);

impl Tensors for Down {
    fn tensors(&mut self, visit: &mut dyn FnMut(&mut Tensor) -> Result<()>) -> Result<()> {
        match self {
            Self::Residual(block) => block.tensors(visit),
            Self::Attention(block) => block.tensors(visit),
            Self::Halve(conv) => conv.tensors(visit),
        }
    }
}

impl Encoder {
    pub fn load(w: &Weights, config: &VaeConfig) -> LoadResult<Self> {
        let base = config.base_dim;
        let mut channels = base;
        let mut scale = 1.0;
        let mut down_blocks = Vec::new();
        for (level, multiplier) in config.dim_mult.iter().enumerate() {
            let out = base * multiplier;
            for _ in 0..config.num_res_blocks {
                let at = |index: usize| w.pp("down_blocks").pp(index);
                down_blocks.push(Down::Residual(ResidualBlock::load(&at(down_blocks.len()), channels, out)?));
                if config.attn_scales.contains(&scale) {
                    down_blocks.push(Down::Attention(AttentionBlock::load(&at(down_blocks.len()), out)?));
                }
                channels = out;
            }
            if level + 1 < config.dim_mult.len() {
                let at = w.pp("down_blocks").pp(down_blocks.len());
                down_blocks.push(Down::Halve(resample_conv(&at, out, out, 2)?));
                scale /= 2.0;
            }
        }
        Ok(Self {
            conv_in: conv3d(&w.pp("conv_in"), config.input_channels, base, 3)?,
            down_blocks,
            mid_block: MidBlock::load(&w.pp("mid_block"), channels)?,
            norm_out: Norm::load(&w.pp("norm_out"), channels, 3)?,
            conv_out: conv3d(&w.pp("conv_out"), channels, 2 * config.z_dim, 3)?,
        })
    }

    /// `(n, h, w, channels)` -> `(n, h/8, w/8, 2 z)`: mean, then log variance.
    pub fn forward(&self, picture: &Tensor) -> Result<Tensor> {
        let mut x = self.conv_in.forward(picture)?;
        for block in &self.down_blocks {
            x = match block {
                Down::Residual(block) => block.forward(&x)?,
                Down::Attention(block) => block.forward(&x)?,
                Down::Halve(conv) => conv.forward(&x)?,
            };
        }
        let x = self.mid_block.forward(&x)?;
        self.conv_out.forward(&self.norm_out.forward_silu(&x)?)
    }
}
