//! Constants from the reference's Python code, and the small file that can override them.

use std::path::{Component, Path};

use serde::Deserialize;

use super::options::LAYERS;
use crate::models::{
    LoadResult, ModelError, read_json,
    text_encoder::{ImageProcessorBackend, TextPositions},
};

/// Which of the two pipelines a checkpoint is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PipelineKind {
    Layered,
    EditPlus,
}

impl PipelineKind {
    /// The class name in `model_index.json`.
    pub fn class_name(self) -> &'static str {
        match self {
            Self::Layered => "QwenImageLayeredPipeline",
            Self::EditPlus => "QwenImageEditPlusPipeline",
        }
    }
}

/// The defaults are those of the full models; `acetate.json` next to `model_index.json` can override each of them.
#[derive(Debug, Clone)]
pub struct Constants {
    /// Accepted values of `resolution`; the first is the default.
    pub resolutions: Vec<u32>,
    /// The maximum number of layers that the checkpoint was trained for.
    pub max_layers: u32,
    /// Area of a reference as the text encoder sees it, in square pixels.
    pub condition_area: u32,
    /// Area of a reference as the VAE sees it, and of an edit's output.
    pub vae_area: u32,
    /// The number of template tokens before the user's text, whose states are dropped.
    pub prompt_template_encode_start_idx: usize,
    pub caption_max_new_tokens: usize,
    /// The positions of pictures' tokens in an edit's prompt.
    pub text_positions: TextPositions,
    /// Which of transformers' picture processors to match in edits and captions.
    pub image_processor: ImageProcessorBackend,
    /// A note for users of this checkpoint, which goes into the manifest of every job.
    pub note: Option<String>,
}

/// How the text encoder reads pictures: the caller's choices, which override the checkpoint's `acetate.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conditioning {
    /// The positions of pictures' tokens in an edit's prompt. None: as the checkpoint says, else `Multimodal`.
    pub text_positions: Option<TextPositions>,
    /// Which of transformers' picture processors to match. None: the checkpoint's setting, otherwise `Torchvision`.
    pub image_processor: Option<ImageProcessorBackend>,
}

/// The maximum length of a prompt, in tokens after the template; the rest is cut off, as in the reference.
pub const MAX_PROMPT_TOKENS: usize = 1024;

const OVERRIDES: &str = "acetate.json";

