//! The models, named and ordered like the checkpoint: `scheduler/`, `text_encoder/`, `transformer/`, `vae/`.

mod files;
mod inspect;
mod measure;
mod part;
mod scheduler;
mod streamed;
pub mod text_encoder;
pub mod transformer;
pub mod vae;
mod weights;

pub use files::checkpoint_bytes;
pub use inspect::{Checkpoint, Component, inspect};
pub use measure::{PartSize, Sizes, Workload, measure};
pub use part::{Entered, Movable, Part};
pub use scheduler::{Schedule, Scheduler};
pub use streamed::Blocks;
pub use weights::{Loaded, Loading, ModelError, Watch, Weights, read_json};
