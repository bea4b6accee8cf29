//! Latents -> picture.

use candle_core::{Result, Tensor};

use super::{
    config::VaeConfig,
    layers::{MidBlock, Norm, ResidualBlock, conv3d, resample_conv},
};
use crate::{
    models::{LoadResult, Weights},
    nn::{self, Conv2d, tensors_of},
};

#[derive(Debug)]
pub struct Decoder {
    conv_in: Conv2d,
    mid_block: MidBlock,
    up_blocks: Vec<Up>,
    norm_out: Norm,
    conv_out: Conv2d,
}

#[derive(Debug)]
struct Up {
    resnets: Vec<ResidualBlock>,
    /// Halves the channels after the size was doubled; absent at the last level.
    upsampler: Option<Conv2d>,
}

tensors_of!(Decoder: conv_in, mid_block, up_blocks, norm_out, conv_out);
tensors_of!(Up: resnets, upsampler);

impl Decoder {
    pub fn load(w: &Weights, config: &VaeConfig) -> LoadResult<Self> {
        let levels = config.dim_mult.len();
        let widest = config.base_dim * config.dim_mult[levels - 1];
        let mut channels = widest;
        let mut up_blocks = Vec::new();
        for (level, multiplier) in config.dim_mult.iter().rev().enumerate() {
            let out = config.base_dim * multiplier;
            let w = w.pp("up_blocks").pp(level);
            let resnets = (0..=config.num_res_blocks)
                .map(|index| {
                    let in_c = if index == 0 { channels } else { out };
                    ResidualBlock::load(&w.pp("resnets").pp(index), in_c, out)
                })
                .collect::<LoadResult<_>>()?;
            let upsampler =
                (level + 1 < levels).then(|| resample_conv(&w.pp("upsamplers.0"), out, out / 2, 1)).transpose()?;
            channels = if upsampler.is_some() { out / 2 } else { out };
            up_blocks.push(Up { resnets, upsampler });
        }
        Ok(Self {
            conv_in: conv3d(&w.pp("conv_in"), config.z_dim, widest, 3)?,
            mid_block: MidBlock::load(&w.pp("mid_block"), widest)?,
            up_blocks,
            norm_out: Norm::load(&w.pp("norm_out"), channels, 3)?,
            conv_out: conv3d(&w.pp("conv_out"), channels, config.input_channels, 3)?,
        })
    }

    /// `(n, h, w, z)` -> `(n, 8h, 8w, channels)`, not yet clamped.
    pub fn forward(&self, latents: &Tensor) -> Result<Tensor> {
        let mut x = self.mid_block.forward(&self.conv_in.forward(latents)?)?;
        for block in &self.up_blocks {
            for resnet in &block.resnets {
                x = resnet.forward(&x)?;
            }
            if let Some(conv) = &block.upsampler {
                x = conv.forward(&nn::upsample_nearest_2x(&x)?)?;
            }
        }
        self.conv_out.forward(&self.norm_out.forward_silu(&x)?)
    }
}
