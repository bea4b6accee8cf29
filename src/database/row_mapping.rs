//! Maps columns to values, for both databases.

use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{Row, postgres::PgRow, sqlite::SqliteRow};
use tracing::warn;

use super::{
    outbox::{OutboxId, OutboxRow},
    row::{Attempt, JobRow, Published, Rejection},
};
use crate::job::{Epoch, JobError, JobKind, JobRequest, TraceContext};

/// The columns of `jobs` for a [`JobRow`], by name, so that a statement prepared by a running worker stays valid when a
/// newer version adds a column.
macro_rules! job_columns {
    () => {
        "id, request, batch, state, attempts, epoch, claim, retired_epoch, worker, lease_until, available_at, cancel_requested, local, \
         progress, error, manifest, result_root, outputs, caption, fidelity, content_key, reused_from, reuse, created_at, started_at, \
         updated_at, finished_at, traceparent, tracestate"
    };
}
pub(super) use job_columns;

/// A job with its attempts, oldest first: one row for each, and one row for a job without attempts.
pub(super) const JOB_WITH_ATTEMPTS: &str = concat!(
    "SELECT jobs.*, attempts.* FROM (SELECT ",
    job_columns!(),
    " FROM jobs WHERE id = $1) AS jobs
       LEFT JOIN (SELECT job, epoch AS attempt_epoch, attempt, worker AS attempt_worker, started_at AS attempt_started,
                         ended_at AS attempt_ended, outcome, error AS attempt_error, traceparent AS attempt_traceparent
                    FROM attempts) AS attempts
         ON attempts.job = jobs.id
      ORDER BY attempt_epoch"
);

/// Access by column name for the few types that occur.
pub(super) trait Columns {
    fn maybe_text(&self, column: &str) -> Result<Option<String>, JobError>;
    fn maybe_number(&self, column: &str) -> Result<Option<i64>, JobError>;
    fn flag(&self, column: &str) -> Result<bool, JobError>;
    fn maybe_real(&self, column: &str) -> Result<Option<f64>, JobError>;

    fn text(&self, column: &str) -> Result<String, JobError> {
        self.maybe_text(column)?.ok_or_else(|| self.unreadable(column, "is missing"))
    }

    fn number(&self, column: &str) -> Result<i64, JobError> {
        self.maybe_number(column)?.ok_or_else(|| self.unreadable(column, "is missing"))
    }

    fn small<T: TryFrom<i64>>(&self, column: &str) -> Result<T, JobError> {
        let number = self.number(column)?;
        T::try_from(number).map_err(|_| self.unreadable(column, &format!("{number} is out of bounds")))
    }

    fn maybe_time(&self, column: &str) -> Result<Option<Timestamp>, JobError> {
        let Some(ms) = self.maybe_number(column)? else { return Ok(None) };
        Timestamp::from_millisecond(ms).map(Some).map_err(|error| self.unreadable(column, &error.to_string()))
    }

    fn time(&self, column: &str) -> Result<Timestamp, JobError> {
        self.maybe_time(column)?.ok_or_else(|| self.unreadable(column, "is missing"))
    }

    fn json<T: DeserializeOwned>(&self, column: &str) -> Result<Option<T>, JobError> {
        let Some(text) = self.maybe_text(column)? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|error| self.unreadable(column, &error.to_string()))
    }

    /// A text that one of our types parses.
    fn word<T: std::str::FromStr<Err: std::fmt::Display>>(&self, column: &str) -> Result<T, JobError> {
        self.text(column)?.parse().map_err(|error: T::Err| self.unreadable(column, &error.to_string()))
    }

    /// [`Columns::word`], if there is one.
    fn maybe_word<T: std::str::FromStr<Err: std::fmt::Display>>(&self, column: &str) -> Result<Option<T>, JobError> {
        if self.maybe_text(column)?.is_some() { self.word(column).map(Some) } else { Ok(None) }
    }

    fn unreadable(&self, column: &str, reason: &str) -> JobError {
        let id = self.maybe_text("id").ok().flatten().unwrap_or_else(|| "?".to_owned());
        JobError::database(format!("row of job {id}, column {column}: {reason}"))
    }
}

macro_rules! columns_of {
    ($row:ty) => {
        impl Columns for $row {
            fn maybe_text(&self, column: &str) -> Result<Option<String>, JobError> {
                self.try_get(column).map_err(wrong_type)
            }

            fn maybe_number(&self, column: &str) -> Result<Option<i64>, JobError> {
                self.try_get(column).map_err(wrong_type)
            }

            fn flag(&self, column: &str) -> Result<bool, JobError> {
                self.try_get(column).map_err(wrong_type)
            }

            fn maybe_real(&self, column: &str) -> Result<Option<f64>, JobError> {
                self.try_get(column).map_err(wrong_type)
            }
        }
    };
}
columns_of!(SqliteRow);
columns_of!(PgRow);

fn wrong_type(error: sqlx::Error) -> JobError {
    JobError::database(error.to_string()).caused_by(error)
}

