//! Qwen2.5-VL as the text encoder: prompts and pictures to hidden states, and captions of pictures.
//!
//! A picture goes through the `processor` (patches) and the `vision` tower (tokens). The tokens replace its
//! placeholder among the prompt's tokens (`tokenizer`, `prompt`), and all of them go through the `language`
//! model. For captions, `generate` continues that model token by token.

mod cache;
pub(super) mod config;
mod error;
mod generate;
pub(super) mod generation_config;
mod language;
mod processor;
mod prompt;
mod tokenizer;
mod vision;

use std::{ops::ControlFlow, path::Path};

use ::image::RgbImage;
use candle_core::{DType, Device, Tensor};

use self::{
    config::TextEncoderConfig, generation_config::GenerationConfig, language::LanguageModel, vision::VisionTower,
};
pub use self::{
    error::TextError,
    processor::{ImageProcessorBackend, PatchGrid, PictureProcessor},
    prompt::{PictureTokens, Positions, TextPositions},
    tokenizer::Tokenizer,
};
use crate::{
    models::{BlockPlacement, Component, LoadContext, LoadResult, ModelError, OffloadGroups, Weights},
    nn::Tensors,
};

/// `Qwen2_5_VLForConditionalGeneration` with its tokenizer and picture processor.
pub struct TextEncoder {
    language: LanguageModel,
    vision: VisionTower,
    tokenizer: Tokenizer,
    processor: PictureProcessor,
    config: TextEncoderConfig,
    generation: Option<GenerationConfig>,
    device: Device,
}

/// A text to embed.
#[derive(Debug, Clone, Copy)]
pub struct Prompt<'a> {
    /// The whole text with its template, and `<|image_pad|>` for each picture.
    pub text: &'a str,
    /// The pictures, in the order of their placeholders.
    pub pictures: &'a [PictureTokens],
    /// How positions are counted.
    pub text_positions: TextPositions,
    /// The number of leading hidden states to drop: those of the template.
    pub drop: usize,
    /// The maximum number of hidden states to return. Later ones are not computed, because the model is causal.
    pub keep: Option<usize>,
}

/// An encoded prompt.
#[derive(Debug, Clone)]
pub struct PromptEmbeds {
    /// Hidden states after the final norm, `(1, n, hidden)`.
    pub states: Tensor,
    /// The number of hidden states of the whole prompt after its template: more than `n` if it was cut.
    pub tokens: usize,
}

/// A caption that the language model wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GeneratedCaption {
    /// Without special tokens and surrounding white space.
    pub text: String,
    /// The generated tokens, including the end token.
    pub tokens: Vec<u32>,
}

impl TextEncoder {
    /// Loads `text_encoder/`, `tokenizer/` and `processor/` of the checkpoint at `folder`. `with_head` also loads what
    /// only captions need.
    ///
    /// # Errors
    /// [`ModelError`] if a folder is missing, or its files do not fit together.
    pub fn load(folder: &Path, device: &Device, dtype: DType, with_head: bool) -> LoadResult<Self> {
        Self::load_with(folder, LoadContext::new(device, dtype), with_head, BlockPlacement::OnDevice)
    }

    /// The same, with progress and the given placement of layers.
    ///
    /// # Errors
    /// Those of [`Self::load`], and [`ModelError::Cancelled`].
    pub fn load_with(
        folder: &Path,
        loading: LoadContext<'_>,
        with_head: bool,
        place: BlockPlacement,
    ) -> LoadResult<Self> {
        let model = folder.join("text_encoder");
        let config = TextEncoderConfig::load(&model)?;
        let generation = with_head.then(|| GenerationConfig::load(&model, &config)).transpose()?;
        let tokenizer = Tokenizer::load(&folder.join("tokenizer"))?;
        if tokenizer.len() > config.text.vocab_size {
            let (tokens, rows) = (tokenizer.len(), config.text.vocab_size);
            let reason = format!("has {tokens} tokens, but the text encoder knows {rows}; is it another model's?");
            return Err(ModelError::invalid(folder.join("tokenizer"), reason));
        }
        let processor = PictureProcessor::load(&folder.join("processor"), &config.vision)?;
        let weights = Weights::open(&model, Component::TextEncoder, loading)?;
        let (language, visual) = if weights.contains("model.language_model.embed_tokens.weight") {
            (weights.pp("model.language_model"), weights.pp("model.visual"))
        } else {
            (weights.pp("model"), weights.pp("visual"))
        };
        let language = LanguageModel::load(&language, &weights, &config, with_head, place)?;
        let vision = VisionTower::load(&visual, &config.vision)?;
        weights.finish()?;
        Ok(Self { language, vision, tokenizer, processor, config, generation, device: loading.device.clone() })
    }

    /// Whether two checkpoints read texts and pictures in the same way: the same sizes, tokens and patches. Does not
    /// compare weights.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if a file of either cannot be read.
    pub fn reads_alike(one: &Path, other: &Path) -> LoadResult<bool> {
        let read = |folder: &Path| -> LoadResult<(String, String)> {
            let config = TextEncoderConfig::load(&folder.join("text_encoder"))?;
            let processor = PictureProcessor::load(&folder.join("processor"), &config.vision)?;
            let tokenizer = folder.join("tokenizer");
            Ok((format!("{config:?} {processor:?}"), Tokenizer::load(&tokenizer)?.description(&tokenizer)?))
        };
        Ok(read(one)? == read(other)?)
    }

