//! `text_encoder/config.json`.
//!
//! Two layouts exist: older files have the language model's sizes at the top level, newer ones under `text_config`.
//! Some files have both; then the nested ones count.

use std::path::Path;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::models::{LoadResult, ModelError, read_json};

/// Sizes of the whole model.
#[derive(Debug, Clone)]
pub struct TextEncoderConfig {
    pub text: TextConfig,
    pub vision: VisionConfig,
    /// The placeholder token of one merged patch of a picture.
    pub image_token: u32,
    /// Whether the language head is the embedding table.
    pub tied: bool,
}

#[derive(Debug, Clone, Deserialize)]
pub struct TextConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    #[serde(default = "default_eps")]
    pub rms_norm_eps: f64,
    #[serde(default = "default_positions")]
    pub max_position_embeddings: usize,
    #[serde(default)]
    pub rope_theta: Option<f64>,
    #[serde(default, alias = "rope_scaling")]
    rope_parameters: Option<RopeParameters>,
    #[serde(default = "silu")]
    hidden_act: String,
    #[serde(default)]
    use_sliding_window: bool,
    #[serde(default)]
    tie_word_embeddings: Option<bool>,
    #[serde(default)]
    pub eos_token_id: Option<Ids>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct VisionConfig {
    pub depth: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_heads: usize,
    pub out_hidden_size: usize,
    #[serde(default = "three", alias = "in_chans")]
    pub in_channels: usize,
    #[serde(default = "fourteen")]
    pub patch_size: usize,
    #[serde(default = "two")]
    pub spatial_merge_size: usize,
    #[serde(default = "two")]
    pub temporal_patch_size: usize,
    /// Side of an attention window, in pixels.
    #[serde(default = "default_window")]
    pub window_size: usize,
    /// Blocks that attend over the whole picture.
    pub fullatt_block_indexes: Vec<usize>,
    #[serde(default = "silu")]
    hidden_act: String,
    #[serde(default)]
    rope_parameters: Option<RopeParameters>,
}

#[derive(Debug, Clone, Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
    mrope_section: Option<Vec<usize>>,
    #[serde(alias = "type")]
    rope_type: Option<String>,
    /// Files of some versions have the type twice.
    #[serde(flatten)]
    _rest: serde_json::Map<String, Value>,
}

/// One token or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Ids {
    One(u32),
    Many(Vec<u32>),
}

impl Ids {
    pub fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

impl TextEncoderConfig {
    /// Reads `config.json` in `folder` and checks that its numbers fit together.
    pub fn load(folder: &Path) -> LoadResult<Self> {
        let path = folder.join("config.json");
        let value: Value = read_json(&path)?;
        let config = Self::from_value(&value).map_err(|reason| ModelError::invalid(&path, reason))?;
        config.check().map_err(|reason| ModelError::invalid(&path, reason))?;
        Ok(config)
    }

    fn from_value(value: &Value) -> Result<Self, String> {
        if let Some(kind) = value.get("model_type").and_then(Value::as_str)
            && kind != "qwen2_5_vl"
        {
            return Err(format!("`model_type` is `{kind}`; the text encoder of these models is a `qwen2_5_vl`"));
        }
        let nested = value.get("text_config").filter(|text| text.get("hidden_size").is_some());
        let mut text_value = nested.unwrap_or(value).clone();
        merge_rope_type(&mut text_value);
        let text: TextConfig = part(&text_value, "language model")?;
        let mut vision_value = value
            .get("vision_config")
            .ok_or("`vision_config` is missing; is this a text-only language model?")?
            .clone();
        merge_rope_type(&mut vision_value);
        let image_token = value.get("image_token_id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        let tied = value.get("tie_word_embeddings").and_then(Value::as_bool).or(text.tie_word_embeddings);
        Ok(Self {
            vision: part(&vision_value, "`vision_config`")?,
            image_token: image_token.ok_or("`image_token_id` is missing")?,
            tied: tied.unwrap_or(false),
            text,
        })
    }

    fn check(&self) -> Result<(), String> {
        let Self { text, vision, .. } = self;
        for (name, value) in [
            ("num_attention_heads", text.num_attention_heads),
            ("num_key_value_heads", text.num_key_value_heads),
            ("vision_config.num_heads", vision.num_heads),
            ("vision_config.patch_size", vision.patch_size),
            ("vision_config.spatial_merge_size", vision.spatial_merge_size),
            ("vision_config.temporal_patch_size", vision.temporal_patch_size),
        ] {
            if value == 0 {
                return Err(format!("`{name}` is 0"));
            }
        }
        let divides = |part: usize, whole: usize, what: &str| {
            if whole.is_multiple_of(part) {
                Ok(())
            } else {
                Err(format!("{what}: {whole} is not a multiple of {part}"))
            }
        };
        divides(text.num_attention_heads, text.hidden_size, "`hidden_size` over `num_attention_heads`")?;
        divides(
            text.num_key_value_heads,
            text.num_attention_heads,
            "`num_attention_heads` over `num_key_value_heads`",
        )?;
        divides(4 * vision.num_heads, vision.hidden_size, "`vision_config.hidden_size` over 4 times its heads")?;
        let sections: usize = text.mrope_section().iter().sum();
        if 2 * sections != text.head_dim() {
            return Err(format!(
                "`mrope_section` sums to {sections}, which is not half of the head's {}",
                text.head_dim()
            ));
        }
        if vision.out_hidden_size != text.hidden_size {
            return Err(format!(
                "the vision tower outputs {} features (`out_hidden_size`), the language model reads {}",
                vision.out_hidden_size, text.hidden_size
            ));
        }
        if vision.window() == 0 {
            return Err(format!("`window_size` {} is smaller than one merged patch", vision.window_size));
        }
        for act in [&text.hidden_act, &vision.hidden_act] {
            if act != "silu" {
                return Err(format!("`hidden_act` is `{act}`; only `silu` is supported"));
            }
        }
        if text.use_sliding_window {
            return Err("`use_sliding_window` is true; only full attention is supported".to_owned());
        }
        match text.rope_parameters.as_ref().and_then(|rope| rope.rope_type.as_deref()) {
            None | Some("default" | "mrope") => Ok(()),
            Some(kind) => Err(format!("rotary embeddings of type `{kind}` are not supported, only `default`")),
        }
    }
}

impl TextConfig {
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    pub fn theta(&self) -> f64 {
        let nested = self.rope_parameters.as_ref().and_then(|rope| rope.rope_theta);
        nested.or(self.rope_theta).unwrap_or(1e6)
    }

