//! The body of a message on the events exchange, version 1.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{BatchId, Epoch, ErrorRecord, FileEntry, JobId, JobKind, JobState, Progress};

/// `job.succeeded`, `job.failed`, `job.cancelled` (at least once each time a job ends; `id` and `epoch` identify
/// repetitions) and `job.progress` (occasionally, and not stored).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobEvent {
    pub version: u32,
    /// Also the routing key.
    pub event: String,
    pub id: JobId,
    pub kind: JobKind,
    pub state: JobState,
    pub attempts: u32,
    pub epoch: Epoch,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchId>,
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    pub error: Option<ErrorRecord>,
    /// The manifest's address; only its key if the results are in the worker's own store.
    pub manifest: Option<String>,
    /// The files that the manifest names; they are in the same folder.
    pub outputs: Vec<EventFile>,
    /// The job whose result it took, so that nothing was computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reused_from: Option<JobId>,
    pub time: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventFile {
    pub name: String,
    /// Bytes.
    pub size: u64,
    pub sha256: String,
}

/// The body of the webhook at the end of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchEvent {
    pub version: u32,
    /// `batch.ended`.
    pub event: String,
    pub batch: BatchId,
    pub jobs: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub cancelled: u64,
    /// The failed jobs by the code of their error.
    pub errors: BTreeMap<String, u64>,
    /// When the last job ended.
    pub time: Timestamp,
}

impl BatchEvent {
    pub const VERSION: u32 = 1;
    pub const ENDED: &str = "batch.ended";
}

impl JobEvent {
    pub const VERSION: u32 = 1;
    /// The event of a running job.
    pub const PROGRESS: &str = "job.progress";
    pub const FAILED: &str = "job.failed";

    /// The failure of a message that is not a valid job; `kind` is that of its queue.
    pub fn refused(id: JobId, kind: JobKind, reason: ErrorRecord) -> Self {
        Self {
            version: Self::VERSION,
            event: Self::FAILED.to_owned(),
            id,
            kind,
            state: JobState::Failed,
            attempts: 0,
            epoch: Epoch(0),
            batch: None,
            labels: BTreeMap::new(),
            progress: None,
            error: Some(reason),
            manifest: None,
            outputs: Vec::new(),
            reused_from: None,
            time: Timestamp::now(),
        }
    }

    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_else(|error| unreachable!("plain data: {error}"))
    }
}

impl From<&FileEntry> for EventFile {
    fn from(file: &FileEntry) -> Self {
        Self { name: file.name.clone(), size: file.size, sha256: file.sha256.clone() }
    }
}
