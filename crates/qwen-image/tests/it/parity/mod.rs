//! Equality with the reference: every component and both pipelines against what diffusers computed.
//!
//! `tests/golden/` holds the small checkpoints, the stored tensors and the script that made them.

pub mod bars;
mod broken_checkpoints;
#[cfg(feature = "cuda")]
mod gpu_memory;
mod noise;
mod offload;
mod pipelines;
mod resize;
mod schedule;
mod seams;
mod text_encoder;
mod transformer;
mod vae;
