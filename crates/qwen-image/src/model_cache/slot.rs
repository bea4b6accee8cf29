//! A checkpoint in memory, and its key.

use std::path::{Path, PathBuf};

use super::{device::ComputeDType, find::FoundCheckpoint, memory_plan::MemoryPlan};
use crate::{
    hub::ModelRef,
    models::{
        LoadResult, WeightOptions,
        lora::AppliedLora,
        text_encoder::{ImageProcessorBackend, TextPositions},
    },
    pipeline::{Components, LoadOptions, PipelineKind, QwenImageEditPlusPipeline, QwenImageLayeredPipeline},
};

/// The key of a loaded model: everything that changes its weights.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotKey {
    pub pipeline: PipelineKind,
    /// The checkpoint's name as given.
    pub checkpoint: ModelRef,
    /// Files with weights instead of the checkpoint's own.
    pub files: WeightOptions,
    /// The LoRAs in its weights, in order.
    pub adapters: Vec<AdapterKey>,
    pub dtype: ComputeDType,
}

/// A LoRA in a model's weights.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdapterKey {
    /// Of the file's content.
    pub sha256: String,
    /// The bits of the strength, which is exact.
    pub strength: u64,
}

impl SlotKey {
    /// Whether both are the same checkpoint, perhaps with other LoRAs.
    pub fn has_base_of(&self, other: &Self) -> bool {
        let base = |key: &'_ Self| (key.pipeline, key.checkpoint.clone(), key.files.clone(), key.dtype);
        base(self) == base(other)
    }
}

/// A model that was used in a call.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadedModel {
    /// The pipeline that it ran in.
    pub pipeline: PipelineKind,
    /// The hub id or the folder.
    pub id: String,
    /// The commit of a hub snapshot; none for a plain folder.
    pub revision: Option<String>,
    /// The identity of its files, as in [`crate::ModelIdentity`]. Empty if they could not be looked at.
    pub weights: String,
    /// Whether no model was chosen, so that the small one was used.
    pub default: bool,
    /// The positions of pictures' tokens in an edit's prompt; none if prompts have no pictures.
    pub text_positions: Option<TextPositions>,
    /// How it resizes pictures for the text encoder.
    pub image_processor: ImageProcessorBackend,
    /// The LoRAs in its weights, in the order in which they were added.
    pub loras: Vec<AppliedLora>,
}

impl LoadedModel {
    pub(super) fn new(
        pipeline: PipelineKind,
        found: &FoundCheckpoint,
        weights: String,
        components: &Components,
    ) -> Self {
        let Components { constants, loras, .. } = components;
        Self {
            pipeline,
            id: found.id.clone(),
            revision: found.revision.clone(),
            weights,
            default: found.default,
            text_positions: (pipeline == PipelineKind::EditPlus).then_some(constants.text_positions),
            image_processor: constants.image_processor,
            loras: loras.clone(),
        }
    }
}

pub enum LoadedPipeline {
    Layered(QwenImageLayeredPipeline),
    EditPlus(QwenImageEditPlusPipeline),
}

impl LoadedPipeline {
    /// The same checkpoint with other LoRAs; see [`Components::with_loras`].
    pub(super) fn with_loras(self, folder: &Path, options: LoadOptions<'_>) -> LoadResult<Self> {
        match self {
            Self::Layered(pipeline) => pipeline.with_loras(folder, options).map(Self::Layered),
            Self::EditPlus(pipeline) => pipeline.with_loras(folder, options).map(Self::EditPlus),
        }
    }

    pub fn components(&self) -> &Components {
        match self {
            Self::Layered(pipeline) => pipeline.components(),
            Self::EditPlus(pipeline) => pipeline.components(),
        }
    }
}

/// A checkpoint in memory.
pub struct Slot {
    pub pipeline: LoadedPipeline,
    pub model: LoadedModel,
    /// The placement of its parts; none on the CPU, where all of them stay.
    pub plan: Option<MemoryPlan>,
    /// The placement of the transformer on the device of the negative branch, if that is a GPU of its own.
    pub negative_plan: Option<MemoryPlan>,
    /// The size of its weights on all devices in bytes, for the memory budget.
    pub(super) bytes: u64,
    pub(super) folder: PathBuf,
    /// The file with its text encoder's weights, if it is not the checkpoint's own.
    pub(super) text_encoder_file: Option<PathBuf>,
    /// When it was last used, as a count of the cache's uses.
    pub(super) used: u64,
}

impl Slot {
    pub fn components(&self) -> &Components {
        self.pipeline.components()
    }

    pub(super) fn components_mut(&mut self) -> &mut Components {
        match &mut self.pipeline {
            LoadedPipeline::Layered(pipeline) => pipeline.components_mut(),
            LoadedPipeline::EditPlus(pipeline) => pipeline.components_mut(),
        }
    }

    /// The folder of its text encoder, and the file with the weights if they are not in it.
    pub(super) fn text_encoder(&self) -> (&Path, Option<&Path>) {
        (&self.folder, self.text_encoder_file.as_deref())
    }

    /// The checkpoint's own note, with its name, and the files that replace weights of it.
    pub fn notes(&self, files: &WeightOptions) -> Vec<String> {
        let mut notes = Vec::new();
        notes.extend(self.components().constants.note.as_ref().map(|note| format!("{}: {note}", self.model.id)));
        for (part, file) in [("transformer", &files.transformer), ("text encoder", &files.text_encoder)] {
            notes.extend(file.as_ref().map(|file| format!("{}: its {part} is {}", self.model.id, file.display())));
        }
        if files.text_encoder_fp8 {
            notes.push(format!("{}: its text encoder's layers are rounded to fp8", self.model.id));
        }
        notes
    }
}
