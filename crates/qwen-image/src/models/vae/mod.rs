//! `AutoencoderKLQwenImage` for single frames: pictures of 3 or 4 channels to latents and back.
//!
//! The network is a causal 3-D one. For one frame only the last temporal tap of each kernel sees data and the
//! temporal resamplers are skipped, so it is folded to two dimensions as it is loaded. Pictures and latents are
//! channels last.

pub(super) mod config;
mod decoder;
mod encoder;
mod layers;
mod tiling;

use std::path::Path;

use candle_core::{DType, Device, Result, Tensor};

use self::{config::VaeConfig, decoder::Decoder, encoder::Encoder, layers::conv3d};
use super::{Component, LoadContext, LoadResult, OffloadGroups, Weights, weights::read_json};
use crate::nn::{Conv2d, Tensors, tensors_of};

pub use self::tiling::Tiling;

/// The VAE of both pipelines.
#[derive(Debug)]
pub struct Vae {
    config: VaeConfig,
    encoder: Encoder,
    quant_conv: Conv2d,
    post_quant_conv: Conv2d,
    decoder: Decoder,
    /// `(z)`, float32.
    mean: Tensor,
    std: Tensor,
    dtype: DType,
    tiling: Tiling,
}

tensors_of!(Vae: encoder, quant_conv, post_quant_conv, decoder, mean, std);

impl OffloadGroups for Vae {
    fn groups(&mut self) -> Vec<&mut dyn Tensors> {
        vec![self]
    }
}

impl Vae {
    /// Loads the `vae/` folder of a checkpoint.
    ///
    /// # Errors
    /// [`ModelError`](super::ModelError) if the configuration is another model's, or the weights do not fit it.
    pub fn load(folder: &Path, device: &Device, dtype: DType, tiling: Tiling) -> LoadResult<Self> {
        Self::load_with(folder, LoadContext::new(device, dtype), tiling)
    }

    /// The same, with progress.
    ///
    /// # Errors
    /// Those of [`Self::load`], and [`ModelError::Cancelled`](super::ModelError::Cancelled).
    pub fn load_with(folder: &Path, loading: LoadContext<'_>, tiling: Tiling) -> LoadResult<Self> {
        let LoadContext { device, dtype, .. } = loading;
        let path = folder.join("config.json");
        let config: VaeConfig = read_json(&path)?;
        config.check(&path)?;
        let w = Weights::open(folder, Component::Vae, loading)?;
        let z = config.z_dim;
        let vae = Self {
            encoder: Encoder::load(&w.pp("encoder"), &config)?,
            quant_conv: conv3d(&w.pp("quant_conv"), 2 * z, 2 * z, 1)?,
            post_quant_conv: conv3d(&w.pp("post_quant_conv"), z, z, 1)?,
            decoder: Decoder::load(&w.pp("decoder"), &config)?,
            mean: Tensor::new(config.latents_mean.as_slice(), device)?,
            std: Tensor::new(config.latents_std.as_slice(), device)?,
            dtype,
            tiling,
            config,
        };
        w.finish()?;
        Ok(vae)
    }

    /// Channels of a picture: 3, or 4 with alpha.
    pub fn channels(&self) -> usize {
        self.config.input_channels
    }

    /// Channels of a latent: 16.
    pub fn latent_channels(&self) -> usize {
        self.config.z_dim
    }

    /// The number of pixels per side of a latent.
    pub fn scale_factor(&self) -> usize {
        1 << self.config.temperal_downsample.len()
    }

    /// `(1, h, w, channels)` in -1..1 -> the posterior's mode, normalized, `(1, h/8, w/8, z)` in float32.
    pub fn encode(&self, picture: &Tensor) -> Result<Tensor> {
        let encode = |x: &Tensor| {
            let moments = self.quant_conv.forward(&self.encoder.forward(x)?)?;
            moments.narrow(3, 0, self.config.z_dim)?.contiguous()
        };
        let mode = self.tiling.encode(&picture.to_dtype(self.dtype)?, self.scale_factor(), encode)?;
        mode.to_dtype(DType::F32)?.broadcast_sub(&self.mean)?.broadcast_div(&self.std)
    }

    /// Normalized latents `(1, h, w, z)` -> `(1, 8h, 8w, channels)` in -1..1, float32.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let latents = latents.broadcast_mul(&self.std)?.broadcast_add(&self.mean)?.to_dtype(self.dtype)?;
        let decode = |z: &Tensor| self.decoder.forward(&self.post_quant_conv.forward(z)?);
        self.tiling.decode(&latents, self.scale_factor(), decode)?.to_dtype(DType::F32)?.clamp(-1.0, 1.0)
    }
}
