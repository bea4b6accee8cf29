//! The names that trainers give a LoRA's tensors.
//!
//! | written by | key |
//! |---|---|
//! | lightx2v | `transformer_blocks.0.attn.to_q.lora_down.weight`, `.lora_up.weight`, `.alpha` |
//! | diffusers, PEFT | `transformer.`…`.lora_A.weight`, `.lora_B.weight`; older `.lora.down.weight` |
//! | ai-toolkit, ComfyUI | `diffusion_model.`…`.lora_A.weight` |
//! | kohya, musubi-tuner | `lora_unet_transformer_blocks_0_attn_to_q.lora_down.weight`, `.alpha` |
//! | DiffSynth, PEFT without diffusers | …`.lora_A.default.weight`, also after `base_model.model.` |

use std::collections::BTreeMap;

/// The layers that a LoRA may change: names as in the checkpoint, each with its outputs and inputs.
pub type Modules = BTreeMap<String, (usize, usize)>;

/// One of the tensors of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LoraPart {
    /// `(rank, in)`.
    Down,
    /// `(out, rank)`.
    Up,
    /// A number that, divided by the rank, is the strength as trained.
    Alpha,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoraKey {
    /// A tensor of this layer.
    Of(String, LoraPart),
    /// Part of an adapter of another kind.
    Other(&'static str),
    Unknown,
}

/// Finds the layer and the part for keys; made once for a transformer.
pub struct ModuleNames<'a> {
    modules: &'a Modules,
    /// The names with `_` instead of `.`, as kohya writes them.
    flat: BTreeMap<String, &'a str>,
}

/// Prefixes in front of dotted names; several may follow each other.
const PREFIXES: [&str; 4] = ["base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer."];
/// Prefixes in front of flat names.
const FLAT_PREFIXES: [&str; 3] = ["lora_unet_", "lora_transformer_", "lycoris_"];

impl<'a> ModuleNames<'a> {
    pub fn new(modules: &'a Modules) -> Self {
        let flat = modules.keys().map(|name| (name.replace('.', "_"), name.as_str())).collect();
        Self { modules, flat }
    }

    pub fn find(&self, key: &str) -> LoraKey {
        let segments: Vec<&str> = key.split('.').collect();
        let Some(at) = segments.iter().position(|segment| starts_a_part(segment)) else { return LoraKey::Unknown };
        let part = match &segments[at..] {
            ["lora_A" | "lora_down", "weight"]
            | ["lora_A", _, "weight"]
            | ["lora" | "lora_linear_layer", "down", "weight"] => LoraPart::Down,
            ["lora_B" | "lora_up", "weight"]
            | ["lora_B", _, "weight"]
            | ["lora" | "lora_linear_layer", "up", "weight"] => LoraPart::Up,
            ["alpha"] => LoraPart::Alpha,
            ["lora_A" | "lora_B" | "lora_down" | "lora_up", .., "bias"] => return LoraKey::Other("LoRA with biases"),
            [first, ..] => return other_kind(first).map_or(LoraKey::Unknown, LoraKey::Other),
            [] => return LoraKey::Unknown,
        };
        match self.module(&segments[..at].join(".")) {
            Some(module) => LoraKey::Of(module.to_owned(), part),
            None => LoraKey::Unknown,
        }
    }

    fn module(&self, name: &str) -> Option<&str> {
        let mut dotted = name;
        while let Some(rest) = PREFIXES.iter().find_map(|prefix| dotted.strip_prefix(prefix)) {
            dotted = rest;
        }
        if let Some((name, _)) = self.modules.get_key_value(dotted) {
            return Some(name);
        }
        let flat = FLAT_PREFIXES.iter().find_map(|prefix| dotted.strip_prefix(prefix))?;
        self.flat.get(flat).copied().or_else(|| self.modules.get_key_value(flat).map(|(name, _)| name.as_str()))
    }
}

/// Whether a tensor of this name is part of an adapter of any kind.
pub fn is_of_adapter(key: &str) -> bool {
    key.ends_with(".alpha") || key.split('.').any(|segment| segment != "alpha" && starts_a_part(segment))
}

fn starts_a_part(segment: &str) -> bool {
    matches!(segment, "lora_A" | "lora_B" | "lora_down" | "lora_up" | "lora" | "lora_linear_layer" | "alpha")
        || other_kind(segment).is_some()
}