    /// Runs the vision tower. The result can be used for every prompt about the picture.
    ///
    /// # Errors
    /// [`TextError::Picture`] if the picture cannot become patches; [`TextError::Device`].
    pub fn encode_picture(
        &self,
        picture: &RgbImage,
        backend: ImageProcessorBackend,
    ) -> Result<PictureTokens, TextError> {
        let (patches, grid) = self.processor.process(picture, backend, &self.device)?;
        Ok(PictureTokens { embeds: self.vision.forward(&patches, grid)?, grid })
    }

    /// The last hidden states of a prompt.
    ///
    /// # Errors
    /// [`TextError::Placeholders`] if placeholders and pictures do not match; [`TextError::TooLong`] if there are more
    /// tokens than the model has positions; [`TextError::Device`].
    pub fn embed(&self, prompt: &Prompt<'_>) -> Result<PromptEmbeds, TextError> {
        let mut read = self.read(prompt.text, prompt.pictures, prompt.text_positions)?;
        let total = read.ids.len();
        // A picture is used whole, or not at all if none of its states are requested.
        let wanted = prompt.keep.map_or(total, |keep| (prompt.drop + keep).min(total));
        if prompt.pictures.is_empty() {
            read.ids.truncate(wanted);
            read.positions.rows.iter_mut().for_each(|row| row.truncate(wanted));
        }
        self.check_length(read.ids.len())?;
        let embeds = self.embed_read(&read, prompt.pictures)?;
        let states = self.language.forward(&embeds, &read.positions, None)?;
        let start = prompt.drop.min(wanted);
        Ok(PromptEmbeds { states: states.narrow(1, start, wanted - start)?, tokens: total.saturating_sub(prompt.drop) })
    }

    /// Writes a caption of up to `max_tokens`; `on_token` is called with the number of tokens and the limit, and may
    /// stop it: then there is no caption.
    ///
    /// # Errors
    /// [`TextError::NoHead`] without a head (see [`Self::load`]); [`TextError::NonFinite`] if the logits are no
    /// numbers; and like [`Self::embed`].
    pub fn caption(
        &self,
        text: &str,
        picture: &RgbImage,
        backend: ImageProcessorBackend,
        max_tokens: usize,
        on_token: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Option<GeneratedCaption>, TextError> {
        let generation = self.generation.as_ref().ok_or(TextError::NoHead)?;
        let pictures = [self.encode_picture(picture, backend)?];
        let read = self.read(text, &pictures, TextPositions::Multimodal)?;
        self.check_length(read.ids.len() + max_tokens)?;
        let embeds = self.embed_read(&read, &pictures)?;
        let Read { ids, positions } = read;
        let tokens = generate::generate(&self.language, generation, &ids, &embeds, &positions, max_tokens, on_token)?;
        let Some(tokens) = tokens else { return Ok(None) };
        let text = self.tokenizer.decode(&tokens)?.trim().to_owned();
        Ok(Some(GeneratedCaption { text, tokens }))
    }

    /// The tokens of a text, with each picture's placeholder repeated for all of its tokens.
    ///
    /// # Errors
    /// [`TextError::Placeholders`] if placeholders and pictures do not match; [`TextError::Tokenizer`].
    pub fn input_ids(&self, text: &str, pictures: &[PictureTokens]) -> Result<Vec<u32>, TextError> {
        Ok(self.read(text, pictures, TextPositions::Sequential)?.ids)
    }

    /// The width of hidden states.
    pub fn hidden_size(&self) -> usize {
        self.config.text.hidden_size
    }

    /// Turns pictures into patches.
    pub fn processor(&self) -> &PictureProcessor {
        &self.processor
    }

    fn read(&self, text: &str, pictures: &[PictureTokens], text_positions: TextPositions) -> Result<Read, TextError> {
        let (token, merge) = (self.config.image_token, self.config.vision.spatial_merge_size);
        let sizes: Vec<_> = pictures.iter().map(|picture| picture.grid.merged(merge)).collect();
        let counts: Vec<_> = sizes.iter().map(|(height, width)| height * width).collect();
        let ids = prompt::expand(&self.tokenizer.encode(text)?, token, &counts)?;
        let positions = match text_positions {
            TextPositions::Sequential => Positions::sequence(0, ids.len()),
            TextPositions::Multimodal => Positions::grid(&ids, token, &sizes),
        };
        Ok(Read { ids, positions })
    }

    fn embed_read(&self, read: &Read, pictures: &[PictureTokens]) -> candle_core::Result<Tensor> {
        let tensors: Vec<_> = pictures.iter().map(|picture| &picture.embeds).collect();
        prompt::splice(&self.language.embed(&read.ids)?, &read.ids, self.config.image_token, &tensors)
    }

    fn check_length(&self, tokens: usize) -> Result<(), TextError> {
        let limit = self.config.text.max_position_embeddings;
        if tokens > limit { Err(TextError::TooLong { tokens, limit }) } else { Ok(()) }
    }
}

impl OffloadGroups for TextEncoder {
    fn groups(&mut self) -> Vec<&mut dyn Tensors> {
        self.language.groups().chain(std::iter::once(&mut self.vision as &mut dyn Tensors)).collect()
    }

    fn vacate(&mut self) {
        self.language.vacate();
    }
}

/// A prompt as tokens with their positions, pictures expanded.
struct Read {
    ids: Vec<u32>,
    positions: Positions,
}
