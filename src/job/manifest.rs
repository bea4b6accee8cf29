//! The manifest: published last, it lists every file of a result and records how it was made.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Epoch, Fidelity, JobId, JobRequest, ParentLayer, Stage, request::Wire, without_variant};

/// `manifest.json`. If it exists, so does every file it names, complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Manifest {
    pub version: u32,
    pub job: JobId,
    pub epoch: Epoch,
    pub attempt: u32,
    /// The job whose result this is: its pictures were copied, and everything below but `timings` says how they were
    /// made. Absent if they were made by this job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reused_from: Option<JobId>,
    /// A hash of everything that the pictures depend on; equal jobs may take this result. Absent if that is not known,
    /// and in older manifests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_key: Option<String>,
    /// The version of acetate.
    pub generator: String,
    /// When it was written, by the worker's clock. RFC 3339, UTC.
    pub created_at: String,
    /// When the job was accepted: its row's `created_at`, by the database's clock. Another job with this id, submitted
    /// after this one was deleted, has another time. Absent in older manifests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitted_at: Option<Timestamp>,
    #[schema(value_type = Wire)]
    pub request: JobRequest,
    /// The seed that was used, even if the request had none; of several variants, that of the first one.
    pub seed: u64,
    /// The variants in order, if there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<VariantRecord>,
    /// The layer of an earlier job that it splits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<ParentLayer>,
    /// The `resolution` of a decompose, even if the request had none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolution: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caption: Option<Caption>,
    /// How true the layers are to their picture; of several variants, those of the first one, and `quality` is `low` if
    /// that of any is. Absent for other kinds of jobs, and in older manifests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fidelity: Option<Fidelity>,
    pub models: Vec<ModelRecord>,
    /// How each run of a model was sampled, in order. Absent in older manifests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sampling: Vec<SamplingRecord>,
    /// How near each edit stayed to its source, in order. Absent in older manifests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edits: Vec<EditRecord>,
    /// The device, its number format and the attention kernel.
    pub device: String,
    pub files: Vec<FileEntry>,
    /// Notes about the inputs or the run, for instance a converted color profile or the use of a first frame.
    pub notes: Vec<String>,
    pub timings: Vec<StageTiming>,
}

/// The caption that the text encoder wrote because the prompt was empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Caption {
    pub text: String,
    pub tokens: u32,
}

/// One of several results that differ only by their seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VariantRecord {
    /// From 1, as in its files.
    pub variant: u32,
    pub seed: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fidelity: Option<Fidelity>,
}

/// How a run of a model was sampled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SamplingRecord {
    /// The pipeline class, as in [`ModelRecord`].
    pub pipeline: String,
    pub sampler: String,
    /// The noise levels, one more than there are steps.
    pub sigmas: Vec<f32>,
    /// The steps that the step cache skipped, from 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped_steps: Vec<u32>,
    /// How often the transformer was evaluated, counting each branch of guidance; 0 in a result that was reused.
    pub passes: u32,
}

/// How near an edit stayed to its source.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct EditRecord {
    /// Absent if it was not measured: with a mask nothing can drift, and if too little stayed alike, nobody can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<DriftRecord>,
    /// The share of the pixels that may differ from the source's, if there was a mask, a region or `keep_rest`; all
    /// others are the source's, exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<f64>,
    /// The share of the pixels whose alpha may differ from the source's, if the request has `alpha` `grow`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha_changed: Option<f64>,
}

/// How far an edited picture had moved against its source.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DriftRecord {
    /// At the center, right and down, in pixels of the source.
    pub shift: [f64; 2],
    /// How many times larger it had become.
    pub zoom: f64,
    /// Whether it was moved back. False if the drift cannot be seen, or is so large that it may be meant.
    pub undone: bool,
}