/// The kind of adapter that has a tensor of this name.
fn other_kind(segment: &str) -> Option<&'static str> {
    let begins = |prefix: &str| segment.starts_with(prefix);
    Some(match segment {
        _ if begins("lokr_") => "LoKr",
        _ if begins("hada_") => "LoHa",
        "dora_scale" | "lora_magnitude_vector" => "DoRA",
        "lora_mid" => "LoCon with a third matrix",
        _ if begins("oft_") || begins("boft_") => "OFT",
        _ if begins("ia3_") => "IA3",
        _ if begins("lora_embedding_") => "LoRA of an embedding",
        "diff" | "diff_b" => "full difference of weights",
        "set_weight" => "replacement of weights",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_the_table_names_the_same_layer() {
        let name = "transformer_blocks.11.attn.to_out.0";
        let modules: Modules = [(name.to_owned(), (4, 4)), ("proj_out".to_owned(), (4, 4))].into();
        let names = ModuleNames::new(&modules);
        for (form, part) in [
            ("transformer_blocks.11.attn.to_out.0.lora_down.weight", LoraPart::Down),
            ("transformer_blocks.11.attn.to_out.0.lora_up.weight", LoraPart::Up),
            ("transformer_blocks.11.attn.to_out.0.alpha", LoraPart::Alpha),
            ("transformer.transformer_blocks.11.attn.to_out.0.lora_A.weight", LoraPart::Down),
            ("transformer.transformer_blocks.11.attn.to_out.0.lora.up.weight", LoraPart::Up),
            ("transformer_blocks.11.attn.to_out.0.lora_linear_layer.down.weight", LoraPart::Down),
            ("diffusion_model.transformer_blocks.11.attn.to_out.0.lora_B.weight", LoraPart::Up),
            ("diffusion_model.transformer_blocks.11.attn.to_out.0.alpha", LoraPart::Alpha),
            ("model.diffusion_model.transformer_blocks.11.attn.to_out.0.lora_A.weight", LoraPart::Down),
            ("lora_unet_transformer_blocks_11_attn_to_out_0.lora_down.weight", LoraPart::Down),
            ("lora_unet_transformer_blocks_11_attn_to_out_0.alpha", LoraPart::Alpha),
            ("lycoris_transformer_blocks_11_attn_to_out_0.lora_up.weight", LoraPart::Up),
            ("transformer_blocks.11.attn.to_out.0.lora_A.default.weight", LoraPart::Down),
            ("base_model.model.transformer_blocks.11.attn.to_out.0.lora_B.weight", LoraPart::Up),
            ("base_model.model.transformer.transformer_blocks.11.attn.to_out.0.lora_B.style.weight", LoraPart::Up),
        ] {
            assert_eq!(names.find(form), LoraKey::Of(name.to_owned(), part), "{form}");
        }
        assert_eq!(names.find("lora_unet_proj_out.lora_up.weight"), LoraKey::Of("proj_out".to_owned(), LoraPart::Up));
    }

    #[test]
    fn other_kinds_are_told_and_strangers_are_unknown() {
        let modules: Modules = [("proj_out".to_owned(), (4, 4))].into();
        let names = ModuleNames::new(&modules);
        for (key, kind) in [
            ("lycoris_proj_out.lokr_w1", "LoKr"),
            ("proj_out.lokr_w2_a", "LoKr"),
            ("lora_unet_proj_out.hada_w1_a", "LoHa"),
            ("transformer.proj_out.dora_scale", "DoRA"),
            ("base_model.model.proj_out.lora_magnitude_vector.default.weight", "DoRA"),
            ("proj_out.lora_mid.weight", "LoCon with a third matrix"),
            ("proj_out.oft_blocks", "OFT"),
            ("proj_out.lora_B.bias", "LoRA with biases"),
            ("transformer.proj_out.lora_B.default.bias", "LoRA with biases"),
            ("diffusion_model.proj_out.diff", "full difference of weights"),
        ] {
            assert_eq!(names.find(key), LoraKey::Other(kind), "{key}");
        }
        for key in [
            "proj_in.lora_A.weight",
            "proj_out.weight",
            "proj_out.lora_A",
            "lora_te_text_model_encoder_layers_0.lora_down.weight",
            "proj_out",
            "",
            "..lora_A.weight",
            "proj_out.lora_up.a.b.weight",
        ] {
            assert_eq!(names.find(key), LoraKey::Unknown, "{key}");
        }
    }
}
