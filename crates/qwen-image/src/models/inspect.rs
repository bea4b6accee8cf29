//! Says what a file with weights is, from its header.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use candle_core::DType;

use super::{
    LoadResult, ModelError, PartSize,
    lora::{self, LoraFile},
    memory_estimate::part_of_file,
    transformer::config::TransformerConfig,
    weight_files::{Component, Form, Raw, RawTensor, WeightFiles},
};

/// A file with weights.
#[derive(Debug, Clone, PartialEq)]
pub struct FileReport {
    /// `GGUF` or `safetensors`.
    pub format: &'static str,
    /// In words: `a Qwen-Image transformer`, `a LoRA`.
    pub what: String,
    /// GGUF's `general.architecture`.
    pub architecture: Option<String>,
    /// The size of the file in bytes.
    pub bytes: u64,
    /// The number of tensors.
    pub tensors: usize,
    /// The number of their elements.
    pub parameters: u64,
    /// How many tensors have each type, by the file's own names: `Q4_K`, `F8_E4M3`.
    pub types: BTreeMap<String, usize>,
    /// The ranks of a LoRA.
    pub ranks: BTreeSet<usize>,
    /// The models that a transformer or a text encoder belongs to.
    pub fits: Option<String>,
    /// Why it cannot be used, if it cannot.
    pub refused: Option<String>,
    /// The memory of its weights in bfloat16, for a component that can be used.
    pub memory: Option<PartSize>,
}

/// Reads a file's header.
///
/// # Errors
/// [`ModelError::Invalid`](super::ModelError::Invalid) if it is neither safetensors nor GGUF, or damaged.
pub fn check_file(path: &Path) -> LoadResult<FileReport> {
    let raw = Raw::read(path)?;
    let architecture = raw.metadata.get("general.architecture").cloned();
    let what = kind_of(&raw.tensors, architecture.as_deref());
    let mut types = BTreeMap::new();
    for tensor in raw.tensors.values() {
        *types.entry(tensor.type_name.clone()).or_insert(0) += 1;
    }
    let elements = |tensor: &RawTensor| tensor.place.shape.iter().map(|dim| *dim as u64).product::<u64>();
    let mut report = FileReport {
        format: if raw.gguf { "GGUF" } else { "safetensors" },
        what,
        architecture,
        bytes: std::fs::metadata(path).map_or(0, |metadata| metadata.len()),
        tensors: raw.tensors.len(),
        parameters: raw.tensors.values().map(elements).sum(),
        types,
        ranks: ranks(&raw.tensors),
        fits: None,
        refused: None,
        memory: None,
    };
    let has = |name: &str| raw.tensors.keys().any(|found| found.ends_with(name));
    let component = if has("attn.add_q_proj.weight") || has("attn.add_qkv_proj.qweight") {
        Component::Transformer
    } else if has("embed_tokens.weight") || has("token_embd.weight") {
        Component::TextEncoder
    } else if raw.tensors.keys().any(|name| lora::is_of_adapter(name)) {
        match LoraFile::read(path).and_then(|file| lora::fits(&Arc::new(file))) {
            Ok(fits) => report.fits = Some(fits),
            Err(error) => report.refused = Some(without_path(path, &error.to_string())),
        }
        return Ok(report);
    } else {
        let what = &report.what;
        let reason = format!("is {what}; a transformer or a text encoder of Qwen-Image, or a LoRA for one, is needed");
        report.refused = Some(reason);
        return Ok(report);
    };
    let checked = WeightFiles::of_file(path, component).and_then(|files| {
        if component == Component::Transformer {
            check_transformer(path, &files)?;
        }
        for stored in files.tensors.values() {
            if let Form::Fp8(scales) | Form::E5m2(scales) = &stored.form {
                files.scales(scales)?;
            }
        }
        Ok(files)
    });
    match checked {
        Ok(files) => {
            // Scales and markers are not parameters.
            report.parameters = files.tensors.values().map(super::weight_files::StoredTensor::elements).sum();
            report.fits = Some(fits(component, &files));
            report.memory = Some(part_of_file(&files, component, DType::BF16));
        }
        Err(error) => report.refused = Some(without_path(path, &error.to_string())),
    }
    Ok(report)
}

fn without_path(path: &Path, message: &str) -> String {
    message.strip_prefix(&format!("{}: ", path.display())).unwrap_or(message).to_owned()
}

/// Whether the tensors are all those of one transformer.
fn check_transformer(path: &Path, files: &WeightFiles) -> LoadResult<()> {
    let config = TransformerConfig::of_tensors(&files.tensors);
    if config.use_additional_t_cond && files.remarks.zero_cond_t {
        let reason = "has the marker of Qwen-Image-Edit-2511 (`__index_timestep_zero__`), and \
                      `time_text_embed.addition_t_embedding.weight` of Qwen-Image-Layered; no checkpoint is both";
        return Err(ModelError::invalid(path, reason));
    }
    match config.check_tensors(path, &files.tensors) {
        Err(ModelError::WrongShape { name, found, expected, .. }) => {
            let reason = format!("tensor `{name}` has shape {found:?}, but the file's other tensors need {expected:?}");
            Err(ModelError::invalid(path, reason))
        }
        other => other,
    }
}

