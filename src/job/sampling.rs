//! The parameters that decompose and edit share, and presets, which stand for several of them.

use qwen_image::{EditOptions, Preset, Sampler, pipeline::PresetValues};
use serde_json::{Map, Value, json};

/// The parameters that both pipelines share. Defaults are those of the reference, except that guidance is on.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    pub preset: Option<Preset>,
    pub steps: u32,
    pub cfg_scale: f64,
    pub seed: Option<u64>,
    pub negative_prompt: String,
    pub sampler: Option<Sampler>,
    pub sigmas: Option<Vec<f64>>,
    pub step_cache: u32,
    pub cfg_until: f64,
}

impl Default for Sampling {
    fn default() -> Self {
        let EditOptions {
            num_inference_steps: steps,
            cfg_scale,
            negative_prompt,
            sampler,
            sigmas,
            step_cache,
            cfg_until,
            ..
        } = EditOptions::default();
        Self { preset: None, steps, cfg_scale, seed: None, negative_prompt, sampler, sigmas, step_cache, cfg_until }
    }
}

impl Sampling {
    /// Whether it uses what version 1 of messages did not have.
    pub(super) fn is_of_version_2(&self) -> bool {
        let Self { preset, sampler, sigmas, step_cache, cfg_until, .. } = self;
        preset.is_some() || sampler.is_some() || sigmas.is_some() || *step_cache > 0 || *cfg_until < 1.0
    }

    /// What a preset stands for instead.
    #[must_use]
    pub fn preset(self, preset: Preset) -> Self {
        let PresetValues { sampler, num_inference_steps, step_cache, cfg_until } = preset.values();
        let (preset, sampler) = (Some(preset), Some(sampler));
        Self { preset, steps: num_inference_steps, sampler, step_cache, cfg_until, ..self }
    }
}

/// Adds what a preset stands for to the parameters of a request, which win where they name the same. Workflows have a
/// preset for each part. An unknown preset is left for the reader of the parameters to refuse.
pub fn expand_presets(params: &mut Map<String, Value>) {
    let preset = params.get("preset").and_then(Value::as_str).and_then(|name| name.parse::<Preset>().ok());
    if let Some(preset) = preset {
        let values = preset.values();
        for (name, value) in [
            ("steps", json!(values.num_inference_steps)),
            ("sampler", json!(values.sampler)),
            ("step_cache", json!(values.step_cache)),
            ("cfg_until", json!(values.cfg_until)),
        ] {
            params.entry(name).or_insert(value);
        }
    }
    if let Some(Value::Object(decompose)) = params.get_mut("decompose") {
        expand_presets(decompose);
    }
    if let Some(Value::Array(edits)) = params.get_mut("edits") {
        edits.iter_mut().filter_map(Value::as_object_mut).for_each(expand_presets);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::expand_presets;

    #[test]
    fn a_preset_gives_what_a_request_leaves_open() {
        let mut params = json!({
            "preset": "balanced", "steps": 30, "decompose": {"preset": "fast"}, "edits": [{"preset": "none"}, {}]
        });
        expand_presets(params.as_object_mut().unwrap());
        assert_eq!((&params["steps"], &params["sampler"]), (&json!(30), &json!("abm2")));
        assert_eq!(params["decompose"]["steps"], 12);
        assert_eq!(params["edits"], json!([{"preset": "none"}, {}]));
    }
}
