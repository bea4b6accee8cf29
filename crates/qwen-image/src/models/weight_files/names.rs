//! From a file's names and conventions to the checkpoint's.

use std::{collections::BTreeMap, fs::File, path::Path, sync::Arc};

use candle_core::DType;
use serde::Deserialize;

use super::{Form, Raw, RawTensor, Remarks, Scales, StoredTensor, TensorLocation, read_at};
use crate::models::{LoadResult, ModelError};

/// What a single file replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// The diffusion transformer.
    Transformer,
    /// The text encoder, with its vision tower.
    TextEncoder,
    /// The VAE.
    Vae,
}

impl Component {
    /// In words, for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transformer => "transformer",
            Self::TextEncoder => "text encoder",
            Self::Vae => "VAE",
        }
    }

    /// A tensor that every such file has; what comes before it is the prefix of all.
    pub(in crate::models) fn anchors(self) -> &'static [&'static str] {
        match self {
            Self::Transformer => &["transformer_blocks.0.attn.add_q_proj.weight"],
            Self::TextEncoder => &["model.language_model.embed_tokens.weight", "model.embed_tokens.weight"],
            Self::Vae => &["decoder.conv_in.weight"],
        }
    }
}

/// ComfyUI's markers: tensors without meaning but their names.
const MARKERS: [&str; 3] = ["__x0__", "__32x32__", ZERO_COND_T];
const ZERO_COND_T: &str = "__index_timestep_zero__";

type RawTensors = BTreeMap<String, RawTensor>;

/// The component's tensors under the checkpoint's names, without markers and scales. Without a component, names are
/// the checkpoint's already.
pub fn resolve(
    path: &Path,
    raw: Raw,
    component: Option<Component>,
    open: &[Arc<File>],
) -> LoadResult<(BTreeMap<String, StoredTensor>, Remarks)> {
    let Raw { mut tensors, metadata, shapes, gguf } = raw;
    let text = |key: &str| metadata.get(key).cloned();
    let mut remarks =
        Remarks { architecture: text("general.architecture"), name: text("general.name"), ..Remarks::default() };
    if let Some(component) = component {
        refuse_packed(path, &tensors)?;
        remarks.prefix = prefix(path, &tensors, component, &remarks)?;
        let all = tensors.len();
        let inside = tensors.into_iter().filter_map(|(name, tensor)| {
            let short = name.strip_prefix(&remarks.prefix)?;
            Some((short.to_owned(), tensor))
        });
        tensors = inside.collect();
        remarks.others = all - tensors.len();
    }
    for marker in MARKERS {
        let found = tensors.remove(marker).is_some();
        remarks.zero_cond_t |= found && marker == ZERO_COND_T;
    }
    // The old convention: a marker for the whole file, of two elements if products shall be in the compute format.
    let scaled = tensors.remove("scaled_fp8");
    let whole_precise = scaled.is_some_and(|marker| marker.place.shape.iter().product::<usize>() == 2);
    let layers = layers_of(path, &metadata, &remarks.prefix)?;
    let mut found = BTreeMap::new();
    let (mut places, mut notes) = (BTreeMap::new(), BTreeMap::new());
    // Scales and notes come before the weights that they belong to.
    let mut rest = BTreeMap::new();
    for (name, tensor) in tensors {
        let layer = |end: &str| name.strip_suffix(end).map(str::to_owned);
        if gguf {
            rest.insert(name, tensor);
        } else if let Some(layer) = layer(".weight_scale").or_else(|| layer(".scale_weight")) {
            places.insert(layer, tensor);
        } else if let Some(layer) = layer(".comfy_quant") {
            notes.insert(layer, note(path, &name, &tensor.place, open)?);
        } else if layer(".input_scale").or_else(|| layer(".scale_input")).is_none() {
            rest.insert(name, tensor);
        }
    }
    for (layer, note) in notes.iter().chain(&layers) {
        if !["float8_e4m3fn", "float8_e5m2"].contains(&note.format.as_str()) {
            return Err(unsupported(path, &format!("{layer}.weight"), &note.format));
        }
    }
    for (name, tensor) in rest {
        let layer = name.strip_suffix(".weight").unwrap_or(&name);
        let scale = places.remove(layer);
        let note = notes.get(layer).or_else(|| layers.get(layer));
        let shape = match shapes.get(&name) {
            Some(shape) if elements(shape).is_some() && elements(shape) == elements(&tensor.place.shape) => {
                shape.clone()
            }
            Some(shape) => {
                let reason = format!(
                    "key `comfy.gguf.orig_shape.{name}` is {shape:?}, but the tensor has {:?}",
                    tensor.place.shape
                );
                return Err(ModelError::invalid(path, reason));
            }
            None => tensor.place.shape.clone(),
        };
        let full_precision = whole_precise || note.is_some_and(|note| note.full_precision_matrix_mult);
        let mut scales = Scales { at: None, full_precision };
        if let Some(scale) = scale {
            let count: usize = scale.place.shape.iter().product();
            let rows = shape.first().copied().unwrap_or(0);
            let numbers = matches!(scale.place.dtype, Some(DType::F32 | DType::BF16 | DType::F16));
            if !numbers || (count != 1 && count != rows) {
                let reason = format!(
                    "tensor `{layer}.weight_scale` is {:?} in {}; one scale, or one for each of {rows} rows, is supported",
                    scale.place.shape, scale.type_name
                );
                return Err(ModelError::invalid(path, reason));
            }
            scales.at = Some(scale.place);
        }
        let form = form(path, &name, &tensor, scales)?;
        found.insert(name, StoredTensor { place: tensor.place, shape, form });
    }
    match places.keys().next() {
        Some(layer) => Err(ModelError::invalid(path, format!("has a scale for `{layer}.weight`, but not that tensor"))),
        None => Ok((found, remarks)),
    }
}

