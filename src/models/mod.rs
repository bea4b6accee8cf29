//! The models, named and ordered like the checkpoint: `scheduler/`, `text_encoder/`, `transformer/`, `vae/`.

mod inspect;
mod scheduler;
pub mod text_encoder;
pub mod transformer;
pub mod vae;
mod weights;

pub use inspect::{Checkpoint, Component, inspect};
pub use scheduler::{Schedule, Scheduler};
pub use weights::{Loaded, ModelError, Weights, checkpoint_bytes, read_json};
