//! Parity with the reference: compares every component and both pipelines with the results of diffusers.
//!
//! `tests/golden/` holds the small checkpoints, the stored tensors and the script that made them.

pub mod bars;
mod broken_checkpoints;
mod cfg_parallel;
#[cfg(feature = "cuda")]
mod gpu_memory;
mod loras;
mod noise;
mod offload;
mod pipelines;
mod resize;
mod schedule;
mod seams;
mod text_encoder;
mod transformer;
mod vae;
