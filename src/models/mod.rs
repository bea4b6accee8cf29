//! The models, named and ordered like the checkpoint: `text_encoder/`, `transformer/`, `vae/`.

mod inspect;
pub mod text_encoder;
pub mod transformer;
pub mod vae;
mod weights;

pub use inspect::{Checkpoint, Component, inspect};
pub use weights::{Loaded, ModelError, Weights, checkpoint_bytes, read_json};
