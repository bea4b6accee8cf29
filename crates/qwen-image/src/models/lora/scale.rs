//! The scale of a LoRA that its file's header or the `adapter_config.json` beside it gives, as PEFT writes them.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Map, Value};

/// PEFT's `LoraConfig`, as far as it changes the result.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scale {
    alpha: Option<f64>,
    alpha_pattern: BTreeMap<String, f64>,
    /// Divide by the rank's square root.
    rslora: bool,
}

impl Scale {
    /// From a file's `__metadata__`, or else from `adapter_config.json` in its folder if the file has PEFT's name.
    ///
    /// # Errors
    /// A text if they are not what PEFT writes, or ask for DoRA.
    pub fn of(metadata: Option<&Value>, path: &Path) -> Result<Self, String> {
        const IN_HEADER: &str = "lora_adapter_metadata";
        if let Some(text) = metadata.and_then(|metadata| metadata.get(IN_HEADER)).and_then(Value::as_str) {
            return Self::parse(text, "transformer.").map_err(|reason| format!("`{IN_HEADER}` in the header {reason}"));
        }
        const BESIDE: &str = "adapter_config.json";
        if path.file_name().is_some_and(|name| name == "adapter_model.safetensors")
            && let Ok(text) = fs::read_to_string(path.with_file_name(BESIDE))
        {
            return Self::parse(&text, "").map_err(|reason| format!("`{BESIDE}` beside it {reason}"));
        }
        Ok(Self::default())
    }

    /// The factor of a layer's change, for the matrices' rank.
    pub fn factor(&self, module: &str, rank: usize) -> f64 {
        // PEFT's patterns match a name or the end of one.
        let own = self.alpha_pattern.iter().find(|(pattern, _)| {
            module.strip_suffix(pattern.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        });
        let Some(alpha) = own.map(|(_, alpha)| *alpha).or(self.alpha) else { return 1.0 };
        alpha / if self.rslora { (rank as f64).sqrt() } else { rank as f64 }
    }

    fn parse(text: &str, prefix: &str) -> Result<Self, String> {
        let fields: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| format!("is not a JSON object: {error}"))?;
        let field = |name: &str| fields.get(&format!("{prefix}{name}")).or_else(|| fields.get(name));
        let number = |name: &str, value: &Value| match value.as_f64().filter(|number| number.is_finite()) {
            Some(number) => Ok(number),
            None => Err(format!("has {value} for `{name}`, which must be a number")),
        };
        let truth = |name: &str| field(name).and_then(Value::as_bool).unwrap_or(false);
        if truth("use_dora") {
            return Err("says `use_dora`; DoRA is not supported, only plain LoRAs are".to_owned());
        }
        let alpha = field("lora_alpha").map(|value| number("lora_alpha", value)).transpose()?;
        let pattern = field("alpha_pattern").and_then(Value::as_object).into_iter().flatten();
        let alpha_pattern = pattern
            .map(|(module, value)| Ok((module.clone(), number("alpha_pattern", value)?)))
            .collect::<Result<_, String>>()?;
        Ok(Self { alpha, alpha_pattern, rslora: truth("use_rslora") })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scale(fields: &Value) -> Result<Scale, String> {
        Scale::of(Some(&json!({ "lora_adapter_metadata": fields.to_string() })), Path::new("a.safetensors"))
    }

    #[test]
    fn the_headers_alpha_is_divided_by_the_rank() {
        assert!((scale(&json!({})).unwrap().factor("proj_out", 8) - 1.0).abs() < 1e-12);
        let fields = json!({
            "transformer.r": 8, "transformer.lora_alpha": 4,
            "transformer.alpha_pattern": { "attn.to_q": 2.0 }
        });
        let found = scale(&fields).unwrap();
        assert!((found.factor("proj_out", 8) - 0.5).abs() < 1e-12);
        assert!((found.factor("transformer_blocks.1.attn.to_q", 8) - 0.25).abs() < 1e-12);
        assert!((found.factor("transformer_blocks.1.attn.not_to_q", 8) - 0.5).abs() < 1e-12);
        let found = scale(&json!({ "lora_alpha": 8, "use_rslora": true })).unwrap();
        assert!((found.factor("proj_out", 16) - 2.0).abs() < 1e-12);
    }

    #[test]
    fn dora_and_nonsense_are_refused() {
        assert!(scale(&json!({ "transformer.use_dora": true })).unwrap_err().contains("use_dora"));
        assert!(scale(&json!({ "lora_alpha": "high" })).unwrap_err().contains("lora_alpha"));
        assert!(scale(&json!([1])).unwrap_err().contains("JSON"));
    }
}
