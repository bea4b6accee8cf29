//! The configured checkpoints and their device.

use qwen_image::{
    Conditioning, CpuOffload, DeviceChoice, Lora, PipelineKind, PipelineOptions,
    hub::{self, HubConfig, ModelRef, Small, SmallModelPaths},
    pipeline::Constants,
};

use super::embedded_models;
use crate::{
    config::{GuidanceMode, LoadedConfig, QwenImage, parse_loras},
    engine::{AllowedLoras, DeviceGroup, EngineConfig},
    http::{ServerModel, ServerModels},
    job::JobError,
};

pub fn engine_config(loaded: &LoadedConfig) -> Result<EngineConfig, JobError> {
    let settings = &loaded.config.qwen_image;
    let devices = devices(settings)?;
    let cfg_parallel_device = devices.first().and_then(|group| group.cfg_parallel);
    let on_gpu = settings.device.first() != DeviceChoice::Cpu;
    Ok(EngineConfig {
        model: model(loaded)?,
        devices,
        pipeline: PipelineOptions {
            edit_model: Some(edit_model(loaded)?),
            load_edit_model: settings.load_edit_model,
            transformer: settings.transformer_path.clone(),
            edit_transformer: settings.edit_transformer_path.clone(),
            text_encoder: settings.text_encoder_path.clone(),
            text_encoder_fp8: settings.text_encoder_fp8,
            device: settings.device.first(),
            dtype: Some(settings.dtype().map_err(|reason| JobError::invalid("qwen_image.dtype", reason))?),
            cfg_parallel_device,
            // Settings for a GPU stay in a file that is also used without one.
            cpu_offload: if on_gpu { settings.cpu_offload } else { CpuOffload::Auto },
            vram_budget: Some(settings.vram_budget).filter(|budget| on_gpu && *budget > 0),
            memory_budget: Some(settings.memory_budget).filter(|budget| *budget > 0),
            conditioning: Conditioning {
                text_positions: settings.text_positions,
                image_processor: settings.image_processor,
            },
            loras: loras("qwen_image.loras", &settings.loras)?,
            edit_loras: loras("qwen_image.edit_loras", &settings.edit_loras)?,
            hub: loaded.hub.clone(),
        },
        allowed_loras: AllowedLoras::parse(&settings.allowed_loras)?,
        name_layers: settings.name_layers,
    })
}

/// The devices of each of the engine's threads.
///
/// # Errors
/// If a device is not there, or if they are no pairs but guidance is parallel.
pub fn devices(settings: &QwenImage) -> Result<Vec<DeviceGroup>, JobError> {
    match settings.guidance {
        GuidanceMode::Serial => DeviceGroup::serial(&settings.device),
        GuidanceMode::Parallel => DeviceGroup::parallel(&settings.device),
    }
}

fn loras(key: &str, texts: &[String]) -> Result<Vec<Lora>, JobError> {
    parse_loras(texts).map_err(|reason| JobError::invalid(key, reason))
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
    ModelRef::Small { which, paths: small_model_paths(loaded) }
}

/// Where to look for the small checkpoints, the program itself last.
pub fn small_model_paths(loaded: &LoadedConfig) -> SmallModelPaths {
    let embedded = embedded_models::embedded(loaded.cache_dir.clone());
    SmallModelPaths { embedded, ..loaded.surroundings.clone() }
}

/// What the API says about the models: a function, because they may be downloaded while the server runs. `works`: this
/// process runs jobs, so that a model that is not here is not available.
pub fn server_models(
    loaded: &LoadedConfig,
    works: bool,
) -> Result<impl Fn() -> ServerModels + Send + Sync + use<>, JobError> {
    let (decompose, edit) = (model(loaded)?, edit_model(loaded)?);
    let (hub, device) = (loaded.hub.clone(), loaded.config.qwen_image.device.to_string());
    Ok(move || ServerModels {
        decompose: shown(&hub, &decompose, PipelineKind::Layered, works),
        edit: shown(&hub, &edit, PipelineKind::EditPlus, works),
        device: device.clone(),
    })
}

/// A folder is shown by its name, to keep its path private.
fn shown(hub: &HubConfig, model: &ModelRef, pipeline: PipelineKind, works: bool) -> ServerModel {
    let (id, small) = match model {
        ModelRef::Small { which, .. } => (which.name().to_owned(), true),
        ModelRef::Folder(folder) => {
            (folder.file_name().map_or_else(|| model.to_string(), |name| name.to_string_lossy().into_owned()), false)
        }
        ModelRef::Hub { .. } => (model.to_string(), false),
    };
    let mut model = model.clone();
    if let ModelRef::Small { paths, .. } = &mut model
        && !works
    {
        // A process that runs no jobs does not unpack the built-in models.
        paths.embedded = None;
    }
    let constants = hub::find_local(hub, &model, &hub::diffusers_files)
        .and_then(|folder| Constants::load(&folder, pipeline, Conditioning::default()).ok());
    let here = constants.is_some();
    let made_for = constants.filter(|_| pipeline == PipelineKind::Layered);
    ServerModel {
        id,
        small,
        loaded: None,
        available: (here || works).then_some(here),
        layers: made_for.as_ref().map(|constants| [*constants.layers.start(), *constants.layers.end()]),
        resolutions: made_for.map(|constants| constants.resolutions),
    }
}
