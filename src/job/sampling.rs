//! The parameters that decompose and edit share, and presets, which stand for several of them.

use qwen_image::{
    EditOptions, Preset, Sampler,
    pipeline::{NUM_INFERENCE_STEPS, PresetValues},
};
use serde_json::{Map, Value, json};

use super::{
    JobError,
    lora::{LoraParam, steps_of},
};

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
    /// None: those of the worker's settings.
    pub loras: Option<Vec<LoraParam>>,
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
        Self {
            preset: None,
            steps,
            cfg_scale,
            seed: None,
            negative_prompt,
            sampler,
            sigmas,
            step_cache,
            cfg_until,
            loras: None,
        }
    }
}

impl Sampling {
    /// Whether it uses what version 1 of messages did not have.
    pub(super) fn is_of_version_2(&self) -> bool {
        let Self { preset, sampler, sigmas, step_cache, cfg_until, loras, .. } = self;
        let newer = preset.is_some() || loras.is_some();
        newer || sampler.is_some() || sigmas.is_some() || *step_cache > 0 || *cfg_until < 1.0
    }

    /// The noise levels: the request's own, or those of the preset.
    pub(super) fn levels(&self) -> Option<Vec<f64>> {
        self.sigmas.clone().or_else(|| self.preset?.sigmas(self.steps))
    }

    /// The denoise steps: those of the request's own noise levels, if it has any.
    pub(super) fn num_inference_steps(&self) -> u32 {
        let own = self.sigmas.as_ref().and_then(|sigmas| u32::try_from(sigmas.len().saturating_sub(1)).ok());
        // A number that is out of bounds is refused even then.
        own.filter(|steps| *steps > 0 && NUM_INFERENCE_STEPS.contains(&self.steps)).unwrap_or(self.steps)
    }

    /// Checks that the steps are those of the request's own noise levels, if it has any.
    ///
    /// # Errors
    /// [`JobError::InvalidRequest`] for `steps` or `sigmas`, below `at`.
    pub(super) fn check_levels(&self, at: &str) -> Result<(), JobError> {
        let Some(of_levels) = self.sigmas.as_ref().and_then(|sigmas| steps_of_levels(sigmas.len())) else {
            return Ok(());
        };
        let most = *NUM_INFERENCE_STEPS.end();
        if of_levels > most {
            let reason =
                format!("has {} noise levels, which are {of_levels} steps; at most {most} are allowed", of_levels + 1);
            return Err(JobError::invalid(format!("{at}.sigmas"), reason));
        }
        if self.steps != of_levels {
            let reason = format!(
                "{}, but the {} noise levels of `sigmas` are {of_levels} steps; give one of them",
                self.steps,
                of_levels + 1
            );
            return Err(JobError::invalid(format!("{at}.steps"), reason));
        }
        Ok(())
    }

    /// The steps for which the model's Lightning LoRA is needed.
    pub(super) fn lightning(&self) -> Option<u32> {
        self.preset.filter(|preset| *preset == Preset::Lightning).map(|_| self.num_inference_steps())
    }

    /// What a preset stands for instead.
    #[must_use]
    pub fn preset(self, preset: Preset) -> Self {
        let PresetValues { sampler, num_inference_steps, step_cache, cfg_until, cfg_scale } = preset.values();
        let usual = if self.preset == Some(Preset::Lightning) { Self::default().cfg_scale } else { self.cfg_scale };
        let (steps, cfg_scale) = (num_inference_steps, cfg_scale.unwrap_or(usual));
        Self { preset: Some(preset), steps, sampler: Some(sampler), step_cache, cfg_until, cfg_scale, ..self }
    }

    /// The steps of the preset `lightning` for these LoRAs; others have their own.
    #[must_use]
    pub fn steps_for<'a>(self, loras: impl IntoIterator<Item = &'a str>) -> Self {
        let steps = if self.preset == Some(Preset::Lightning) { steps_of(loras) } else { None };
        Self { steps: steps.unwrap_or(self.steps), ..self }
    }
}

/// The request's name for an option of the library.
pub fn parameter_of(option: &str) -> &str {
    match option {
        "num_inference_steps" => "steps",
        "lightning" => "preset",
        other => other,
    }
}

