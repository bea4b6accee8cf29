//! Constants from the reference's Python code, and the small file that can override them.

use std::{
    ffi::OsStr,
    ops::RangeInclusive,
    path::{Component, Path},
};

use serde::Deserialize;

use super::{
    error::PipelineError,
    options::{DecomposeOptions, LAYERS, RESOLUTION, RESOLUTION_STEP},
};
use crate::models::{
    EDIT_PLUS, LAYERED, LoadResult, ModelError, pipeline_class, read_json,
    text_encoder::{ImageProcessorBackend, TextPositions},
};

/// Which of the two pipelines a checkpoint is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PipelineKind {
    /// Splits a picture into layers.
    Layered,
    /// Edits pictures by instruction.
    EditPlus,
}

impl PipelineKind {
    /// The class name in `model_index.json`.
    pub fn class_name(self) -> &'static str {
        match self {
            Self::Layered => LAYERED,
            Self::EditPlus => EDIT_PLUS,
        }
    }
}

/// Areas that a checkpoint may ask for, in square pixels.
const AREA: RangeInclusive<u32> = 1024..=1 << 24;

/// The defaults are those of the full models; `acetate.json` next to `model_index.json` can override each of them.
#[derive(Debug, Clone)]
pub struct Constants {
    /// Accepted values of `resolution`; the first is the default.
    pub resolutions: Vec<u32>,
    /// The numbers of layers that the checkpoint was trained for. 0 to 0: it lifts one part out of the picture.
    pub layers: RangeInclusive<u32>,
    /// Area of a reference as the text encoder sees it, in square pixels.
    pub condition_area: u32,
    /// Area of a reference as the VAE sees it, and of an edit's output.
    pub vae_area: u32,
    /// The number of template tokens before the user's text, whose states are dropped.
    pub prompt_template_encode_start_idx: usize,
    /// The most tokens of a caption.
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

/// Whether a folder or file has the name of a checkpoint such as DiffSynth's Qwen-Image-Layered-Control.
fn is_control(path: &Path) -> bool {
    let named =
        |part: &OsStr| part.to_string_lossy().to_ascii_lowercase().replace('_', "-").contains("layered-control");
    path.iter().any(named)
}

fn is_plain(part: Component<'_>) -> bool {
    matches!(part, Component::Normal(_))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Overrides {
    resolutions: Option<Vec<u32>>,
    min_layers: Option<u32>,
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

impl Constants {
    /// Checks that the checkpoint is for this pipeline and reads its overrides.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if `acetate.json` cannot be read or has values out of bounds.
    pub fn load(folder: &Path, pipeline: PipelineKind, conditioning: Conditioning) -> LoadResult<Self> {
        let index = folder.join("model_index.json");
        if !index.is_file() {
            return Err(ModelError::NotFound { path: folder.to_owned() });
        }
        let found = pipeline_class(folder)?;
        if found != pipeline.class_name() {
            let mut reason = format!("is a {found}, but this needs a {}", pipeline.class_name());
            match found.as_str() {
                LAYERED => reason += "; the model for layers was given where the one for edits is needed",
                EDIT_PLUS => reason += "; the model for edits was given where the one for layers is needed",
                _ => {}
            }
            return Err(ModelError::invalid(index, reason));
        }
        let path = folder.join(OVERRIDES);
        let given = if path.is_file() { read_json(&path)? } else { Overrides::default() };
        let defaults = Self::of(pipeline, is_control(folder));
        let constants = Self {
            resolutions: given.resolutions.unwrap_or(defaults.resolutions),
            layers: given.min_layers.unwrap_or(*defaults.layers.start())
                ..=given.max_layers.unwrap_or(*defaults.layers.end()),
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
        let sane = |side: &u32| RESOLUTION.contains(side) && side.is_multiple_of(RESOLUTION_STEP);
        if constants.resolutions.is_empty() || !constants.resolutions.iter().all(sane) {
            let (given, step, (least, most)) = (constants.resolutions, RESOLUTION_STEP, RESOLUTION.into_inner());
            let reason = format!("`resolutions` {given:?} are multiples of {step} from {least} to {most}");
            return Err(ModelError::invalid(path, reason));
        }
        let (least, most) = (*constants.layers.start(), *constants.layers.end());
        if !LAYERS.contains(&most) || least > most {
            let (first, last) = LAYERS.into_inner();
            let reason = if least > most {
                format!("`min_layers` ({least}) is more than `max_layers` ({most})")
            } else {
                format!("`max_layers` ({most}) is not from {first} to {last}")
            };
            return Err(ModelError::invalid(path, reason));
        }
        let areas = [constants.condition_area, constants.vae_area];
        if !areas.iter().all(|area| AREA.contains(area)) {
            let (least, most) = AREA.into_inner();
            return Err(ModelError::invalid(path, format!("areas are between {least} and {most} square pixels")));
        }
        Ok(constants)
    }

    /// What the checkpoint says about few steps, if it says anything.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if `acetate.json` cannot be read.
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

    /// Makes them those of a Layered-Control checkpoint, if the transformer's file is one.
    #[must_use]
    pub fn with_transformer(self, file: Option<&Path>) -> Self {
        let is_one = file.and_then(Path::file_name).is_some_and(|name| is_control(Path::new(name)));
        if !is_one {
            return self;
        }
        let Self { resolutions, layers, .. } = Self::of(PipelineKind::Layered, true);
        Self { resolutions, layers, ..self }
    }

    /// Whether it lifts the one part out of the picture that the prompt names, instead of making layers.
    pub fn lifts(&self) -> bool {
        *self.layers.end() == 0
    }

    /// Checks that the checkpoint was made for what a decompose asks for.
    ///
    /// # Errors
    /// [`PipelineError::Invalid`] for `resolution`, `layers` or `prompt`.
    pub fn check(&self, options: &DecomposeOptions) -> Result<(), PipelineError> {
        if let Some(resolution) = options.resolution.filter(|resolution| !self.resolutions.contains(resolution)) {
            let accepted = self.resolutions.iter().map(u32::to_string).collect::<Vec<_>>().join(" or ");
            let reason = format!("{resolution} is not supported by this checkpoint, which was made for {accepted}");
            return Err(PipelineError::invalid("resolution", reason));
        }
        self.check_layers((!options.auto_layers).then_some(options.layers))?;
        if self.lifts() && options.prompt.trim().is_empty() {
            let reason = "names no part; say what to lift out of the picture, for instance \"the red star\"";
            return Err(PipelineError::invalid("prompt", reason));
        }
        Ok(())
    }

    /// Checks a number of layers; none: as many as the picture has.
    fn check_layers(&self, layers: Option<u32>) -> Result<(), PipelineError> {
        let (least, most) = (*self.layers.start(), *self.layers.end());
        let reason = match layers {
            Some(layers) if self.layers.contains(&layers) => return Ok(()),
            None if !self.lifts() => return Ok(()),
            _ if self.lifts() => {
                "this checkpoint lifts one part out of the picture; ask for 0 layers, and name the part in the prompt"
                    .to_owned()
            }
            Some(0) => format!(
                "0 lifts one part out of the picture, for which this checkpoint was not made; use a Layered-Control \
                 checkpoint, or {least} to {most} layers"
            ),
            Some(layers) => {
                let amount = if layers > most { "many" } else { "few" };
                format!("{layers} is too {amount}: this checkpoint makes {least} to {most} layers")
            }
            None => return Ok(()),
        };
        Err(PipelineError::invalid("layers", reason))
    }

    fn of(pipeline: PipelineKind, control: bool) -> Self {
        Self {
            resolutions: if control { vec![1024, 640] } else { vec![640, 1024] },
            layers: if control { 0..=0 } else { 2..=10 },
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
    fn a_checkpoint_takes_the_layers_that_it_was_made_for() {
        let folder = tempfile::tempdir().unwrap();
        let reason = |name: &str, overrides: &str, layers: Option<u32>| {
            let folder = folder.path().join(name);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("model_index.json"), r#"{"_class_name": "QwenImageLayeredPipeline"}"#).unwrap();
            std::fs::write(folder.join("acetate.json"), overrides).unwrap();
            let constants = Constants::load(&folder, PipelineKind::Layered, Conditioning::default()).unwrap();
            constants.check_layers(layers).err().map(|error| error.to_string())
        };
        for (name, overrides, layers) in [
            ("Qwen-Image-Layered", "{}", Some(2)),
            ("Qwen-Image-Layered", "{}", None),
            ("Qwen-Image-Layered", r#"{"min_layers": 1}"#, Some(1)),
            ("Qwen-Image-Layered-Control", "{}", Some(0)),
            ("lifts", r#"{"min_layers": 0, "max_layers": 0}"#, Some(0)),
        ] {
            assert_eq!(reason(name, overrides, layers), None, "{name} {overrides} {layers:?}");
        }
        for (name, layers, wanted) in [
            ("Qwen-Image-Layered", Some(0), "use a Layered-Control checkpoint, or 2 to 10 layers"),
            ("Qwen-Image-Layered", Some(1), "1 is too few: this checkpoint makes 2 to 10 layers"),
            ("models--DiffSynth-Studio--Qwen-Image-Layered-Control", Some(4), "ask for 0 layers, and name the part"),
            ("models--DiffSynth-Studio--Qwen-Image-Layered-Control", None, "ask for 0 layers, and name the part"),
        ] {
            let reason = reason(name, "{}", layers).unwrap();
            assert!(reason.contains(wanted), "{name} {layers:?}: {reason}");
        }
    }

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
