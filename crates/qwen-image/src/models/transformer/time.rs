//! The timestep's embedding (`QwenTimestepProjEmbeddings`).

use candle_core::{DType, Device, Result, Tensor};

use super::config::TIME_CHANNELS as CHANNELS;
use crate::{
    models::{LoadResult, Weights},
    nn::{self, Linear, tensors_of},
};

#[derive(Debug)]
pub struct TimeEmbedding {
    linear_1: Linear,
    linear_2: Linear,
    /// The additional embedding's row for a picture (index 0), `(1, dim)`.
    addition: Option<Tensor>,
}

tensors_of!(TimeEmbedding: linear_1, linear_2, addition);

impl TimeEmbedding {
    pub fn load(w: &Weights, dim: usize, additional: bool) -> LoadResult<Self> {
        let embedder = w.pp("timestep_embedder");
        let addition = additional
            .then(|| -> LoadResult<Tensor> {
                Ok(w.get((2, dim), "addition_t_embedding.weight")?.narrow(0, 0, 1)?.contiguous()?)
            })
            .transpose()?;
        Ok(Self {
            linear_1: embedder.pp("linear_1").linear(CHANNELS, dim, true)?,
            linear_2: embedder.pp("linear_2").linear(dim, dim, true)?,
            addition,
        })
    }

    /// The embedding of a noise level, `(1, 1, dim)`.
    pub fn forward(&self, timestep: f32, device: &Device, dtype: DType) -> Result<Tensor> {
        let table = Tensor::from_vec(sinusoids(timestep), (1, 1, CHANNELS), device)?.to_dtype(dtype)?;
        let embedding = self.linear_2.forward(&nn::silu(&self.linear_1.forward(&table)?)?)?;
        match &self.addition {
            Some(row) => embedding.broadcast_add(row),
            None => Ok(embedding),
        }
    }
}

/// Cosines, then sines, of `1000 t` at 128 frequencies from 1 down to 1/10000; float32 in the reference's order.
fn sinusoids(timestep: f32) -> Vec<f32> {
    let half = CHANNELS / 2;
    let angles = (0..half).map(|i| {
        let exponent = -(10_000.0_f64.ln()) as f32 * i as f32 / half as f32;
        f64::from(1000.0 * (timestep * exponent.exp()))
    });
    let (cos, sin): (Vec<f32>, Vec<f32>) = angles.map(|angle| (angle.cos() as f32, angle.sin() as f32)).unzip();
    [cos, sin].concat()
}
