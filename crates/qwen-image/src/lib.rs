//! Qwen-Image-Layered and Qwen-Image-Edit (2509 and 2511) on [candle](candle_core): they split a picture into
//! transparent RGBA layers, and edit a layer by an instruction.
//!
//! [`QwenImagePipeline`] is all that most programs need. It follows diffusers: the same names, the same defaults, and
//! the same picture for the same seed, so that a seed keeps its meaning when a program moves from Python to Rust.
//!
//! ```no_run
//! use qwen_image::{DecomposeOptions, EditOptions, PipelineOptions, QwenImagePipeline};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut pipe = QwenImagePipeline::from_pretrained("Qwen/Qwen-Image-Layered", PipelineOptions::default())?;
//! let scene = image::open("scene.png")?.to_rgba8();
//! let options = DecomposeOptions { layers: 4, seed: Some(7), ..Default::default() };
//! let mut layers = pipe.decompose(&scene, options)?.images;
//! layers[2] = pipe.edit_layer(&layers[2], "Make it green", EditOptions::default())?.image;
//! pipe.composite(&layers[1..])?.save("new.png")?;
//! # Ok(())
//! # }
//! ```
//!
//! # The path of a tensor
//!
//! ```text
//! picture -> image_processor -> pipeline: [text_encoder -> transformer, once a step -> vae] -> pictures
//! hub     -> model_cache ------> models: tensors named and ordered like the checkpoint -> nn: one kernel a call
//! ```
//!
//! [`hub`] finds or downloads a checkpoint. The model cache decides which models are in memory and where, and loads
//! them. [`pipeline`] has the two pipelines and the denoise loop. [`models`] has the networks, [`nn`] their building
//! blocks, each of which picks its kernel by device and number format. [`image_processor`] resizes, splits and joins
//! pictures as the reference does. [`source_size`] brings layers to the size of their picture, and [`layer_names`]
//! names them.
//!
//! Every call blocks. The library uses no async runtime and, but for the home folder of the default cache, does not
//! read the environment: progress is reported through [`Callbacks`], and settings are passed as options.

#![warn(missing_docs)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod auto_layers;
mod error;
pub mod hub;
mod identity;
pub mod image_processor;
pub mod layer_names;
mod model_cache;
pub mod models;
pub mod nn;
pub mod pipeline;
mod pipeline_options;
mod qwen_image_pipeline;
pub mod source_size;
mod threads;

pub use auto_layers::auto_layers;
/// Callbacks get tensors of this version.
pub use candle_core;
pub use error::Error;
pub use hub::Lora;
pub use identity::ModelIdentity;
pub use model_cache::{
    ComputeDType, CpuOffload, DeviceChoice, Devices, LoadedModel, PublishedForm, WhatIf, available_memory,
    describe_device, human_memory, open_device, published_forms,
};
pub use models::{
    WeightOptions,
    lora::AppliedLora,
    text_encoder::{ImageProcessorBackend, TextPositions},
};
pub use pipeline::{
    AlphaMode, Callbacks, Caption, Conditioning, DecomposeOptions, DecomposeOutput, DriftRecord, EditInputs,
    EditOptions, EditOutput, OutputSize, PipelineKind, Preset, Sampler, SamplingRecord, Stage, StageTiming,
};
pub use pipeline_options::PipelineOptions;
pub use qwen_image_pipeline::{QwenImagePipeline, RunRecord};
pub use threads::{compute_pool, yield_to_compute};