/// None if there are more than can be counted.
fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |all, dim| all.checked_mul(*dim))
}

fn form(path: &Path, name: &str, tensor: &RawTensor, scales: Scales) -> LoadResult<Form> {
    if let Some(format) = tensor.blocks {
        return Ok(Form::Blocks(format));
    }
    match (tensor.type_name.as_str(), tensor.place.dtype) {
        ("F8_E4M3", _) => Ok(Form::Fp8(scales)),
        ("F8_E5M2", _) => Ok(Form::E5m2(scales)),
        (_, Some(dtype)) if scales.at.is_none() => Ok(Form::Numbers(dtype)),
        (type_name, Some(DType::F32 | DType::F16 | DType::BF16)) => Err(ModelError::invalid(
            path,
            format!("tensor `{name}` is {type_name}, but there is a scale for it, as for fp8; it is damaged"),
        )),
        (type_name, _) => Err(unsupported(path, name, type_name)),
    }
}

/// A layer's format in ComfyUI's newer files.
#[derive(Debug, Deserialize)]
struct Note {
    format: String,
    #[serde(default)]
    full_precision_matrix_mult: bool,
}

/// A layer's `comfy_quant`: JSON as bytes.
fn note(path: &Path, name: &str, place: &TensorLocation, open: &[Arc<File>]) -> LoadResult<Note> {
    if place.bytes > 1 << 16 {
        return Err(ModelError::invalid(path, format!("tensor `{name}` is too long for a note on a format")));
    }
    let bytes = read_at(&open[place.file], path, place)?;
    serde_json::from_slice(&bytes).map_err(|error| ModelError::invalid(path, format!("tensor `{name}`: {error}")))
}

/// The same in the header, for all layers.
fn layers_of(path: &Path, metadata: &BTreeMap<String, String>, prefix: &str) -> LoadResult<BTreeMap<String, Note>> {
    const KEY: &str = "_quantization_metadata";
    #[derive(Deserialize)]
    struct All {
        #[serde(default)]
        layers: BTreeMap<String, Note>,
    }
    let Some(text) = metadata.get(KEY) else { return Ok(BTreeMap::new()) };
    let all: All = serde_json::from_str(text)
        .map_err(|error| ModelError::invalid(path, format!("key `{KEY}` of the header: {error}")))?;
    Ok(all
        .layers
        .into_iter()
        .map(|(name, note)| (name.strip_prefix(prefix).unwrap_or(&name).to_owned(), note))
        .collect())
}

/// The part of names before the component's own.
fn prefix(path: &Path, tensors: &RawTensors, component: Component, remarks: &Remarks) -> LoadResult<String> {
    for anchor in component.anchors() {
        let mut found = tensors.keys().filter_map(|name| name.strip_suffix(anchor));
        let mut found = found.by_ref().filter(|prefix| prefix.is_empty() || prefix.ends_with('.'));
        match (found.next(), found.next()) {
            (Some(prefix), None) => return Ok(prefix.to_owned()),
            (Some(one), Some(another)) => {
                let reason = format!("has two models, under `{one}` and `{another}`; use a file with one of them");
                return Err(ModelError::invalid(path, reason));
            }
            (None, _) => {}
        }
    }
    let what = super::super::inspect::kind_of(tensors, remarks.architecture.as_deref());
    let reason = format!("is {what}; a {} of Qwen-Image is needed here", component.name());
    Err(ModelError::invalid(path, reason))
}

/// Refuses formats whose tensors are not matrices of numbers.
fn refuse_packed(path: &Path, tensors: &RawTensors) -> LoadResult<()> {
    for (end, form) in [
        (".qweight", "nunchaku (SVDQuant)"),
        (".wscales", "nunchaku (SVDQuant)"),
        (".weight_scale_2", "nvfp4"),
        (".quant_map", "bitsandbytes"),
        (".absmax", "bitsandbytes"),
        (".SCB", "bitsandbytes (int8)"),
    ] {
        if let Some(name) = tensors.keys().find(|name| name.ends_with(end)) {
            return Err(unsupported(path, name, form));
        }
    }
    Ok(())
}

fn unsupported(path: &Path, name: &str, form: &str) -> ModelError {
    let form = match form {
        "I8" | "int8_tensorwise" => "int8, with or without rotations (convrot)",
        other => other,
    };
    ModelError::UnsupportedForm { path: path.to_owned(), name: name.to_owned(), form: form.to_owned() }
}
