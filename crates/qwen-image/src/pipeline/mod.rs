//! The two pipelines: plain values in, pictures out. Callbacks report progress and cancel.
//!
//! Each follows its reference in diffusers step by step (`QwenImageLayeredPipeline`, `QwenImageEditPlusPipeline`),
//! for one picture at a time.

mod branches;
mod callbacks;
mod cfg_parallel;
mod components;
mod constants;
mod denoise;
mod edit_inputs;
mod edit_plus;
mod error;
mod finish;
mod guidance;
mod held;
mod image_tensor;
mod latents;
mod layered;
mod lightning;
mod noise;
mod options;
mod placement;
mod preset;
mod prompt;
mod sampler;
mod sampling;
mod seeds;
mod sizes;
mod step_cache;

pub use callbacks::{Callbacks, Stage, StageTiming};
pub use cfg_parallel::{CfgParallel, CfgParallelOptions, Transformers};
pub(crate) use components::overlays;
pub use components::{Components, LoadOptions};
pub use constants::{Conditioning, Constants, PipelineKind};
pub use denoise::Denoise;
pub use edit_inputs::EditInputs;
pub use edit_plus::QwenImageEditPlusPipeline;
pub use error::PipelineError;
pub use guidance::{BranchOrder, Guidance};
pub use held::HeldLatents;
pub(crate) use image_tensor::{ImageSize, check_shape};
pub use layered::QwenImageLayeredPipeline;
pub(crate) use lightning::lightning_lora;
pub use noise::randn;
pub(crate) use options::check_loras;
pub use options::{
    AlphaMode, CFG_SCALE, CFG_UNTIL, Caption, DecomposeOptions, DecomposeOutput, DriftRecord, EditOptions, EditOutput,
    FEATHER, LAYERS, NUM_INFERENCE_STEPS, OutputSize, RESOLUTION, RESOLUTION_STEP, STEP_CACHE,
};
pub use placement::{ComponentPlacement, DeviceMap};
pub use preset::{LIGHTNING_STEPS, Preset, PresetValues};
pub use sampler::{Sampler, Solver};
pub use sampling::{SamplingPlan, SamplingRecord};
pub use sizes::sizes;
pub use step_cache::StepCache;