/// How many steps so many noise levels are.
fn steps_of_levels(levels: usize) -> Option<u32> {
    u32::try_from(levels).ok()?.checked_sub(1).filter(|steps| *steps > 0)
}

/// Adds the steps of a request's own noise levels, and what a preset stands for, to its parameters, which win where
/// they name the same. Workflows have a preset for each part. An unknown preset is left for the reader of the
/// parameters to refuse.
pub fn expand_presets(params: &mut Map<String, Value>) {
    let levels = params.get("sigmas").and_then(Value::as_array).map_or(0, Vec::len);
    if let Some(steps) = steps_of_levels(levels) {
        // Before those of a preset or of defaults, which were not asked for.
        params.entry("steps").or_insert(json!(steps));
    }
    let preset = params.get("preset").and_then(Value::as_str).and_then(|name| name.parse::<Preset>().ok());
    if let Some(preset) = preset {
        let values = preset.values();
        let loras = params.get("loras").and_then(Value::as_array).into_iter().flatten();
        let made_for = steps_of(loras.filter_map(|lora| lora.get("name")?.as_str()));
        let steps = made_for.filter(|_| preset == Preset::Lightning).unwrap_or(values.num_inference_steps);
        for (name, value) in [
            ("steps", json!(steps)),
            ("sampler", json!(values.sampler)),
            ("step_cache", json!(values.step_cache)),
            ("cfg_until", json!(values.cfg_until)),
        ] {
            params.entry(name).or_insert(value);
        }
        if let Some(cfg_scale) = values.cfg_scale {
            params.entry("cfg_scale").or_insert(json!(cfg_scale));
        }
    }
    if let Some(Value::Object(decompose)) = params.get_mut("decompose") {
        expand_presets(decompose);
    }
    if let Some(Value::Array(edits)) = params.get_mut("edits") {
        edits.iter_mut().filter_map(Value::as_object_mut).for_each(expand_presets);
    }
}

/// Takes back what the preset `lightning` of defaults means for guidance, where a request has another preset: that one
/// needs guidance.
pub fn leave_lightning(defaults: &mut Map<String, Value>, asked: &Map<String, Value>) {
    let preset = |params: &Map<String, Value>| params.get("preset").and_then(Value::as_str).map(str::to_owned);
    let lightning = Some(Preset::Lightning.as_str().to_owned());
    if preset(defaults) == lightning && asked.contains_key("preset") && preset(asked) != lightning {
        defaults.insert("cfg_scale".to_owned(), json!(Sampling::default().cfg_scale));
    }
    for (name, value) in defaults {
        if let (Value::Object(inner), Some(Value::Object(asked))) = (value, asked.get(name)) {
            leave_lightning(inner, asked);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{expand_presets, leave_lightning};

    #[test]
    fn lightning_turns_guidance_off_and_other_presets_turn_it_on_again() {
        let mut params = json!({
            "preset": "lightning", "loras": [{"name": "style"}, {"name": "My-Lightning-8steps.safetensors"}],
            "decompose": {"preset": "lightning", "steps": 6}
        });
        expand_presets(params.as_object_mut().unwrap());
        assert_eq!((&params["steps"], &params["cfg_scale"]), (&json!(8), &json!(1.0)));
        assert_eq!((&params["decompose"]["steps"], &params["decompose"]["cfg_scale"]), (&json!(6), &json!(1.0)));
        let mut defaults = json!({"preset": "lightning", "cfg_scale": 1.0, "decompose": {"preset": "lightning"}});
        let asked = json!({"preset": "fast", "decompose": {"preset": "lightning"}});
        leave_lightning(defaults.as_object_mut().unwrap(), asked.as_object().unwrap());
        assert_eq!(defaults, json!({"preset": "lightning", "cfg_scale": 4.0, "decompose": {"preset": "lightning"}}));
    }

    #[test]
    fn noise_levels_of_a_request_are_its_steps() {
        let mut params = json!({
            "sigmas": [1.0, 0.5, 0.0], "preset": "fast", "decompose": {"sigmas": [1.0, 0.0]}, "edits": [{"sigmas": []}]
        });
        expand_presets(params.as_object_mut().unwrap());
        assert_eq!((&params["steps"], &params["decompose"]["steps"]), (&json!(2), &json!(1)));
        assert_eq!(params["edits"][0].get("steps"), None);
    }

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
