//! The layers of the encoder and decoder, folded to two dimensions.

use candle_core::{Result, Tensor};

use crate::{
    models::{LoadResult, Weights},
    nn::{self, AttentionMask, Conv2d, Padding, tensors_of},
};

/// A causal 3-D convolution for one frame: its last temporal tap. `kernel` is 3 or 1.
pub fn conv3d(w: &Weights, in_c: usize, out_c: usize, kernel: usize) -> LoadResult<Conv2d> {
    let weight = w.get((out_c, in_c, kernel, kernel, kernel), "weight")?;
    let tap = weight.narrow(2, kernel - 1, 1)?.squeeze(2)?;
    let padding = if kernel == 3 { Padding::SAME } else { Padding::NONE };
    Ok(Conv2d::new(&tap, w.get(out_c, "bias")?, 1, padding)?)
}

/// RMS norm over the channels, with or without the activation that follows.
#[derive(Debug)]
pub struct Norm {
    gamma: Tensor,
}

tensors_of!(Norm: gamma);
tensors_of!(ResidualBlock: norm1, conv1, norm2, conv2, shortcut);
tensors_of!(AttentionBlock: norm, to_qkv, proj);
tensors_of!(MidBlock: first, attention, second);

impl Norm {
    /// `axes` is the number of ones after the channels in the stored shape: 3 for video, 2 for pictures.
    pub fn load(w: &Weights, channels: usize, axes: usize) -> LoadResult<Self> {
        let mut shape = vec![channels];
        shape.resize(1 + axes, 1);
        Ok(Self { gamma: w.get(shape, "gamma")?.flatten_all()? })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        nn::rms_normalize_silu(x, &self.gamma, false)
    }

    pub fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        nn::rms_normalize_silu(x, &self.gamma, true)
    }
}

#[derive(Debug)]
pub struct ResidualBlock {
    norm1: Norm,
    conv1: Conv2d,
    norm2: Norm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl ResidualBlock {
    pub fn load(w: &Weights, in_c: usize, out_c: usize) -> LoadResult<Self> {
        Ok(Self {
            norm1: Norm::load(&w.pp("norm1"), in_c, 3)?,
            conv1: conv3d(&w.pp("conv1"), in_c, out_c, 3)?,
            norm2: Norm::load(&w.pp("norm2"), out_c, 3)?,
            conv2: conv3d(&w.pp("conv2"), out_c, out_c, 3)?,
            shortcut: (in_c != out_c).then(|| conv3d(&w.pp("conv_shortcut"), in_c, out_c, 1)).transpose()?,
        })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let inner = self.conv1.forward(&self.norm1.forward_silu(x)?)?;
        let inner = self.norm2.forward_silu(&inner)?;
        match &self.shortcut {
            Some(shortcut) => self.conv2.forward_add(&inner, &shortcut.forward(x)?),
            None => self.conv2.forward_add(&inner, x),
        }
    }
}

/// Self-attention of one head over all pixels.
#[derive(Debug)]
pub struct AttentionBlock {
    norm: Norm,
    to_qkv: Conv2d,
    proj: Conv2d,
}

impl AttentionBlock {
    pub fn load(w: &Weights, channels: usize) -> LoadResult<Self> {
        let conv = |name: &str, out: usize| -> LoadResult<Conv2d> {
            let w = w.pp(name);
            Ok(Conv2d::new(&w.get((out, channels, 1, 1), "weight")?, w.get(out, "bias")?, 1, Padding::NONE)?)
        };
        Ok(Self {
            norm: Norm::load(&w.pp("norm"), channels, 2)?,
            to_qkv: conv("to_qkv", 3 * channels)?,
            proj: conv("proj", channels)?,
        })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (n, h, w, c) = x.dims4()?;
        let qkv = self.to_qkv.forward(&self.norm.forward(x)?)?;
        let part = |index: usize| qkv.narrow(3, index * c, c)?.reshape((n, h * w, 1, c));
        let attended = nn::attention(&part(0)?, &part(1)?, &part(2)?, 1.0 / (c as f64).sqrt(), AttentionMask::All)?;
        self.proj.forward_add(&attended.reshape((n, h, w, c))?, x)
    }
}

/// Two residual blocks with attention between them, at the lowest resolution.
#[derive(Debug)]
pub struct MidBlock {
    first: ResidualBlock,
    attention: AttentionBlock,
    second: ResidualBlock,
}

impl MidBlock {
    pub fn load(w: &Weights, channels: usize) -> LoadResult<Self> {
        Ok(Self {
            first: ResidualBlock::load(&w.pp("resnets.0"), channels, channels)?,
            attention: AttentionBlock::load(&w.pp("attentions.0"), channels)?,
            second: ResidualBlock::load(&w.pp("resnets.1"), channels, channels)?,
        })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.second.forward(&self.attention.forward(&self.first.forward(x)?)?)
    }
}

/// A convolution that halves or doubles the size; its temporal part is not needed for one frame.
pub fn resample_conv(w: &Weights, in_c: usize, out_c: usize, stride: usize) -> LoadResult<Conv2d> {
    w.skip("time_conv");
    let padding = if stride == 2 { Padding::FAR } else { Padding::SAME };
    let conv = w.pp("resample.1");
    Ok(Conv2d::new(&conv.get((out_c, in_c, 3, 3), "weight")?, conv.get(out_c, "bias")?, stride, padding)?)
}
