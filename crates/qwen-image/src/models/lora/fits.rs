//! The checkpoints that a LoRA fits, from the names and shapes of its tensors.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Adapter, LoraError, LoraFile, Overlays,
    keys::{LoraKey, LoraPart, ModuleNames},
};
use crate::models::transformer::config::TransformerConfig;

/// More blocks than any checkpoint has.
const MANY_BLOCKS: usize = 128;

/// The published checkpoints: their names, and what a LoRA sees of them.
fn published() -> [(&'static str, TransformerConfig); 3] {
    let small = |num_layers: usize| TransformerConfig {
        num_layers,
        attention_head_dim: 32,
        num_attention_heads: 7,
        joint_attention_dim: 256,
        ..TransformerConfig::default()
    };
    let full = "Qwen/Qwen-Image-Layered, Qwen/Qwen-Image-Edit-2509 and Qwen/Qwen-Image-Edit-2511";
    [(full, TransformerConfig::default()), ("layered-nano", small(7)), ("edit-nano", small(5))]
}

/// The checkpoints that it fits, in words. It is mapped to their layers as for a run.
///
/// # Errors
/// Why none of the checkpoints of its width takes it.
pub fn fits(file: &Arc<LoraFile>) -> Result<String, LoraError> {
    let seen = LoraDimensions::of(file);
    let adapter = Adapter { name: String::new(), file: file.clone(), strength: 1.0 };
    let takes = |config: &TransformerConfig| Overlays::of(std::slice::from_ref(&adapter), &config.linears());
    let width = seen.width.unwrap_or(TransformerConfig::default().inner_dim());
    let same_width: Vec<_> = published().into_iter().filter(|(_, config)| config.inner_dim() == width).collect();
    if same_width.is_empty() {
        let full = TransformerConfig::default();
        let config = TransformerConfig {
            num_layers: seen.blocks.max(1),
            attention_head_dim: 1,
            num_attention_heads: width,
            joint_attention_dim: seen.joint.unwrap_or(full.joint_attention_dim),
            in_channels: seen.channels.unwrap_or(full.in_channels),
            out_channels: seen
                .channels
                .map(|channels| channels / (full.patch_size * full.patch_size))
                .or(full.out_channels),
            ..full
        };
        takes(&config)?;
        return Ok(format!("checkpoints of width {width} with at least {} blocks", seen.blocks));
    }
    let (mut names, mut refused) = (Vec::new(), None);
    for (name, config) in same_width {
        match takes(&config) {
            Ok(_) => names.push(name),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    match refused {
        Some(error) if names.is_empty() => Err(error),
        _ => Ok(names.join(" and ")),
    }
}

/// What a LoRA's matrices say about the transformer.
#[derive(Default)]
struct LoraDimensions {
    /// The width of most of them.
    width: Option<usize>,
    /// One more than the number of the last block.
    blocks: usize,
    /// The width of the text.
    joint: Option<usize>,
    /// The channels of a patch.
    channels: Option<usize>,
}

impl LoraDimensions {
    fn of(file: &LoraFile) -> Self {
        let full = TransformerConfig { num_layers: MANY_BLOCKS, ..TransformerConfig::default() };
        let (modules, width) = (full.linears(), full.inner_dim());
        let names = ModuleNames::new(&modules);
        let mut votes: BTreeMap<usize, usize> = BTreeMap::new();
        let mut seen = Self::default();
        for (key, tensor) in file.entries() {
            let LoraKey::Of(module, part) = names.find(key) else { continue };
            let block =
                module.strip_prefix("transformer_blocks.").and_then(|rest| rest.split('.').next()?.parse().ok());
            seen.blocks = seen.blocks.max(block.map_or(0, |block: usize| block + 1));
            let Some(&(outputs, inputs)) = modules.get(&module) else { continue };
            let (size, of_full) = match (part, tensor.shape.as_slice()) {
                (LoraPart::Down, [_, size, ..]) => (*size, inputs),
                (LoraPart::Up, [size, ..]) => (*size, outputs),
                _ => continue,
            };
            let is = |name: &str, of: LoraPart| module == name && part == of;
            if is("txt_in", LoraPart::Down) {
                seen.joint = Some(size);
            } else if is("img_in", LoraPart::Down) || is("proj_out", LoraPart::Up) {
                seen.channels = Some(size);
            } else if of_full % width == 0 && size % (of_full / width) == 0 {
                *votes.entry(size / (of_full / width)).or_default() += 1;
            }
        }
        seen.width = votes.into_iter().max_by_key(|(_, count)| *count).map(|(width, _)| width);
        seen
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::models::read_json;

    #[test]
    fn the_small_checkpoints_are_as_their_configurations_say() {
        for (name, config) in published().into_iter().skip(1) {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models").join(name);
            let stored: TransformerConfig = read_json(&path.join("transformer/config.json")).unwrap();
            assert_eq!(config.linears(), stored.linears(), "{name}");
        }
    }
}
