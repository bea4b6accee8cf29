//! Estimates the memory of a checkpoint's parts from the headers of their files and their configurations.

use std::path::Path;

use candle_core::DType;

use super::{
    LoadResult,
    files::{elements_of, find_files, read_header},
    read_json, text_encoder, transformer, vae,
};

/// The memory of one part in a number format, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PartSize {
    /// Weights outside of the repeated blocks.
    pub ends: u64,
    /// Weights of one block.
    pub block: u64,
    pub blocks: usize,
    /// The part of a block that is transferred in every pass when blocks are streamed.
    pub room: u64,
    /// The peak working memory, in addition to the weights, for the checkpoint's largest work.
    pub work: u64,
}

impl PartSize {
    pub fn weights(&self) -> u64 {
        self.ends + self.block * self.blocks as u64
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes {
    pub text_encoder: PartSize,
    pub transformer: PartSize,
    pub vae: PartSize,
}

impl Sizes {
    pub fn parts(&self) -> [PartSize; 3] {
        [self.text_encoder, self.transformer, self.vae]
    }
}

/// The largest work to plan for.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    /// Patches of all frames.
    pub patches: usize,
    /// The pixels of one picture in the VAE.
    pub pixels: usize,
    /// Whether the text encoder also writes.
    pub captions: bool,
    /// Whether the transformer's products over tokens are in fp8.
    pub fp8: bool,
}

/// Tokens of a prompt with its pictures.
const TEXT_TOKENS: u64 = 2048;
/// How many tensors of a token's width a transformer block holds at its peak, for both guidance branches.
const TRANSFORMER_WIDTHS: u64 = 18;
/// How many pictures of the VAE's base width its last level holds, including room for cuDNN.
const VAE_PICTURES: u64 = 12;

pub fn memory_estimate(folder: &Path, dtype: DType, workload: Workload) -> LoadResult<Sizes> {
    let bytes = dtype.size_in_bytes() as u64;
    let text_folder = folder.join("text_encoder");
    let text = text_encoder::config::Config::load(&text_folder)?;
    let head = workload.captions && !text.tied;
    let in_layer = |name: &str| {
        let rest = name.strip_prefix("model.language_model.layers.").or_else(|| name.strip_prefix("model.layers."));
        rest.map(|rest| rest.starts_with("0."))
    };
    let (hidden, inner) = (text.text.hidden_size as u64, text.text.intermediate_size as u64);
    let text_work = TEXT_TOKENS * (2 * inner + 16 * hidden) * bytes;
    let text_encoder =
        part(&text_folder, bytes, text_work, in_layer, |name| head || name != "lm_head.weight", |_| true)?;

    let transformer_folder = folder.join("transformer");
    let config: transformer::config::Config = read_json(&transformer_folder.join("config.json"))?;
    let tokens = workload.patches as u64 + TEXT_TOKENS / 2;
    let transformer_work = tokens * config.inner_dim() as u64 * TRANSFORMER_WIDTHS * bytes;
    let in_block = |name: &str| name.strip_prefix("transformer_blocks.").map(|rest| rest.starts_with("0."));
    let travels = |name: &str| !name.contains("_mod.");
    let mut transformer = part(&transformer_folder, bytes, transformer_work, in_block, |_| true, travels)?;
    if workload.fp8 {
        let saved = transformer.room - transformer.room / bytes;
        transformer.room -= saved;
        transformer.block -= saved;
    }

    let vae_folder = folder.join("vae");
    let config: vae::config::Config = read_json(&vae_folder.join("config.json"))?;
    let vae_work = workload.pixels as u64 * config.base_dim as u64 * VAE_PICTURES * bytes;
    let vae = part(&vae_folder, bytes, vae_work, |_| None, |_| true, |_| true)?;
    Ok(Sizes { text_encoder, transformer, vae })
}

/// `in_block` is none for a tensor outside of the blocks; otherwise it says whether it is in the first one.
fn part(
    folder: &Path,
    bytes: u64,
    work: u64,
    in_block: impl Fn(&str) -> Option<bool>,
    wanted: impl Fn(&str) -> bool,
    travels: impl Fn(&str) -> bool,
) -> LoadResult<PartSize> {
    let mut size = PartSize { work, ..PartSize::default() };
    let mut in_blocks = 0;
    for path in find_files(folder)? {
        for (name, tensor) in read_header(&path)?.iter().filter(|(name, _)| wanted(name)) {
            let bytes = elements_of(tensor).unwrap_or(0) * bytes;
            match in_block(name) {
                None => size.ends += bytes,
                Some(first) => {
                    in_blocks += bytes;
                    if first {
                        size.block += bytes;
                        size.room += if travels(name) { bytes } else { 0 };
                    }
                }
            }
        }
    }
    if size.block > 0 {
        size.blocks = in_blocks.div_ceil(size.block) as usize;
    }
    Ok(size)
}
