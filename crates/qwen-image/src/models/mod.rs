//! The models, named and ordered like the checkpoint: `scheduler/`, `text_encoder/`, `transformer/`, `vae/`.

mod block_swap;
mod check;
mod convert;
mod files;
mod inspect;
pub mod lora;
mod memory_estimate;
mod model_index;
mod offload;
mod scheduler;
pub mod text_encoder;
pub mod transformer;
pub mod vae;
mod weight_files;
mod weights;

pub use block_swap::BlockPlacement;
pub use check::{CheckpointReport, ComponentReport, check};
pub use convert::{ConvertTo, Converted, Mixture, OnWritten, TARGETS, convert};
pub use inspect::{FileReport, check_file};
pub use memory_estimate::{PartSize, Sizes, Workload, checkpoint_bytes, memory_estimate};
pub(crate) use model_index::{EDIT_PLUS, LAYERED, pipeline_class};
pub use offload::{Entered, OffloadGroups, Offloadable};
pub use scheduler::{END_POWER, START_SHIFT, Schedule, Scheduler, Spacing};
pub use weight_files::{Component, Form, Remarks, StoredTensor, WeightFiles};
pub use weights::{LoadContext, LoadResult, ModelError, Watch, WeightOptions, Weights, read_json};
