//! A job as the API shows it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::api::Api;
use crate::{
    database::{Attempt, JobRow},
    job::{
        BatchId, BoundingBox, Epoch, ErrorRecord, Fidelity, FileEntry, InputRef, JobId, JobKind, JobState, LayerRole,
        Placement, Progress,
    },
    store::{MANIFEST, input_name},
};

/// A job: its request, its state and its pictures.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobView {
    pub id: JobId,
    pub kind: JobKind,
    pub state: JobState,
    /// How often a worker has claimed it.
    pub attempts: u32,
    pub epoch: Epoch,
    /// 0 to 9, higher first.
    pub priority: u8,
    pub batch: Option<BatchId>,
    pub labels: BTreeMap<String, String>,
    pub input: Vec<InputView>,
    /// Where an edit may change its picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<InputView>,
    /// The parameters of its kind.
    #[schema(value_type = Object)]
    pub params: Value,
    /// The progress of the running or last attempt.
    pub progress: Option<Progress>,
    /// Why the job or its last attempt failed.
    pub error: Option<ErrorRecord>,
    pub cancel_requested: bool,
    /// The W3C trace that the job was submitted in: 32 hexadecimal digits.
    pub trace_id: Option<String>,
    pub created_at: Timestamp,
    /// A queued job is not started before this time: it is scheduled, or waits for its next attempt.
    pub not_before: Option<Timestamp>,
    /// When the last attempt started.
    pub started_at: Option<Timestamp>,
    pub updated_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    /// The result's pictures; empty until the job has succeeded.
    pub outputs: Vec<OutputView>,
    /// How true the layers are to their picture; null for a job without layers, or that has not succeeded.
    pub fidelity: Option<Fidelity>,
    /// The job whose result it took, so that nothing was computed.
    pub reused_from: Option<JobId>,
    pub links: JobLinks,
    /// Its attempts, oldest first; only when a single job is requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<Vec<AttemptView>>,
}

/// An input picture of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "a picture is an address, {\"job\": ID, \"layer\": 2}, {\"job\": ID, \"file\": \"edited.png\"} or {\"upload\": NAME}"
)]
pub enum InputView {
    /// `s3://bucket/key`, `file:///path`, or `http(s)://` if that is allowed.
    Url(String),
    /// A layer of an earlier job, by the number in its file name.
    Layer { job: JobId, layer: u32 },
    /// Any picture of an earlier job, by its name.
    File { job: JobId, file: String },
    /// An uploaded picture: the SHA-256 of its bytes and an extension.
    Upload { upload: String },
}

#[derive(Debug, Serialize, ToSchema)]
pub struct OutputView {
    pub name: String,
    pub role: LayerRole,
    /// The number of a layer; 0 is the whole picture as the model regenerates it, 1 the rearmost layer.
    pub layer: Option<u32>,
    /// A few words for a layer; null for other files.
    pub layer_name: Option<String>,
    pub width: u32,
    pub height: u32,
    /// Bytes.
    pub size: u64,
    pub sha256: String,
    /// Where the file has visible pixels; null for results of earlier versions.
    pub bounding_box: Option<BoundingBox>,
    /// Where a trimmed layer belongs; null if the file is the whole canvas.
    pub placement: Option<Placement>,
    /// The variant that it is of, from 1; null in results without variants.
    pub variant: Option<u32>,
    /// The seed of its variant.
    pub seed: Option<u64>,
    pub url: String,
    pub thumbnail: String,
}

/// Paths on this server.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobLinks {
    #[serde(rename = "self")]
    pub this: String,
    pub events: String,
    /// A thumbnail of the result, or of the input while there is no result.
    pub thumbnail: Option<String>,
    pub inputs: Vec<String>,
    pub manifest: Option<String>,
    /// By format; empty for a job without layers.
    pub exports: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct AttemptView {
    pub attempt: u32,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    /// `succeeded`, `reused`, `failed`, `requeued`, `given_back`, `cancelled` or `lost`; null while it runs.
    pub outcome: Option<String>,
    pub error: Option<ErrorRecord>,
    /// The trace of the attempt, if its worker exported it.
    pub trace_id: Option<String>,
}

