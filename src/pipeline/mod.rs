//! The two pipelines: plain values in, pictures out. Progress and cancel come in as callbacks.
//!
//! Each follows its reference in diffusers step by step (`QwenImageLayeredPipeline`, `QwenImageEditPlusPipeline`),
//! for one picture at a time.

mod constants;
mod control;
mod decompose;
mod denoise;
mod edit;
mod error;
mod latents;
mod noise;
mod picture;
mod prompt;
mod schedule;

use std::path::Path;

use crate::models::{Loaded, ModelError, text_encoder::TextEncoder, transformer::Transformer, vae::Vae};

pub use constants::{Constants, Pipeline};
pub use control::Control;
pub use decompose::{DecomposePipeline, Decomposed};
pub use edit::EditPipeline;
pub use error::PipelineError;
pub use noise::randn;
pub use schedule::{Schedule, Scheduler};

/// Parts of a checkpoint must fit each other.
fn check_parts(folder: &Path, transformer: &Transformer, vae: &Vae, text_encoder: &TextEncoder) -> Loaded<()> {
    let fail = |reason: String| Err(ModelError::invalid(folder, reason));
    if transformer.in_channels() != 4 * vae.latent_channels() {
        return fail(format!(
            "the transformer takes {} channels, but the VAE's latents pack to {}",
            transformer.in_channels(),
            4 * vae.latent_channels()
        ));
    }
    if transformer.joint_attention_dim() != text_encoder.hidden_size() {
        return fail(format!(
            "the transformer reads text of width {}, but the text encoder writes {}",
            transformer.joint_attention_dim(),
            text_encoder.hidden_size()
        ));
    }
    Ok(())
}
