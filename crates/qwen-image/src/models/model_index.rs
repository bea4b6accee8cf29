//! `model_index.json`, which names the class of the pipeline and of each component.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use serde_json::Value;

use super::{LoadResult, ModelError, read_json};

pub const LAYERED: &str = "QwenImageLayeredPipeline";
pub const EDIT_PLUS: &str = "QwenImageEditPlusPipeline";

pub const TRANSFORMER: &str = "QwenImageTransformer2DModel";
pub const VAE: &str = "AutoencoderKLQwenImage";
const TEXT_ENCODER: &str = "Qwen2_5_VLForConditionalGeneration";

#[derive(Deserialize)]
struct ModelIndex {
    #[serde(rename = "_class_name")]
    class_name: String,
    /// Components as `["library", "class"]`, and other values.
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// The class of the pipeline in a checkpoint's folder. It may be another than the two that are known here.
///
/// # Errors
/// If the file is missing or cannot be read, or if one of these two has a component of another class.
pub fn pipeline_class(folder: &Path) -> LoadResult<String> {
    let path = folder.join("model_index.json");
    let index: ModelIndex = read_json(&path)?;
    if ![LAYERED, EDIT_PLUS].contains(&index.class_name.as_str()) {
        return Ok(index.class_name);
    }
    for (component, wanted) in [("transformer", TRANSFORMER), ("vae", VAE), ("text_encoder", TEXT_ENCODER)] {
        if let Some(found) = index.others.get(component).and_then(|entry| entry.get(1)?.as_str())
            && found != wanted
        {
            return Err(ModelError::invalid(path, format!("`{component}` is {found}; {wanted} is needed")));
        }
    }
    Ok(index.class_name)
}

/// Compares `_class_name` in a component's `config.json` with the class that is needed; a file without it is as good.
pub fn check_class(path: &Path, found: Option<&str>, wanted: &str) -> LoadResult<()> {
    match found {
        Some(found) if found != wanted => {
            Err(ModelError::invalid(path, format!("`_class_name` is {found}; {wanted} is needed")))
        }
        Some(_) | None => Ok(()),
    }
}