impl JobView {
    pub fn new(row: &JobRow, api: &Api) -> Self {
        let id = row.id();
        let path = format!("/v1/jobs/{id}");
        let files = row.published.as_ref().map(|result| result.files.as_slice()).unwrap_or_default();
        let inputs: Vec<_> =
            (0..row.request.inputs.len()).map(|index| format!("{path}/thumbnails/input-{index}.png")).collect();
        let shown = files.iter().find(|file| shows_whole(file)).or(files.first());
        let exports = match files.iter().any(FileEntry::is_layer) {
            true => super::export::FORMATS
                .iter()
                .map(|format| (format.to_string(), format!("{path}/export.{format}")))
                .collect(),
            false => BTreeMap::new(),
        };
        Self {
            id,
            kind: row.request.task.kind(),
            state: row.state,
            attempts: row.attempts,
            epoch: row.epoch,
            priority: row.request.priority,
            batch: row.batch.clone(),
            labels: row.request.labels.clone(),
            input: row.request.inputs.iter().map(|input| InputView::new(input, api)).collect(),
            mask: row.request.inputs.mask.as_ref().map(|mask| InputView::new(mask, api)),
            params: row.request.task.params(),
            progress: row.progress,
            error: row.error.clone(),
            cancel_requested: row.cancel_requested,
            trace_id: row.trace.as_ref().map(|trace| trace.trace_id().to_owned()),
            created_at: row.created_at,
            not_before: row.not_before(),
            started_at: row.started_at,
            updated_at: row.updated_at,
            finished_at: row.finished_at,
            outputs: files.iter().map(|file| OutputView::new(file, &path)).collect(),
            fidelity: row.published.as_ref().and_then(|result| result.fidelity.clone()),
            reused_from: row.published.as_ref().and_then(|result| result.reused_from),
            links: JobLinks {
                events: format!("{path}/events"),
                thumbnail: shown
                    .map(|file| format!("{path}/thumbnails/{}", file.name))
                    .or_else(|| inputs.first().cloned()),
                inputs,
                manifest: row.published.as_ref().map(|_| format!("{path}/files/{MANIFEST}")),
                exports,
                this: path,
            },
            history: None,
        }
    }

    pub fn with_history(self, attempts: Vec<Attempt>) -> Self {
        Self { history: Some(attempts.into_iter().map(AttemptView::from).collect()), ..self }
    }
}

impl From<Attempt> for AttemptView {
    fn from(attempt: Attempt) -> Self {
        let Attempt { attempt, started_at, ended_at, outcome, error, trace_id, .. } = attempt;
        Self { attempt, started_at, ended_at, outcome, error, trace_id }
    }
}

impl InputView {
    fn new(input: &InputRef, api: &Api) -> Self {
        match input {
            InputRef::Layer { job, layer } => Self::Layer { job: *job, layer: *layer },
            InputRef::File { job, file } => Self::File { job: *job, file: file.clone() },
            InputRef::Url(url) => match api.stores().brought_name(url) {
                Some(name) => Self::Upload { upload: name.to_owned() },
                None if url.starts_with("http") => Self::Url(input_name(url)),
                None => Self::Url(url.clone()),
            },
        }
    }
}

impl OutputView {
    fn new(file: &FileEntry, path: &str) -> Self {
        Self {
            name: file.name.clone(),
            role: file.role,
            layer: file.layer(),
            layer_name: file.layer_name.clone(),
            width: file.width,
            height: file.height,
            size: file.size,
            sha256: file.sha256.clone(),
            bounding_box: file.bounding_box,
            placement: file.placement,
            variant: file.variant,
            seed: file.seed,
            url: format!("{path}/files/{}", file.name),
            thumbnail: format!("{path}/thumbnails/{}", file.name),
        }
    }
}

fn shows_whole(file: &FileEntry) -> bool {
    match file.role {
        LayerRole::Composite | LayerRole::Edited | LayerRole::ContactSheet => true,
        LayerRole::Regenerated | LayerRole::Layer | LayerRole::EditedLayer => false,
    }
}
