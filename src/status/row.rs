//! A row of `jobs` and of `attempts`, as plain values.

use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{Row, sqlite::SqliteRow};

use super::sqlite::database;
use crate::job::{Epoch, ErrorRecord, FileEntry, JobError, JobId, JobRequest, JobState, Progress};

#[derive(Debug, Clone, PartialEq)]
pub struct JobRow {
    pub request: JobRequest,
    pub state: JobState,
    pub attempts: u32,
    pub epoch: Epoch,
    pub progress: Option<Progress>,
    /// Of the last attempt while the job may still be tried again, else the reason that it ended.
    pub error: Option<ErrorRecord>,
    pub cancel_requested: bool,
    /// Who holds the lease, and until when.
    pub worker: Option<String>,
    pub lease_until: Option<Timestamp>,
    /// Not claimed before this time.
    pub available_at: Timestamp,
    /// Present when the job succeeded.
    pub published: Option<Published>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub finished_at: Option<Timestamp>,
}

impl JobRow {
    pub fn id(&self) -> JobId {
        self.request.id
    }
}

/// A result: the object key of its manifest, whose folder holds the files.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    pub manifest: String,
    pub files: Vec<FileEntry>,
}

/// One claim of a job and how it ended; `outcome` is absent while it runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Attempt {
    pub attempt: u32,
    pub epoch: Epoch,
    pub worker: String,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    /// `succeeded`, `failed`, `requeued`, `cancelled`, or `lost` when another worker took over.
    pub outcome: Option<String>,
    pub error: Option<ErrorRecord>,
}

pub(super) fn read_job(row: &SqliteRow) -> Result<JobRow, JobError> {
    let request: String = get(row, "request")?;
    let state: String = get(row, "state")?;
    let manifest: Option<String> = get(row, "manifest")?;
    let published = match manifest {
        Some(manifest) => Some(Published { manifest, files: read_json(row, "outputs")?.unwrap_or_default() }),
        None => None,
    };
    Ok(JobRow {
        request: JobRequest::from_stored(&request).map_err(|error| unreadable(row, "request", &error.to_string()))?,
        state: state.parse().map_err(|error: String| unreadable(row, "state", &error))?,
        attempts: get(row, "attempts")?,
        epoch: Epoch(get(row, "epoch")?),
        progress: read_json(row, "progress")?,
        error: read_json(row, "error")?,
        cancel_requested: get(row, "cancel_requested")?,
        worker: get(row, "worker")?,
        lease_until: read_time(row, "lease_until")?,
        available_at: need_time(row, "available_at")?,
        published,
        created_at: need_time(row, "created_at")?,
        updated_at: need_time(row, "updated_at")?,
        finished_at: read_time(row, "finished_at")?,
    })
}

pub(super) fn read_attempt(row: &SqliteRow) -> Result<Attempt, JobError> {
    Ok(Attempt {
        attempt: get(row, "attempt")?,
        epoch: Epoch(get(row, "epoch")?),
        worker: get(row, "worker")?,
        started_at: need_time(row, "started_at")?,
        ended_at: read_time(row, "ended_at")?,
        outcome: get(row, "outcome")?,
        error: read_json(row, "error")?,
    })
}

/// Our own values always serialise; the error is for a value that cannot.
pub(super) fn to_json<T: Serialize>(value: &T) -> Result<String, JobError> {
    serde_json::to_string(value).map_err(|error| JobError::Database { reason: error.to_string() })
}

pub(super) fn get<'r, T>(row: &'r SqliteRow, column: &str) -> Result<T, JobError>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    row.try_get(column).map_err(database)
}

fn read_json<T: DeserializeOwned>(row: &SqliteRow, column: &str) -> Result<Option<T>, JobError> {
    let Some(text) = get::<Option<String>>(row, column)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|error| unreadable(row, column, &error.to_string()))
}

fn read_time(row: &SqliteRow, column: &str) -> Result<Option<Timestamp>, JobError> {
    let Some(ms) = get::<Option<i64>>(row, column)? else { return Ok(None) };
    Timestamp::from_millisecond(ms).map(Some).map_err(|error| unreadable(row, column, &error.to_string()))
}

fn need_time(row: &SqliteRow, column: &str) -> Result<Timestamp, JobError> {
    read_time(row, column)?.ok_or_else(|| unreadable(row, column, "is missing"))
}

fn unreadable(row: &SqliteRow, column: &str, reason: &str) -> JobError {
    let id = row.try_get::<String, _>("id").unwrap_or_else(|_| "?".to_owned());
    JobError::Database { reason: format!("row of job {id}, column {column}: {reason}") }
}
