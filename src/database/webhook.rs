//! Calls that must be made because a job has ended: an outbox of their own, since no broker takes them.

use std::fmt;

use jiff::Timestamp;

use super::row_mapping::Columns;
use crate::job::{JobError, JobId};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WebhookId(pub(super) i64);

impl fmt::Display for WebhookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A call that is due. Its address may carry a secret of its owner: it has no place in a log.
#[derive(Clone, PartialEq)]
pub struct WebhookRow {
    pub id: WebhookId,
    pub job: JobId,
    pub url: String,
    /// JSON, a [`crate::job::JobEvent`].
    pub payload: String,
    /// Tries before this one.
    pub attempts: u32,
    pub created_at: Timestamp,
}

/// `call` names the row's number, because `id` means the job everywhere else.
pub(super) fn read_webhook(row: &impl Columns) -> Result<WebhookRow, JobError> {
    Ok(WebhookRow {
        id: WebhookId(row.number("call")?),
        job: row.word("id")?,
        url: row.text("url")?,
        payload: row.text("payload")?,
        attempts: row.small("attempts")?,
        created_at: row.time("created_at")?,
    })
}
