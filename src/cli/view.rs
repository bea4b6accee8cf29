//! A job row for `--json` and for people.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::{
    database::{Attempt, JobRow},
    job::{
        BatchId, BoundingBox, Epoch, ErrorRecord, Fidelity, InputRef, JobError, JobId, JobKind, JobRequest, JobState,
        LayerRole, Placement, Progress,
    },
    store::{ObjectKey, Stores},
};

/// A job, wherever a command prints one as JSON. Fields are only ever added; those that the API has, too, are the same.
#[derive(Debug, Serialize)]
pub struct JobJson {
    pub id: JobId,
    pub kind: JobKind,
    pub state: JobState,
    pub attempts: u32,
    pub epoch: Epoch,
    pub priority: u8,
    /// The pictures, as in the message. The API shows uploads by their names.
    pub input: Vec<InputRef>,
    /// The parameters of its kind.
    pub params: Value,
    pub progress: Option<Progress>,
    pub error: Option<ErrorRecord>,
    /// Address of the manifest; absent until the job has succeeded.
    pub manifest: Option<String>,
    pub outputs: Vec<OutputJson>,
    pub cancel_requested: bool,
    /// The request, as in the message.
    pub request: JobRequest,
    /// The model's caption, if there was no prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caption: Option<String>,
    /// How true the layers are to their picture, if it has layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fidelity: Option<Fidelity>,
    /// The job whose result it took, so that nothing was computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reused_from: Option<JobId>,
    pub labels: BTreeMap<String, String>,
    /// The W3C trace that the job was submitted in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchId>,
    pub created_at: Timestamp,
    /// When the last attempt started.
    pub started_at: Option<Timestamp>,
    /// A queued job is not started before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    pub updated_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Attempt>,
}

#[derive(Debug, Serialize)]
pub struct OutputJson {
    pub name: String,
    pub role: LayerRole,
    /// The number of a layer; absent for files without one.
    pub layer: Option<u32>,
    /// A few words for a layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_name: Option<String>,
    pub width: u32,
    pub height: u32,
    pub bounding_box: Option<BoundingBox>,
    /// Where a trimmed layer belongs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// The variant that it is of, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<u32>,
    /// The seed of its variant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    pub url: String,
    /// Bytes.
    pub size: u64,
    pub sha256: String,
}

impl JobJson {
    pub fn new(row: JobRow, stores: &Stores) -> Result<Self, JobError> {
        let mut manifest = None;
        let mut outputs = Vec::new();
        if let Some(result) = &row.published {
            let store = stores.at_root(result.root.as_deref())?;
            let key = ObjectKey::parse(&result.manifest)?;
            manifest = Some(store.url(&key));
            for file in &result.files {
                let url = store.url(&key.sibling(&file.name)?);
                outputs.push(OutputJson {
                    name: file.name.clone(),
                    role: file.role,
                    layer: file.layer(),
                    layer_name: file.layer_name.clone(),
                    width: file.width,
                    height: file.height,
                    bounding_box: file.bounding_box,
                    placement: file.placement,
                    variant: file.variant,
                    seed: file.seed,
                    url,
                    size: file.size,
                    sha256: file.sha256.clone(),
                });
            }
        }
        Ok(Self {
            not_before: row.not_before(),
            id: row.id(),
            kind: row.request.task.kind(),
            state: row.state,
            attempts: row.attempts,
            epoch: row.epoch,
            priority: row.request.priority,
            input: row.request.inputs.iter().cloned().collect(),
            params: row.request.task.params(),
            progress: row.progress,
            error: row.error,
            manifest,
            outputs,
            cancel_requested: row.cancel_requested,
            fidelity: row.published.as_ref().and_then(|result| result.fidelity.clone()),
            reused_from: row.published.as_ref().and_then(|result| result.reused_from),
            caption: row.published.and_then(|result| result.caption),
            labels: row.request.labels.clone(),
            request: row.request,
            trace_id: row.trace.map(|trace| trace.trace_id().to_owned()),
            batch: row.batch,
            created_at: row.created_at,
            started_at: row.started_at,
            updated_at: row.updated_at,
            finished_at: row.finished_at,
            history: Vec::new(),
        })
    }
}

/// `denoise 12/50`.
pub fn progress_text(progress: &Progress) -> String {
    let stage = progress.stage.as_str().replace('_', " ");
    match (progress.step, progress.steps) {
        (0, 0) => stage,
        (step, 0) => format!("{stage} {step}"),
        (step, steps) => format!("{stage} {step}/{steps}"),
    }
}