/// A checkpoint that was used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModelRecord {
    /// The pipeline class of `model_index.json`, for instance `QwenImageLayeredPipeline`.
    pub pipeline: String,
    /// The hub id or the folder.
    pub id: String,
    /// The commit of a hub snapshot; absent for a plain folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Whether no model was chosen, so that the small one was used.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
    /// The positions of pictures' tokens in an edit's prompt: `multimodal` or `sequential`. Absent if prompts have no
    /// pictures, and in older manifests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_positions: Option<String>,
    /// The resize for the text encoder's pictures: `torchvision` or `pil`. Absent in older manifests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_processor: Option<String>,
    /// The LoRAs in its weights, in the order in which they were added. Absent if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<LoraRecord>,
}

/// A LoRA that was used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LoraRecord {
    /// The path, or the hub id and file.
    pub file: String,
    pub sha256: String,
    pub strength: f64,
    /// The largest rank of its matrices.
    pub rank: usize,
    /// How many layers it changes.
    pub modules: usize,
}

/// The role of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LayerRole {
    /// `layer-00.png`: the whole picture as the model regenerates it.
    Regenerated,
    /// `layer-01.png` and up, back to front.
    Layer,
    /// A layer after its edit, in a workflow.
    EditedLayer,
    Edited,
    Composite,
    /// `variants.png`: all variants of a job on one picture.
    ContactSheet,
}

/// A file of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileEntry {
    pub name: String,
    pub role: LayerRole,
    pub width: u32,
    pub height: u32,
    /// Bytes.
    pub size: u64,
    pub sha256: String,
    /// A few words for a layer, edited or not: what the caption or the text encoder clearly say it is, otherwise
    /// "Background" for the rearmost and "Layer 2" and so on. Absent for other files, and in results of earlier
    /// versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_name: Option<String>,
    /// Where the file has visible pixels. Absent in results of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounding_box: Option<BoundingBox>,
    /// Where a trimmed layer belongs. Absent: the file is not trimmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// The variant that it is of, from 1. Absent in results without variants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<u32>,
    /// The seed of its variant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// Where a trimmed layer belongs: its top left corner on the canvas, and the size of the canvas, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Placement {
    pub x: u32,
    pub y: u32,
    /// Of the canvas, not of the file.
    pub width: u32,
    pub height: u32,
}

/// The smallest rectangle around all visible pixels, those with an alpha of 8 or more of 255, in pixels from the top
/// left corner. Its width and height are 0 if there are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct BoundingBox {
    pub x: u32,
    pub y: u32,
    pub width: u32,
    pub height: u32,
}

impl Placement {
    /// How many pixels the canvas has.
    pub fn pixels(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }
}

impl FileEntry {
    /// Whether it is a layer of a picture, or the regenerated whole.
    pub fn is_layer(&self) -> bool {
        matches!(self.role, LayerRole::Regenerated | LayerRole::Layer)
    }

    /// The size of the canvas, which a file that is not trimmed fills.
    pub fn canvas(&self) -> Placement {
        self.placement.unwrap_or(Placement { x: 0, y: 0, width: self.width, height: self.height })
    }

    /// The name of a layer for people.
    pub fn shown_name(&self) -> Option<String> {
        self.layer_name.clone().or_else(|| self.layer().map(usual_layer_name))
    }

    /// The number in a layer's name, edited or not.
    pub fn layer(&self) -> Option<u32> {
        layer_number(&self.name)
    }
}

/// The number in the name of a layer's file, edited or not, of any variant.
pub fn layer_number(file: &str) -> Option<u32> {
    let file = without_variant(file);
    file.strip_prefix("edited-").unwrap_or(file).strip_prefix("layer-")?.strip_suffix(".png")?.parse().ok()
}

/// The name of a layer that nothing is known of.
pub fn usual_layer_name(layer: u32) -> String {
    if layer == 1 { "Background".to_owned() } else { format!("Layer {layer}") }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StageTiming {
    pub stage: Stage,
    pub seconds: f64,
}
