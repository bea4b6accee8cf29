//! `acetate doctor --vram`: what cards of other sizes would do.

use qwen_image::{
    PipelineKind, available_memory,
    hub::{ModelRef, Small},
    human_memory, published_forms,
};
use serde::Serialize;
use serde_json::json;

use super::{Failure, output};
use crate::{app, config::LoadedConfig, job::JobError};

#[derive(Debug, Serialize)]
struct Plan {
    vram: u64,
    model: String,
    fits: bool,
    plan: String,
}

/// The configured models if they are on this machine, and the published ones in every form, on each of these cards.
pub fn print(loaded: &LoadedConfig, cards: &[u64], as_json: bool) -> Result<(), Failure> {
    let options = app::engine_config(loaded)?.pipeline;
    let host = options.memory_budget.unwrap_or_else(available_memory);
    let mut plans = Vec::new();
    for &vram in cards {
        for (model, pipeline) in
            [(app::model(loaded)?, PipelineKind::Layered), (app::edit_model(loaded)?, PipelineKind::EditPlus)]
        {
            let folder = match &model {
                ModelRef::Folder(folder) => folder.clone(),
                ModelRef::Small { .. } | ModelRef::Hub { .. } => continue,
            };
            let made = options.estimate_for_gpu(&folder, pipeline, vram).map_err(JobError::from)?;
            plans.push(Plan::new(vram, folder.display().to_string(), made));
        }
        for form in published_forms() {
            let made = form.on_card(vram, host);
            let rounded = if form.rounded_to_fp8 { " with --dtype fp8" } else { "" };
            let model = format!("transformer {}{rounded}, text encoder {}", form.transformer, form.text_encoder);
            plans.push(Plan::new(vram, model, made));
        }
    }
    if as_json {
        return output::json(&json!({ "host_memory": host, "plans": plans }));
    }
    for (index, &vram) in cards.iter().enumerate() {
        let separator = if index > 0 { "\n" } else { "" };
        output::line(&format!(
            "{separator}a card of {}, with {} of free host memory here:",
            human_memory(vram),
            human_memory(host)
        ))?;
        for plan in plans.iter().filter(|plan| plan.vram == vram) {
            let verdict = if plan.fits { "" } else { "does not fit: " };
            output::line(&format!("  {:<48} {verdict}{}", plan.model, plan.plan))?;
        }
    }
    output::line(&format!(
        "\nthe published models are {} and {}",
        Small::Layered.full_model(),
        Small::Edit.full_model()
    ))
}

impl Plan {
    fn new(vram: u64, model: String, made: Result<String, String>) -> Self {
        let fits = made.is_ok();
        Self { vram, model, fits, plan: made.unwrap_or_else(|reason| reason) }
    }
}
