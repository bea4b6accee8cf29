//! The interface for both databases, for what goes out and what is recorded: answers, webhook calls and the audit log.

use std::time::Duration;

use super::{
    Action, ActionFilter, ActionPage, JobStore, Subject, Submissions, WebhookId, WebhookLimits, WebhookRow,
    backend::in_either,
};
use crate::job::{BatchId, JobError, JobId};

// Answers to messages that ask for one. Until the job ends, the address is kept in the place of a webhook's.
in_either! {
    /// Keeps the address with an unfinished job that has none yet. Returns false if the job has ended or does not
    /// exist.
    async fn want_reply(&self, id: JobId, address: &str) -> Result<bool, JobError>;

    /// Takes due answers for the duration of `lease`; no other worker gets them during that time.
    async fn replies_take(&self, limit: u32, lease: Duration) -> Result<Vec<WebhookRow>, JobError>;
}

// Webhook calls.
in_either! {
    /// Calls this address when the batch has ended, once. `again`: also if it was called before, because the batch has
    /// new jobs.
    async fn watch_batch(&self, batch: &BatchId, url: &str, again: bool) -> Result<(), JobError>;

    /// Some of the batches that have ended and whose addresses were not called yet.
    async fn ended_batches(&self) -> Result<Vec<BatchId>, JobError>;

    /// Makes the calls of a batch due, unless it goes on after all; returns their number. It may be repeated.
    async fn call_batch_webhooks(&self, batch: &BatchId, payload: &str) -> Result<u64, JobError>;

    /// Takes due webhook calls for the duration of `lease`; no other server gets them during that time. The origins
    /// take turns, and none gets more than its part.
    async fn webhooks_take(&self, limits: &WebhookLimits, lease: Duration) -> Result<Vec<WebhookRow>, JobError>;

    /// The call succeeded.
    async fn webhook_done(&self, id: WebhookId) -> Result<(), JobError>;

    /// The call failed: it becomes due again after a pause, or is given up.
    async fn webhook_failed(&self, id: WebhookId, error: &str, again: Option<Duration>) -> Result<(), JobError>;
}

// Who did what.
in_either! {
    /// Records what was done outside the database, such as with dead letters. Does nothing without an actor.
    async fn record(
        &self,
        action: Action,
        subject: Subject<'_>,
        jobs: u64,
        detail: &serde_json::Value,
    ) -> Result<(), JobError>;

    async fn list_actions(&self, filter: &ActionFilter) -> Result<ActionPage, JobError>;

    /// The new jobs of an actor within the last time of this length.
    async fn submissions(&self, actor: &str, within: Duration) -> Result<Submissions, JobError>;

    /// Whether this actor submitted the job, as one of its own, and not an earlier one with its id.
    async fn is_submitted_by(&self, id: JobId, actor: &str) -> Result<bool, JobError>;

    /// Deletes entries that are older than this; returns their number.
    async fn forget_actions(&self, older_than: Duration) -> Result<u64, JobError>;
}
