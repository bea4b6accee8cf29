use std::path::Path;

use serde::Deserialize;

use super::config::{Ids, TextEncoderConfig};
use crate::models::{LoadResult, ModelError, read_json};

/// How captions are generated. Only settings that amount to choosing the most likely token are accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationConfig {
    pub repetition_penalty: f32,
    /// Tokens that end the text.
    pub eos: Vec<u32>,
}

impl GenerationConfig {
    /// Reads `generation_config.json` in `folder`; without one, uses the model's end token and no penalty.
    ///
    /// # Errors
    /// If the settings actually sample or search. The published ones are nearly greedy (`top_k` 1, or a `top_p` or
    /// `temperature` of 0.001 or less).
    pub fn load(folder: &Path, config: &TextEncoderConfig) -> LoadResult<Self> {
        #[derive(Default, Deserialize)]
        struct Raw {
            eos_token_id: Option<Ids>,
            repetition_penalty: Option<f32>,
            do_sample: Option<bool>,
            temperature: Option<f64>,
            top_k: Option<i64>,
            top_p: Option<f64>,
            num_beams: Option<usize>,
        }
        let path = folder.join("generation_config.json");
        let raw: Raw = if path.is_file() { read_json(&path)? } else { Raw::default() };
        let tiny = |value: Option<f64>| value.is_some_and(|value| value <= 1e-3);
        let greedy =
            !raw.do_sample.unwrap_or(false) || raw.top_k == Some(1) || tiny(raw.top_p) || tiny(raw.temperature);
        if !greedy {
            let reason = "asks for sampling, but captions use the most likely token: set `top_k` to 1";
            return Err(ModelError::invalid(path, reason));
        }
        if raw.num_beams.is_some_and(|beams| beams > 1) {
            return Err(ModelError::invalid(path, "asks for a beam search (`num_beams`), which is not supported"));
        }
        let repetition_penalty = raw.repetition_penalty.unwrap_or(1.0);
        if !(repetition_penalty.is_finite() && repetition_penalty > 0.0) {
            return Err(ModelError::invalid(path, "`repetition_penalty` must be above 0"));
        }
        let eos = raw.eos_token_id.or_else(|| config.text.eos_token_id.clone()).map_or_else(Vec::new, Ids::into_vec);
        Ok(Self { repetition_penalty, eos })
    }
}
