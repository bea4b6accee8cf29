//! What a checkpoint folder holds, from the headers of its files alone.

use std::{collections::BTreeSet, path::Path};

use serde::Deserialize;

use super::{
    Loaded, ModelError, read_json,
    weights::{elements_of, find_files, read_header},
};

/// A checkpoint as its files describe it. Shapes are compared with the configuration when a model is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The pipeline class of `model_index.json`.
    pub pipeline: String,
    pub components: Vec<Component>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Component {
    pub name: &'static str,
    pub files: usize,
    pub tensors: usize,
    pub parameters: u64,
    /// Of the files.
    pub bytes: u64,
    /// As safetensors names them: `F32`, `BF16`.
    pub dtypes: Vec<String>,
    /// Why it cannot be used.
    pub error: Option<String>,
}

/// Reads the headers of the three components that carry weights. A broken component is part of the answer.
pub fn inspect(folder: &Path) -> Loaded<Checkpoint> {
    #[derive(Deserialize)]
    struct Index {
        #[serde(rename = "_class_name")]
        class_name: String,
    }
    let index = folder.join("model_index.json");
    if !index.is_file() {
        return Err(ModelError::NotFound { path: folder.to_owned() });
    }
    let pipeline = read_json::<Index>(&index)?.class_name;
    let components = ["text_encoder", "transformer", "vae"].map(|name| match component(&folder.join(name)) {
        Ok(component) => Component { name, ..component },
        Err(error) => Component { name, error: Some(error.to_string()), ..Component::default() },
    });
    Ok(Checkpoint { pipeline, components: components.into() })
}

fn component(folder: &Path) -> Loaded<Component> {
    read_json::<serde_json::Value>(&folder.join("config.json"))?;
    let mut component = Component::default();
    let mut dtypes = BTreeSet::new();
    for path in find_files(folder)? {
        component.files += 1;
        component.bytes += std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        for (name, tensor) in read_header(&path)? {
            if name == "__metadata__" {
                continue;
            }
            component.tensors += 1;
            component.parameters += elements_of(&tensor).unwrap_or(0);
            dtypes.extend(tensor.get("dtype").and_then(|dtype| dtype.as_str()).map(str::to_owned));
        }
    }
    component.dtypes = dtypes.into_iter().collect();
    Ok(component)
}