pub(super) fn read_job(row: &impl Columns) -> Result<JobRow, JobError> {
    let request = row.text("request")?;
    let published = match row.maybe_text("manifest")? {
        Some(manifest) => Some(Published {
            manifest,
            root: row.maybe_text("result_root")?,
            files: row.json("outputs")?.unwrap_or_default(),
            caption: row.maybe_text("caption")?,
            fidelity: row.json("fidelity")?,
            content_key: row.maybe_text("content_key")?,
            reused_from: row.maybe_word("reused_from")?,
        }),
        None => None,
    };
    Ok(JobRow {
        request: JobRequest::from_stored(&request).map_err(|error| row.unreadable("request", &error.to_string()))?,
        batch: row.maybe_word("batch")?,
        state: row.word("state")?,
        attempts: row.small("attempts")?,
        epoch: Epoch(row.number("epoch")?),
        claim: row.maybe_word("claim")?,
        retired: Epoch(row.number("retired_epoch")?),
        progress: row.json("progress")?,
        error: row.json("error")?,
        cancel_requested: row.flag("cancel_requested")?,
        local: row.flag("local")?,
        reuse: row.flag("reuse")?,
        worker: row.maybe_text("worker")?,
        lease_until: row.maybe_time("lease_until")?,
        available_at: row.time("available_at")?,
        trace: read_trace(row)?,
        published,
        created_at: row.time("created_at")?,
        started_at: row.maybe_time("started_at")?,
        updated_at: row.time("updated_at")?,
        finished_at: row.maybe_time("finished_at")?,
    })
}

/// The row; an unreadable row is logged and left out, so that it does not hide the others.
pub(super) fn readable(row: &impl Columns) -> Option<JobRow> {
    read_job(row).inspect_err(|error| warn!("left out: {error}")).ok()
}

/// Whether this version knows the row's kind; a newer version may have others.
pub(super) fn is_of_known_kind(row: &impl Columns) -> bool {
    row.word::<JobKind>("kind").is_ok()
}

/// The rows of [`JOB_WITH_ATTEMPTS`].
pub(super) fn read_with_attempts(rows: &[impl Columns]) -> Result<Option<(JobRow, Vec<Attempt>)>, JobError> {
    let Some(first) = rows.first() else { return Ok(None) };
    let attempts = match first.maybe_number("attempt_epoch")? {
        Some(_) => rows.iter().map(read_attempt).collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    Ok(Some((read_job(first)?, attempts)))
}

fn read_attempt(row: &impl Columns) -> Result<Attempt, JobError> {
    Ok(Attempt {
        attempt: row.small("attempt")?,
        epoch: Epoch(row.number("attempt_epoch")?),
        worker: row.text("attempt_worker")?,
        started_at: row.time("attempt_started")?,
        ended_at: row.maybe_time("attempt_ended")?,
        outcome: row.maybe_text("outcome")?,
        error: row.json("attempt_error")?,
        trace_id: read_attempt_trace(row)?.map(|trace| trace.trace_id().to_owned()),
    })
}

pub(super) fn read_rejection(row: &impl Columns) -> Result<Rejection, JobError> {
    Ok(Rejection {
        id: row.word("id")?,
        received_at: row.time("received_at")?,
        error: row.json("error")?.ok_or_else(|| row.unreadable("error", "is missing"))?,
        body: row.text("body")?,
    })
}

/// The row's number is called `message`, because `id` means the job everywhere else.
pub(super) fn read_outbox(row: &impl Columns) -> Result<OutboxRow, JobError> {
    Ok(OutboxRow {
        id: OutboxId(row.number("message")?),
        job: row.word("job")?,
        topic: row.word("topic")?,
        kind: row.word("kind")?,
        priority: row.small("priority")?,
        payload: row.text("payload")?,
        trace: read_trace(row)?,
        attempt: read_attempt_trace(row)?,
        refusals: row.small("refusals")?,
        available_at: row.time("available_at")?,
        created_at: row.time("created_at")?,
    })
}

/// What is not valid is left out: a trace never keeps a job from running.
pub(super) fn read_trace(row: &impl Columns) -> Result<Option<TraceContext>, JobError> {
    let (parent, state) = (row.maybe_text("traceparent")?, row.maybe_text("tracestate")?);
    Ok(TraceContext::read("the job's row", parent.as_deref(), state.as_deref()))
}

/// The span of an attempt.
pub(super) fn read_attempt_trace(row: &impl Columns) -> Result<Option<TraceContext>, JobError> {
    let parent = row.maybe_text("attempt_traceparent")?;
    Ok(TraceContext::read("the attempt's row", parent.as_deref(), None))
}

/// Our own values can always be serialized; the error is for a value that cannot.
pub(super) fn to_json<T: Serialize>(value: &T) -> Result<String, JobError> {
    serde_json::to_string(value).map_err(|error| JobError::database(error.to_string()).caused_by(error))
}

/// `now + duration` in milliseconds.
pub(super) fn after(now: i64, duration: std::time::Duration) -> i64 {
    now.saturating_add(milliseconds(duration))
}

pub(super) fn milliseconds(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

pub(super) fn timestamp(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX)
}
