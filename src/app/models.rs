//! The configured checkpoints and their device.

use qwen_image::{
    Conditioning, CpuOffload, DeviceChoice, Limits, PipelineOptions,
    hub::{ModelRef, Small, Surroundings},
};

use super::embedded_models;
use crate::{config::LoadedConfig, engine::EngineConfig, job::JobError};

pub fn engine_config(loaded: &LoadedConfig) -> Result<EngineConfig, JobError> {
    let settings = &loaded.config.qwen_image;
    let on_gpu = settings.device != DeviceChoice::Cpu;
    Ok(EngineConfig {
        model: model(loaded)?,
        pipeline: PipelineOptions {
            edit_model: Some(edit_model(loaded)?),
            load_edit_model: settings.load_edit_model,
            transformer: settings.transformer_path.clone(),
            edit_transformer: settings.edit_transformer_path.clone(),
            text_encoder: settings.text_encoder_path.clone(),
            text_encoder_fp8: settings.text_encoder_fp8,
            limits: Limits {
                device: settings.device,
                dtype: settings.dtype().map_err(|reason| JobError::invalid("qwen_image.dtype", reason))?,
                // Settings for a GPU stay in a file that is also used without one.
                cpu_offload: if on_gpu { settings.cpu_offload } else { CpuOffload::Auto },
                vram_budget: Some(settings.vram_budget).filter(|budget| on_gpu && *budget > 0),
                memory_budget: Some(settings.memory_budget).filter(|budget| *budget > 0),
            },
            conditioning: Conditioning {
                text_positions: settings.text_positions,
                image_processor: settings.image_processor,
            },
            hub: loaded.hub.clone(),
        },
    })
}

/// The model for decompose: the configured checkpoint, otherwise the small one.
pub fn model(loaded: &LoadedConfig) -> Result<ModelRef, JobError> {
    match &loaded.config.qwen_image.model_path {
        Some(path) => Ok(ModelRef::parse(path)?),
        None => Ok(small(loaded, Small::Layered)),
    }
}

/// The model for edits. If a model is set for layers but none for edits, this is the full one, because mixing it with a
/// small one would be surprising.
pub fn edit_model(loaded: &LoadedConfig) -> Result<ModelRef, JobError> {
    let settings = &loaded.config.qwen_image;
    match (&settings.edit_model_path, &settings.model_path) {
        (Some(path), _) => Ok(ModelRef::parse(path)?),
        (None, Some(_)) => Ok(ModelRef::parse(Small::Edit.full_model())?),
        (None, None) => Ok(small(loaded, Small::Edit)),
    }
}

fn small(loaded: &LoadedConfig, which: Small) -> ModelRef {
    ModelRef::Small { which, around: surroundings(loaded) }
}

/// Where to look for the small checkpoints, the program itself last.
pub fn surroundings(loaded: &LoadedConfig) -> Surroundings {
    let carried = embedded_models::carried(loaded.cache_dir.clone());
    Surroundings { carried, ..loaded.surroundings.clone() }
}
