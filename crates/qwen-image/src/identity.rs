//! What a call would compute with, found out without loading a model, to recognize an equal call.

use sha2::{Digest, Sha256};

use crate::{
    DeviceChoice, PipelineKind, PipelineOptions,
    hub::{self, HubConfig, Lora, ModelRef, Small},
    model_cache::{local_weights, stamp},
    pipeline::lightning_lora,
};

/// What a pipeline computes with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelIdentity {
    /// The pipeline that would run.
    pub pipeline: PipelineKind,
    /// The checkpoint's files: equal to [`crate::LoadedModel::weights`] of a call that used them.
    pub weights: String,
    /// Everything that changes a result beside the options of a call: also the LoRAs, the number format, the kind of
    /// the device, and how pictures are read.
    pub whole: String,
}

impl PipelineOptions {
    /// What a call would compute with, by the files as they are now; none if not all are on this machine. `model` is
    /// that for decompose; `loras` and `lightning` are as in the options of the call.
    ///
    /// Not part of it is what only changes the last bits of some pixels: the processor, and where a model's parts are.
    pub fn identity(
        &self,
        model: &ModelRef,
        pipeline: PipelineKind,
        loras: Option<&[Lora]>,
        lightning: Option<u32>,
    ) -> Option<ModelIdentity> {
        let full = ModelRef::parse(Small::Edit.full_model()).ok()?;
        let (model, own) = match pipeline {
            PipelineKind::Layered => (model, &self.loras),
            PipelineKind::EditPlus => (self.edit_model.as_ref().unwrap_or(&full), &self.edit_loras),
        };
        let (folder, weights) = local_weights(&self.hub, model, &self.weight_options(pipeline))?;
        let mut loras = loras.unwrap_or(own).to_vec();
        if let Some(steps) = lightning
            && !loras.iter().any(|lora| lora.source.is_lightning())
        {
            loras.extend(lightning_lora(pipeline, &folder, steps).ok()?);
        }
        let device = if self.device == DeviceChoice::Cpu { "cpu" } else { "cuda" };
        let mut lines = vec![
            pipeline.class_name().to_owned(),
            weights.clone(),
            format!("{device} {}", self.compute_dtype().as_str()),
            format!("{:?}", self.conditioning),
        ];
        let offline = HubConfig { offline: true, ..self.hub.clone() };
        for Lora { source, strength } in loras.iter().filter(|lora| lora.strength != 0.0) {
            let path = hub::resolve_lora(&offline, source, &mut |_| std::ops::ControlFlow::Continue(())).ok()?;
            lines.push(format!("{} {strength}", stamp(&path).ok()?));
        }
        let whole = hex::encode(Sha256::digest(lines.join("\n")));
        Some(ModelIdentity { pipeline, weights, whole })
    }
}