/// The models that a component's weights belong to, in words.
fn fits(component: Component, files: &WeightFiles) -> String {
    let rows = |name: &str| files.tensors.get(name).map_or(0, |stored| stored.shape[0]);
    let blocks = |prefix: &str| {
        let numbers =
            files.tensors.keys().filter_map(|name| name.strip_prefix(prefix)?.split('.').next()?.parse().ok());
        numbers.max().map_or(0, |last: usize| last + 1)
    };
    match component {
        Component::Transformer => {
            let layered = files.tensors.contains_key("time_text_embed.addition_t_embedding.weight");
            let model = match (layered, files.remarks.zero_cond_t) {
                (true, _) => "Qwen/Qwen-Image-Layered",
                (false, true) => "Qwen/Qwen-Image-Edit-2511",
                (false, false) => {
                    "Qwen/Qwen-Image-Edit-2509, or Qwen/Qwen-Image-Edit-2511, which it does not say: give the folder of \
                     the one that it was made from"
                }
            };
            let (count, width) = (blocks("transformer_blocks."), rows("img_in.weight"));
            if (count, width) == (60, 3072) {
                model.to_owned()
            } else {
                let small = match (layered, files.remarks.zero_cond_t) {
                    (true, _) => "Layered",
                    (false, true) => "Edit-2511",
                    (false, false) => "Edit",
                };
                format!("a small checkpoint of Qwen-Image-{small}, with {count} blocks of width {width}")
            }
        }
        _ => {
            let old = blocks("model.layers.");
            let count = if old > 0 { old } else { blocks("model.language_model.layers.") };
            let width = rows("model.norm.weight").max(rows("model.language_model.norm.weight"));
            match (count, width) {
                (28, 3584) => "all Qwen-Image models (Qwen2.5-VL-7B)".to_owned(),
                (count, width) => format!("a checkpoint with a text encoder of {count} layers of width {width}"),
            }
        }
    }
}

/// The ranks of a LoRA's matrices.
fn ranks(tensors: &BTreeMap<String, RawTensor>) -> BTreeSet<usize> {
    let down = tensors.iter().filter(|(name, _)| {
        name.ends_with("lora_down.weight") || name.ends_with("lora.down.weight") || name.contains(".lora_A.")
    });
    down.filter_map(|(_, tensor)| tensor.place.shape.first().copied()).collect()
}

/// In words: `a LoRA`, `a Flux transformer`.
pub(super) fn kind_of(tensors: &BTreeMap<String, RawTensor>, architecture: Option<&str>) -> String {
    let any = |part: &str| tensors.keys().any(|name| name.contains(part));
    let known = if tensors.is_empty() {
        Some("a file without tensors")
    } else if any("lora_A.") || any("lora_down.") || any("lora.down.") {
        Some("a LoRA, which is used on top of a checkpoint")
    } else if any("lokr_w1") || any("hada_w1_a") {
        Some("a LyCORIS adapter (LoKr or LoHa)")
    } else if any("transformer_blocks.0.attn.add_q") && any("img_mod.1.") {
        Some("a Qwen-Image transformer")
    } else if any("double_blocks.0.img_attn") || any("single_transformer_blocks.0.") {
        Some("a Flux transformer")
    } else if any("joint_blocks.0.") {
        Some("a Stable Diffusion 3 transformer")
    } else if any("input_blocks.0.0.weight") || any("down_blocks.0.attentions.0.") {
        Some("a Stable Diffusion UNet")
    } else if any("visual.blocks.0.") && any("embed_tokens.weight") {
        Some("a Qwen2.5-VL text encoder")
    } else if any("v.blk.0.") || any("mm.0.weight") {
        Some("the vision part of a text encoder (mmproj)")
    } else if any("blk.0.attn_q.weight") || any("model.layers.0.self_attn") {
        Some("a language model without its vision part")
    } else if any("decoder.middle.0.residual") || any("decoder.mid_block") || any("decoder.conv_in.weight") {
        Some("a VAE")
    } else if any("blocks.0.self_attn.q.weight") {
        Some("a Wan transformer")
    } else {
        None
    };
    match (known, architecture) {
        (Some(known), _) => known.to_owned(),
        (None, Some("qwen_image")) => {
            "a `qwen_image` by its header, but has no `transformer_blocks.0.attn.add_q_proj.weight`; it is incomplete"
                .into()
        }
        (None, Some(architecture)) => format!("of architecture `{architecture}`"),
        (None, None) => {
            let first = tensors.keys().next().map_or("", String::as_str);
            let s = if tensors.len() == 1 { "" } else { "s" };
            format!("of an unknown model ({} tensor{s}, the first is `{first}`)", tensors.len())
        }
    }
}