    /// The number of frequencies for time, height and width, in this order.
    pub fn mrope_section(&self) -> &[usize] {
        self.rope_parameters.as_ref().and_then(|rope| rope.mrope_section.as_deref()).unwrap_or(&[16, 24, 24])
    }
}

impl VisionConfig {
    pub fn theta(&self) -> f64 {
        self.rope_parameters.as_ref().and_then(|rope| rope.rope_theta).unwrap_or(1e4)
    }

    /// Side of an attention window, in merged patches.
    pub fn window(&self) -> usize {
        self.window_size / self.spatial_merge_size / self.patch_size
    }

    /// Values of one patch.
    pub fn patch_len(&self) -> usize {
        self.in_channels * self.temporal_patch_size * self.patch_size * self.patch_size
    }
}

/// Some files have the rope's type under both of its names; the newer one counts.
fn merge_rope_type(value: &mut Value) {
    for key in ["rope_parameters", "rope_scaling"] {
        if let Some(Value::Object(rope)) = value.get_mut(key)
            && rope.contains_key("rope_type")
        {
            rope.remove("type");
        }
    }
    if let Value::Object(object) = value
        && object.get("rope_parameters").is_some_and(|rope| !rope.is_null())
    {
        object.remove("rope_scaling");
    }
}

fn part<T: DeserializeOwned>(value: &Value, what: &str) -> Result<T, String> {
    T::deserialize(value).map_err(|error| format!("{what}: {error}"))
}

fn default_eps() -> f64 {
    1e-5
}

fn default_positions() -> usize {
    32768
}

fn default_window() -> usize {
    112
}

fn silu() -> String {
    "silu".to_owned()
}

fn two() -> usize {
    2
}

fn three() -> usize {
    3
}

fn fourteen() -> usize {
    14
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Sizes of the published text encoder, in the layout that it is published in.
    fn published() -> Value {
        json!({
            "model_type": "qwen2_5_vl", "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944,
            "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-6,
            "max_position_embeddings": 128000, "rope_theta": 1e6, "image_token_id": 151655, "eos_token_id": 151645,
            "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "use_sliding_window": false,
            "sliding_window": 32768, "tie_word_embeddings": false,
            "vision_config": {
                "depth": 32, "hidden_act": "silu", "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
                "in_chans": 3, "out_hidden_size": 3584, "patch_size": 14, "spatial_merge_size": 2,
                "spatial_patch_size": 14, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
                "tokens_per_second": 2, "temporal_patch_size": 2
            }
        })
    }

    #[test]
    fn the_published_config_is_read_in_every_layout() {
        let flat = published();
        let mut both = flat.clone();
        both["text_config"] = flat.clone();
        both["hidden_size"] = 1.into();
        both["text_config"]["rope_scaling"] =
            json!({"type": "default", "rope_type": "default", "mrope_section": [16, 24, 24]});
        for value in [flat, both] {
            let config = TextEncoderConfig::from_value(&value).unwrap();
            config.check().unwrap();
            assert_eq!((config.text.head_dim(), config.text.theta(), config.vision.window()), (128, 1e6, 4));
            assert_eq!((config.vision.patch_len(), config.vision.theta()), (1176, 1e4));
        }
    }

    #[test]
    fn what_does_not_fit_together_is_named() {
        let check = |key: &str, value: Value| {
            let mut config = published();
            config[key] = value;
            TextEncoderConfig::from_value(&config).and_then(|config| config.check()).unwrap_err()
        };
        for (key, value, expected) in [
            (
                "num_attention_heads",
                json!(27),
                "`hidden_size` over `num_attention_heads`: 3584 is not a multiple of 27",
            ),
            ("use_sliding_window", json!(true), "`use_sliding_window` is true; only full attention is supported"),
            (
                "rope_scaling",
                json!({"type": "yarn"}),
                "rotary embeddings of type `yarn` are not supported, only `default`",
            ),
            ("model_type", json!("t5"), "`model_type` is `t5`; the text encoder of these models is a `qwen2_5_vl`"),
            ("hidden_size", json!(null), "language model: invalid type: null, expected usize"),
        ] {
            assert_eq!(check(key, value), expected);
        }
    }
}
