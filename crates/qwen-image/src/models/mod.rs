//! The models, named and ordered like the checkpoint: `scheduler/`, `text_encoder/`, `transformer/`, `vae/`.

mod block_swap;
mod check;
mod files;
pub mod lora;
mod memory_estimate;
mod offload;
mod scheduler;
pub mod text_encoder;
pub mod transformer;
pub mod vae;
mod weights;

pub use block_swap::BlockPlacement;
pub use check::{CheckpointReport, ComponentReport, check};
pub use files::checkpoint_bytes;
pub use memory_estimate::{PartSize, Sizes, Workload, memory_estimate};
pub use offload::{Entered, OffloadGroups, Offloadable};
pub use scheduler::{Schedule, Scheduler};
pub use weights::{LoadContext, LoadResult, ModelError, Watch, Weights, read_json};
