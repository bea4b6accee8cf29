//! Estimates the memory of a checkpoint's parts from the headers of their files and their configurations.

use std::path::Path;

use candle_core::DType;

use super::{
    LoadResult, read_json, text_encoder, transformer, vae,
    weight_files::{Component, StoredTensor, WeightFiles},
    weights::{WeightOptions, weight_files},
};

/// The memory of one part in a number format, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PartSize {
    /// Weights outside of the repeated blocks.
    pub ends: u64,
    /// Weights of one block.
    pub block: u64,
    /// The number of repeated blocks.
    pub blocks: usize,
    /// The part of a block that is transferred in every pass when blocks are streamed.
    pub room: u64,
    /// The peak working memory, in addition to the weights, for the checkpoint's largest work.
    pub work: u64,
}

impl PartSize {
    /// All weights of the part, in bytes.
    pub fn weights(&self) -> u64 {
        self.ends + self.block * self.blocks as u64
    }
}

/// The memory of a checkpoint's parts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes {
    /// The text encoder, with its vision tower.
    pub text_encoder: PartSize,
    /// The transformer.
    pub transformer: PartSize,
    /// The VAE.
    pub vae: PartSize,
}

impl Sizes {
    /// The text encoder, the transformer and the VAE.
    pub fn parts(&self) -> [PartSize; 3] {
        [self.text_encoder, self.transformer, self.vae]
    }

    /// The sizes on the device of the negative branch.
    pub fn of_negative_branch(&self) -> Self {
        Self { transformer: self.transformer, ..Self::default() }
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
/// What comes before the number of a block in names.
const TEXT_LAYERS: &[&str] = &["model.language_model.layers.", "model.layers."];
const TRANSFORMER_LAYERS: &[&str] = &["transformer_blocks."];
/// How many of its largest matrices a part holds dequantized: the one in use, and one whose memory is not yet free.
const DEQUANTIZED: u64 = 2;

/// The size of a checkpoint's weights in memory, all components together, in bytes.
///
/// # Errors
/// [`ModelError::NotFound`](super::ModelError::NotFound) and [`ModelError::Invalid`](super::ModelError::Invalid) if a
/// file's header cannot be read.
pub fn checkpoint_bytes(folder: &Path, paths: &WeightOptions, dtype: DType) -> LoadResult<u64> {
    let mut bytes = 0;
    for (name, component) in
        [("text_encoder", Component::TextEncoder), ("transformer", Component::Transformer), ("vae", Component::Vae)]
    {
        let files = weight_files(&folder.join(name), component, paths.of(component))?;
        let rounded = component == Component::TextEncoder && paths.text_encoder_fp8;
        let rules = Rules { layers: TEXT_LAYERS, wanted: &|_| true, travels: &|_| true, fp8: rounded };
        bytes += files
            .tensors
            .iter()
            .map(|(name, stored)| match rules.block(name) {
                Some(_) => rules.bytes(name, stored, dtype),
                None => stored.memory(dtype),
            })
            .sum::<u64>();
    }
    Ok(bytes)
}

/// The memory of each part of the checkpoint in `folder` with weights in `dtype`, for the largest work.
///
/// # Errors
/// [`ModelError::NotFound`](super::ModelError::NotFound) and [`ModelError::Invalid`](super::ModelError::Invalid) if a
/// configuration or a file's header cannot be read.
pub fn memory_estimate(folder: &Path, paths: &WeightOptions, dtype: DType, workload: Workload) -> LoadResult<Sizes> {
    let bytes = dtype.size_in_bytes() as u64;
    let text_folder = folder.join("text_encoder");
    let text = text_encoder::config::TextEncoderConfig::load(&text_folder)?;
    let head = workload.captions && !text.tied;
    let (hidden, inner) = (text.text.hidden_size as u64, text.text.intermediate_size as u64);
    let text_work = TEXT_TOKENS * (2 * inner + 16 * hidden) * bytes;
    let files = weight_files(&text_folder, Component::TextEncoder, paths.of(Component::TextEncoder))?;
    let text_encoder = part(
        &files,
        text_work,
        dtype,
        &Rules {
            layers: TEXT_LAYERS,
            wanted: &|name| head || name != "lm_head.weight",
            travels: &|_| true,
            fp8: paths.text_encoder_fp8,
        },
    );

    let transformer_folder = folder.join("transformer");
    let config: transformer::config::TransformerConfig = read_json(&transformer_folder.join("config.json"))?;
    let tokens = workload.patches as u64 + TEXT_TOKENS / 2;
    let transformer_work = tokens * config.inner_dim() as u64 * TRANSFORMER_WIDTHS * bytes;
    let files = weight_files(&transformer_folder, Component::Transformer, paths.of(Component::Transformer))?;
    let transformer = part(
        &files,
        transformer_work,
        dtype,
        &Rules {
            layers: TRANSFORMER_LAYERS,
            wanted: &|_| true,
            travels: &|name| !name.contains("_mod."),
            fp8: workload.fp8,
        },
    );

    let vae_folder = folder.join("vae");
    let config: vae::config::VaeConfig = read_json(&vae_folder.join("config.json"))?;
    let vae_work = workload.pixels as u64 * config.base_dim as u64 * VAE_PICTURES * bytes;
    let files = weight_files(&vae_folder, Component::Vae, None)?;
    let vae = part(&files, vae_work, dtype, &Rules { layers: &[], wanted: &|_| true, travels: &|_| true, fp8: false });
    Ok(Sizes { text_encoder, transformer, vae })
}

/// The weights of a file with a component, without the working memory of a pipeline.
pub(super) fn part_of_file(files: &WeightFiles, component: Component, dtype: DType) -> PartSize {
    let layers: &[&str] = match component {
        Component::Transformer => TRANSFORMER_LAYERS,
        Component::TextEncoder => TEXT_LAYERS,
        Component::Vae => &[],
    };
    let travels = |name: &str| !name.contains("_mod.");
    part(files, 0, dtype, &Rules { layers, wanted: &|_| true, travels: &travels, fp8: false })
}

/// How the tensors of a part are counted.
struct Rules<'a> {
    /// What comes before the number of a block in names.
    layers: &'a [&'a str],
    wanted: &'a dyn Fn(&str) -> bool,
    travels: &'a dyn Fn(&str) -> bool,
    /// Whether dense matrices that travel are rounded to fp8.
    fp8: bool,
}

