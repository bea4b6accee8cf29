//! `vae/config.json`.

use std::path::Path;

use serde::Deserialize;

use crate::models::{
    LoadResult, ModelError,
    model_index::{self, check_class},
};

/// Names as in diffusers, including their spelling.
#[derive(Debug, Clone, Deserialize)]
pub struct VaeConfig {
    #[serde(rename = "_class_name")]
    pub class_name: Option<String>,
    #[serde(default = "default_base_dim")]
    pub base_dim: usize,
    #[serde(default = "default_z_dim")]
    pub z_dim: usize,
    #[serde(default = "default_dim_mult")]
    pub dim_mult: Vec<usize>,
    #[serde(default = "default_num_res_blocks")]
    pub num_res_blocks: usize,
    #[serde(default)]
    pub attn_scales: Vec<f64>,
    #[serde(default = "default_temperal_downsample")]
    pub temperal_downsample: Vec<bool>,
    #[serde(default = "default_input_channels")]
    pub input_channels: usize,
    pub latents_mean: Vec<f32>,
    pub latents_std: Vec<f32>,
}

fn default_base_dim() -> usize {
    96
}
fn default_z_dim() -> usize {
    16
}
fn default_dim_mult() -> Vec<usize> {
    vec![1, 2, 4, 4]
}
fn default_num_res_blocks() -> usize {
    2
}
fn default_temperal_downsample() -> Vec<bool> {
    vec![false, true, true]
}
fn default_input_channels() -> usize {
    3
}

impl VaeConfig {
    pub fn check(&self, path: &Path) -> LoadResult<()> {
        check_class(path, self.class_name.as_deref(), model_index::VAE)?;
        let fail = |reason: String| Err(ModelError::invalid(path, reason));
        if self.dim_mult.len() != self.temperal_downsample.len() + 1 {
            return fail("`dim_mult` must have one entry more than `temperal_downsample`".into());
        }
        if !matches!(self.input_channels, 3 | 4) {
            return fail(format!(
                "`input_channels` is {}; pictures have 3 channels, or 4 with alpha",
                self.input_channels
            ));
        }
        if self.latents_mean.len() != self.z_dim || self.latents_std.len() != self.z_dim {
            return fail(format!("`latents_mean` and `latents_std` must have `z_dim`, {}, values", self.z_dim));
        }
        if self.latents_std.iter().any(|&std| !(std.is_finite() && std > 0.0)) {
            return fail("`latents_std` must be positive".into());
        }
        Ok(())
    }
}
