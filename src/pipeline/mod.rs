//! The two pipelines: plain values in, pictures out. Progress and cancel come in as callbacks.
//!
//! Each follows its reference in diffusers step by step (`QwenImageLayeredPipeline`, `QwenImageEditPlusPipeline`),
//! for one picture at a time.

mod checkpoint;
mod constants;
mod control;
mod decompose;
mod denoise;
mod edit;
mod error;
mod latents;
mod noise;
mod picture;
mod placement;
mod prompt;
mod sizes;

pub use checkpoint::{Checkpoint, LoadOptions};
pub use constants::{Constants, Pipeline};
pub use control::Control;
pub use decompose::{DecomposePipeline, Decomposed};
pub use edit::EditPipeline;
pub use error::PipelineError;
pub use noise::randn;
pub use placement::{Place, Placement};
pub use sizes::sizes;
