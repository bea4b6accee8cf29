//! Webhook calls for ended jobs: a separate outbox, because they do not go through a broker.

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;

use super::{
    JobStore,
    row_mapping::{Columns, read_attempt_trace, read_trace, to_json},
};
use crate::job::{BatchEvent, JobError, JobId, JobState, TraceContext};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WebhookId(pub(super) i64);

impl fmt::Display for WebhookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A due call. Its address may contain a secret, so it must not be logged.
#[derive(Clone, PartialEq)]
pub struct WebhookRow {
    pub id: WebhookId,
    pub job: JobId,
    pub url: String,
    /// JSON, a [`crate::job::JobEvent`] or [`BatchEvent`].
    pub payload: String,
    /// The attempts before this one.
    pub attempts: u32,
    /// The job's.
    pub trace: Option<TraceContext>,
    /// The span of the job's last attempt.
    pub attempt: Option<TraceContext>,
    pub created_at: Timestamp,
    /// Scheme, host and port of `url`.
    pub origin: String,
}

/// How many calls may be taken, so that no receiver gets in the way of the others.
#[derive(Debug, Clone, Default)]
pub struct WebhookLimits {
    pub calls: u32,
    /// At the same time, for each origin.
    pub of_origin: u32,
    /// How many of these each origin has in use.
    pub in_use: BTreeMap<String, u32>,
}

impl WebhookLimits {
    /// The origins that may not be called now.
    pub(super) fn full(&self) -> Vec<&str> {
        self.in_use.iter().filter(|(_, calls)| **calls >= self.of_origin).map(|(origin, _)| origin.as_str()).collect()
    }
}

/// So many due calls, the oldest, are looked at for the next ones. Those to origins that may not be called do not
/// count.
pub(super) const WINDOW: u32 = 1000;

impl JobStore {
    /// Makes the calls due for batches that have ended; returns their number. Jobs that were deleted before the end of
    /// their batch are not counted.
    pub async fn end_batches(&self) -> Result<u64, JobError> {
        let mut calls = 0;
        for batch in self.ended_batches().await? {
            let Some(summary) = self.batch_summary(&batch).await? else { continue };
            let errors = self.error_counts(&batch).await?;
            let errors = errors.into_iter().filter(|count| count.state == JobState::Failed);
            let event = BatchEvent {
                version: BatchEvent::VERSION,
                event: BatchEvent::ENDED.to_owned(),
                jobs: summary.total(),
                succeeded: summary.in_state(JobState::Succeeded),
                failed: summary.in_state(JobState::Failed),
                cancelled: summary.in_state(JobState::Cancelled),
                errors: errors.map(|count| (count.code, count.jobs)).collect(),
                time: summary.last_finished.unwrap_or(summary.first_created),
                batch: batch.clone(),
            };
            calls += self.call_batch_webhooks(&batch, &to_json(&event)?).await?;
        }
        Ok(calls)
    }
}

/// The row's number is called `call`, because `id` means the job everywhere else.
pub(super) fn read_webhook(row: &impl Columns) -> Result<WebhookRow, JobError> {
    Ok(WebhookRow {
        id: WebhookId(row.number("call")?),
        job: row.word("id")?,
        url: row.text("url")?,
        payload: row.text("payload")?,
        attempts: row.small("attempts")?,
        trace: read_trace(row)?,
        attempt: read_attempt_trace(row)?,
        created_at: row.time("created_at")?,
        origin: row.text("origin")?,
    })
}
