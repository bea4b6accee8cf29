//! The scale of a LoRA that its file's header or the `adapter_config.json` beside it gives, as PEFT writes them.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Map, Value};

/// PEFT's `LoraConfig`, as far as it changes the result.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scale {
    alpha: Option<f64>,
    alpha_pattern: BTreeMap<String, f64>,
    rank: Option<usize>,
    rank_pattern: BTreeMap<String, usize>,
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

    /// Compares the rank that they give with that of a layer's matrices: a file that was resized afterwards would be
    /// applied at another strength.
    ///
    /// # Errors
    /// A text with both.
    pub fn check_rank(&self, module: &str, rank: usize) -> Result<(), String> {
        // PEFT reads patterns as regular expressions; what is more than a name may mean any layer.
        let is_name = |pattern: &String| pattern.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if !self.rank_pattern.keys().all(is_name) {
            return Ok(());
        }
        match of_pattern(&self.rank_pattern, module).copied().or(self.rank) {
            Some(given) if given != rank => Err(format!(
                "has rank {rank}, but the LoRA's configuration gives rank {given} (`r`), with which its scale is \
                 computed; make the two the same"
            )),
            _ => Ok(()),
        }
    }

    /// The factor of a layer's change, for the matrices' rank.
    pub fn factor(&self, module: &str, rank: usize) -> f64 {
        let Some(alpha) = of_pattern(&self.alpha_pattern, module).copied().or(self.alpha) else { return 1.0 };
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
        let whole = |name: &str, value: &Value| match value.as_u64() {
            Some(number) => Ok(number as usize),
            None => Err(format!("has {value} for `{name}`, which must be a whole number")),
        };
        let rank = field("r").map(|value| whole("r", value)).transpose()?;
        let pattern = field("rank_pattern").and_then(Value::as_object).into_iter().flatten();
        let rank_pattern = pattern
            .map(|(module, value)| Ok((module.clone(), whole("rank_pattern", value)?)))
            .collect::<Result<_, String>>()?;
        Ok(Self { alpha, alpha_pattern, rank, rank_pattern, rslora: truth("use_rslora") })
    }
}

/// A layer's own value: PEFT's patterns match a name or the end of one.
fn of_pattern<'a, T>(patterns: &'a BTreeMap<String, T>, module: &str) -> Option<&'a T> {
    let mut matching = patterns.iter().filter(|(pattern, _)| {
        module.strip_suffix(pattern.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    });
    matching.next().map(|(_, value)| value)
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
    fn a_rank_that_is_not_the_matrices_is_refused_with_both() {
        let found = scale(&json!({ "transformer.r": 8, "transformer.rank_pattern": { "attn.to_q": 4 } })).unwrap();
        assert_eq!(found.check_rank("proj_out", 8), Ok(()));
        assert_eq!(found.check_rank("transformer_blocks.1.attn.to_q", 4), Ok(()));
        let error = found.check_rank("proj_out", 4).unwrap_err();
        assert!(error.starts_with("has rank 4, but the LoRA's configuration gives rank 8"), "{error}");
        let patterns = scale(&json!({ "r": 8, "rank_pattern": { ".*to_q": 4 } })).unwrap();
        assert_eq!(patterns.check_rank("proj_out", 4), Ok(()));
        assert_eq!(scale(&json!({ "lora_alpha": 8 })).unwrap().check_rank("proj_out", 4), Ok(()));
    }

    #[test]
    fn dora_and_nonsense_are_refused() {
        assert!(scale(&json!({ "transformer.use_dora": true })).unwrap_err().contains("use_dora"));
        assert!(scale(&json!({ "lora_alpha": "high" })).unwrap_err().contains("lora_alpha"));
        assert!(scale(&json!([1])).unwrap_err().contains("JSON"));
    }
}
