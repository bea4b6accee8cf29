//! A checkpoint in memory, and what tells it from others.

use std::path::PathBuf;

use super::{device::ComputeDType, memory_plan::MemoryPlan};
use crate::{
    hub::ModelRef,
    pipeline::{Components, PipelineKind, QwenImageEditPlusPipeline, QwenImageLayeredPipeline},
};

/// What makes two loaded models different: everything that changes their weights.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotKey {
    pub pipeline: PipelineKind,
    /// The checkpoint as it was named.
    pub checkpoint: ModelRef,
    /// Adapters merged into its weights, in order, each as its content's SHA-256 and its strength in 1/1000.
    pub adapters: Vec<(String, i32)>,
    pub dtype: ComputeDType,
}

/// A model that took part in a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedModel {
    pub pipeline: PipelineKind,
    /// The hub id or the folder.
    pub id: String,
    /// The commit of a hub snapshot; none for a plain folder.
    pub revision: Option<String>,
    /// Nobody had chosen a model: it is the small one that comes with acetate.
    pub default: bool,
}

pub enum LoadedPipeline {
    Layered(QwenImageLayeredPipeline),
    EditPlus(QwenImageEditPlusPipeline),
}

/// A checkpoint in memory.
pub struct Slot {
    pub pipeline: LoadedPipeline,
    pub model: LoadedModel,
    /// Where its parts go; none on the CPU, where all of them stay.
    pub plan: Option<MemoryPlan>,
    /// Of its weights, for the memory budget.
    pub(super) bytes: u64,
    pub(super) folder: PathBuf,
    /// When it was last used: a count of uses of the cache.
    pub(super) used: u64,
}

impl Slot {
    pub fn components(&self) -> &Components {
        match &self.pipeline {
            LoadedPipeline::Layered(pipeline) => pipeline.components(),
            LoadedPipeline::EditPlus(pipeline) => pipeline.components(),
        }
    }

    pub(super) fn components_mut(&mut self) -> &mut Components {
        match &mut self.pipeline {
            LoadedPipeline::Layered(pipeline) => pipeline.components_mut(),
            LoadedPipeline::EditPlus(pipeline) => pipeline.components_mut(),
        }
    }

    /// What the checkpoint says about itself, with its name.
    pub fn note(&self) -> Option<String> {
        self.components().constants.note.as_ref().map(|note| format!("{}: {note}", self.model.id))
    }
}