fn is_plain(part: Component<'_>) -> bool {
    matches!(part, Component::Normal(_))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Overrides {
    resolutions: Option<Vec<u32>>,
    max_layers: Option<u32>,
    condition_area: Option<u32>,
    vae_area: Option<u32>,
    prompt_template_encode_start_idx: Option<usize>,
    caption_max_new_tokens: Option<usize>,
    text_positions: Option<TextPositions>,
    image_processor: Option<ImageProcessorBackend>,
    lightning: Option<Lightning>,
    note: Option<String>,
}

/// What a checkpoint says about few steps without guidance.
#[derive(Deserialize)]
#[serde(untagged, expecting = "`lightning` is the path of a LoRA, or false if the checkpoint needs none")]
pub enum Lightning {
    /// The file of its own LoRA, as a path in its folder.
    Lora(String),
    /// Whether it needs a LoRA for them; only `false` says anything.
    Needed(bool),
}

#[derive(Deserialize)]
struct ModelIndex {
    #[serde(rename = "_class_name")]
    class_name: String,
}

impl Constants {
    /// Checks that the checkpoint is for this pipeline and reads its overrides.
    pub fn load(folder: &Path, pipeline: PipelineKind, conditioning: Conditioning) -> LoadResult<Self> {
        let index = folder.join("model_index.json");
        if !index.is_file() {
            return Err(ModelError::NotFound { path: folder.to_owned() });
        }
        let found = read_json::<ModelIndex>(&index)?.class_name;
        if found != pipeline.class_name() {
            return Err(ModelError::invalid(
                index,
                format!("is a {found}, but this needs a {}; is it the other of the two models?", pipeline.class_name()),
            ));
        }
        let path = folder.join(OVERRIDES);
        let given = if path.is_file() { read_json(&path)? } else { Overrides::default() };
        let defaults = Self::of(pipeline);
        let constants = Self {
            resolutions: given.resolutions.unwrap_or(defaults.resolutions),
            max_layers: given.max_layers.unwrap_or(defaults.max_layers),
            condition_area: given.condition_area.unwrap_or(defaults.condition_area),
            vae_area: given.vae_area.unwrap_or(defaults.vae_area),
            prompt_template_encode_start_idx: given
                .prompt_template_encode_start_idx
                .unwrap_or(defaults.prompt_template_encode_start_idx),
            caption_max_new_tokens: given.caption_max_new_tokens.unwrap_or(defaults.caption_max_new_tokens),
            text_positions: conditioning.text_positions.or(given.text_positions).unwrap_or_default(),
            image_processor: conditioning.image_processor.or(given.image_processor).unwrap_or_default(),
            note: given.note,
        };
        let sane = |side: &u32| (32..=4096).contains(side) && side.is_multiple_of(32);
        if constants.resolutions.is_empty() || !constants.resolutions.iter().all(sane) {
            let reason = format!("`resolutions` {:?} are multiples of 32 from 32 to 4096", constants.resolutions);
            return Err(ModelError::invalid(path, reason));
        }
        if !LAYERS.contains(&constants.max_layers) {
            let reason = format!("`max_layers` {} is not between 2 and 10", constants.max_layers);
            return Err(ModelError::invalid(path, reason));
        }
        let areas = [constants.condition_area, constants.vae_area];
        if areas.iter().any(|area| !(1024..=1 << 24).contains(area)) {
            return Err(ModelError::invalid(path, "areas are between 1024 and 16777216 square pixels"));
        }
        Ok(constants)
    }

    /// What the checkpoint says about few steps, if it says anything.
    pub fn lightning(folder: &Path) -> LoadResult<Option<Lightning>> {
        let path = folder.join(OVERRIDES);
        let given = if path.is_file() { read_json(&path)? } else { Overrides::default() };
        match given.lightning {
            Some(Lightning::Lora(file))
                if file.is_empty() || Path::new(&file).components().any(|part| !is_plain(part)) =>
            {
                Err(ModelError::invalid(path, "`lightning` is the path of a file in this folder"))
            }
            lightning => Ok(lightning),
        }
    }

    fn of(pipeline: PipelineKind) -> Self {
        Self {
            resolutions: vec![640, 1024],
            max_layers: 10,
            condition_area: 384 * 384,
            vae_area: 1024 * 1024,
            prompt_template_encode_start_idx: match pipeline {
                PipelineKind::Layered => 34,
                PipelineKind::EditPlus => 64,
            },
            caption_max_new_tokens: 512,
            text_positions: TextPositions::default(),
            image_processor: ImageProcessorBackend::default(),
            note: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_is_heard_before_the_checkpoint_and_the_checkpoint_before_the_defaults() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model_index.json"), r#"{"_class_name": "QwenImageEditPlusPipeline"}"#)
            .unwrap();
        let read = |conditioning| {
            let constants = Constants::load(folder.path(), PipelineKind::EditPlus, conditioning).unwrap();
            (constants.text_positions, constants.image_processor)
        };
        let defaults = (TextPositions::Multimodal, ImageProcessorBackend::Torchvision);
        assert_eq!(read(Conditioning::default()), defaults);
        let pins = r#"{"text_positions": "sequential", "image_processor": "pil"}"#;
        std::fs::write(folder.path().join("acetate.json"), pins).unwrap();
        assert_eq!(read(Conditioning::default()), (TextPositions::Sequential, ImageProcessorBackend::Pil));
        let asked = Conditioning { text_positions: Some(defaults.0), image_processor: Some(defaults.1) };
        assert_eq!(read(asked), defaults);
    }
}
