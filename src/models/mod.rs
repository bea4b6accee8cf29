//! The models, named and ordered like the checkpoint: `text_encoder/`, `transformer/`, `vae/`.

pub mod text_encoder;
pub mod weights;

pub use weights::{ModelError, Weights};
