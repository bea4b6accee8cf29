//! What a job would be computed with, found out without a device.

use qwen_image::{Lora, ModelIdentity, PipelineKind, hub, pipeline::Constants};

use super::{Engine, EngineConfig};
use crate::job::{DecomposeParams, LoraParam, OutputSize, Task};

/// What a job would be computed with on this machine, as its files are now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineIdentity {
    /// Of each model that the job uses, everything that changes its results. Part of it is whether layers are named.
    pub models: Vec<String>,
    /// For each pipeline, the identity of its checkpoint's files.
    pub weights: Vec<(String, String)>,
}

impl Engine {
    /// None if it is not known: a model or a LoRA is not on this machine yet, or may not be used. Reads files.
    pub fn identity(&self, task: &Task) -> Option<EngineIdentity> {
        let mut found = EngineIdentity { models: Vec::new(), weights: Vec::new() };
        match task {
            Task::Decompose(params) => {
                self.add(&mut found, PipelineKind::Layered, params.loras.as_deref(), params.options().lightning)?;
            }
            Task::Edit(params) => {
                self.add(&mut found, PipelineKind::EditPlus, params.loras.as_deref(), params.options().lightning)?;
            }
            Task::Composite(_) => {}
            Task::Workflow(params) => {
                let decompose = &params.decompose;
                self.add(&mut found, PipelineKind::Layered, decompose.loras.as_deref(), decompose.options().lightning)?;
                for edit in params.edits.iter().map(|edit| edit.params()) {
                    self.add(&mut found, PipelineKind::EditPlus, edit.loras.as_deref(), edit.options().lightning)?;
                }
            }
        }
        Some(found)
    }

    /// The size of the layers of a picture, if the checkpoint is on this machine or the request says it.
    pub fn layer_size(&self, params: &DecomposeParams, source: (u32, u32)) -> Option<(u32, u32)> {
        if params.output_size == Some(OutputSize::Source) {
            return Some(source);
        }
        let resolution = params.resolution.or_else(|| {
            let EngineConfig { model, pipeline, .. } = &*self.config;
            let folder = hub::find_local(&pipeline.hub, model, &hub::diffusers_files)?;
            let constants = Constants::load(&folder, PipelineKind::Layered, pipeline.conditioning).ok()?;
            constants.with_transformer(pipeline.transformer.as_deref()).resolutions.first().copied()
        })?;
        let model = qwen_image::source_size::model_size(resolution, source);
        Some(if params.is_at_source_size(source, model) { source } else { model })
    }

    fn add(
        &self,
        found: &mut EngineIdentity,
        pipeline: PipelineKind,
        loras: Option<&[LoraParam]>,
        lightning: Option<u32>,
    ) -> Option<()> {
        let loras: Option<Vec<Lora>> = self.config.allowed_loras.of(loras).ok()?;
        let (config, options) = (&self.config, &self.config.pipeline);
        let ModelIdentity { pipeline, weights, whole } =
            options.identity(&config.model, pipeline, loras.as_deref(), lightning)?;
        found.models.push(format!("{whole} {}", config.name_layers));
        let weights = (pipeline.class_name().to_owned(), weights);
        if !found.weights.contains(&weights) {
            found.weights.push(weights);
        }
        Some(())
    }
}