impl Rules<'_> {
    /// The block of a tensor; none outside of the blocks.
    fn block(&self, name: &str) -> Option<usize> {
        let rest = self.layers.iter().find_map(|prefix| name.strip_prefix(prefix))?;
        rest.split('.').next()?.parse().ok()
    }

    fn bytes(&self, name: &str, stored: &StoredTensor, dtype: DType) -> u64 {
        let rounded = self.fp8 && stored.shape.len() == 2 && (self.travels)(name) && !stored.stays();
        if rounded { stored.elements() + 4 * stored.shape[0] as u64 } else { stored.memory(dtype) }
    }
}

fn part(files: &WeightFiles, work: u64, dtype: DType, rules: &Rules<'_>) -> PartSize {
    let mut size = PartSize { work, ..PartSize::default() };
    // Blocks differ in files that give some of them more bits, so a plan counts on the largest.
    let mut blocks: Vec<(u64, u64)> = Vec::new();
    let mut widest = 0;
    for (name, stored) in files.tensors.iter().filter(|(name, _)| (rules.wanted)(name)) {
        let Some(block) = rules.block(name) else {
            size.ends += stored.memory(dtype);
            continue;
        };
        // Numbers in names are not trusted.
        if block >= files.tensors.len() {
            continue;
        }
        if blocks.len() <= block {
            blocks.resize(block + 1, (0, 0));
        }
        let bytes = rules.bytes(name, stored, dtype);
        blocks[block].0 += bytes;
        blocks[block].1 += if (rules.travels)(name) { bytes } else { 0 };
        if stored.stays() {
            widest = widest.max(stored.elements());
        }
    }
    size.blocks = blocks.len();
    size.block = blocks.iter().map(|block| block.0).max().unwrap_or(0);
    size.room = blocks.iter().map(|block| block.1).max().unwrap_or(0);
    // Products dequantize a matrix at a time; up to three are joined into one.
    size.work += widest * DEQUANTIZED * dtype.size_in_bytes() as u64;
    size
}
