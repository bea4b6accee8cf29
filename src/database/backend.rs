//! One interface for both databases.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    Attempt, BatchSummary, Beat, CancelOutcome, Changes, Claim, ClaimRules, DatabaseUrl, Depth, Fenced, Filter, JobRow,
    OutboxId, OutboxMode, OutboxRow, Page, PostgresJobStore, PruneRules, Pruned, Published, Rejection, RetryOutcome,
    SqliteJobStore, SubmitOptions, Submitted, WebhookId, WebhookRow,
};
use crate::job::{BatchId, Epoch, ErrorRecord, JobError, JobId, JobRequest, JobState, Progress};

/// Job rows in either database; clones share its connections.
#[derive(Debug, Clone)]
pub enum JobStore {
    Sqlite(SqliteJobStore),
    Postgres(PostgresJobStore),
}

macro_rules! both {
    ($self:ident, $status:ident => $call:expr) => {
        match $self {
            Self::Sqlite($status) => $call,
            Self::Postgres($status) => $call,
        }
    };
}

impl JobStore {
    /// Connects and migrates the tables.
    pub async fn open(place: &DatabaseUrl, mode: OutboxMode) -> Result<Self, JobError> {
        Ok(match place {
            DatabaseUrl::Sqlite(path) => Self::Sqlite(SqliteJobStore::open(path, mode).await?),
            DatabaseUrl::Postgres(url) => Self::Postgres(PostgresJobStore::open(url, mode).await?),
        })
    }

    /// The database's address, without a password.
    pub fn place(&self) -> String {
        both!(self, status => status.place())
    }

    pub async fn close(&self) {
        both!(self, status => status.close().await);
    }

    /// Checks that the database responds.
    pub async fn ping(&self) -> Result<(), JobError> {
        both!(self, status => status.ping().await)
    }

    /// Accepts a job. The same id again is the same job; the same id with another body is refused.
    pub async fn submit(&self, request: &JobRequest, options: &SubmitOptions) -> Result<Submitted, JobError> {
        both!(self, status => status.submit(request, options).await)
    }

    /// Accepts many jobs, each as in [`JobStore::submit`], in few transactions. Returns one outcome per request, in
    /// order; after an error, all of them may be submitted again.
    pub async fn submit_many(
        &self,
        requests: &[JobRequest],
        options: &SubmitOptions,
    ) -> Vec<Result<Submitted, JobError>> {
        both!(self, status => status.submit_many(requests, options).await)
    }

    /// Claims a queued job, or a running one whose lease has ended or whose worker is dead.
    pub async fn claim(&self, id: JobId, rules: &ClaimRules<'_>) -> Result<Claim, JobError> {
        both!(self, status => status.claim(id, rules).await)
    }

    /// Renews the lease and writes progress, whose sequence never decreases.
    pub async fn heartbeat(
        &self,
        id: JobId,
        epoch: Epoch,
        lease: Duration,
        progress: Option<&Progress>,
    ) -> Result<Fenced<Beat>, JobError> {
        both!(self, status => status.heartbeat(id, epoch, lease, progress).await)
    }

    /// Publishes a result: the change to `succeeded` sets the manifest's key. This and the other endings may be
    /// repeated if the reply was lost: nothing is written twice.
    pub async fn succeed(&self, id: JobId, epoch: Epoch, result: &Published) -> Result<Fenced<JobRow>, JobError> {
        both!(self, status => status.succeed(id, epoch, result).await)
    }

    pub async fn fail(&self, id: JobId, epoch: Epoch, error: &ErrorRecord) -> Result<Fenced<JobRow>, JobError> {
        both!(self, status => status.fail(id, epoch, error).await)
    }

    /// Requeues the job for another attempt after `delay`. If its cancellation was requested in the meantime, it is
    /// cancelled instead.
    pub async fn requeue(
        &self,
        id: JobId,
        epoch: Epoch,
        error: &ErrorRecord,
        delay: Duration,
    ) -> Result<Fenced<JobRow>, JobError> {
        both!(self, status => status.requeue(id, epoch, error, delay).await)
    }

    /// Requeues the job at once because its worker stops; the attempt does not count.
    pub async fn give_back(&self, id: JobId, epoch: Epoch) -> Result<Fenced<JobRow>, JobError> {
        both!(self, status => status.give_back(id, epoch).await)
    }

    pub async fn cancelled(&self, id: JobId, epoch: Epoch) -> Result<Fenced<JobRow>, JobError> {
        both!(self, status => status.cancelled(id, epoch).await)
    }

    /// Requests the cancellation of a job. A job without a live worker (see [`ClaimRules::is_dead`]) is cancelled at
    /// once.
    pub async fn cancel(&self, id: JobId, is_dead: &(dyn Fn(&str) -> bool + Sync)) -> Result<CancelOutcome, JobError> {
        both!(self, status => status.cancel(id, is_dead).await)
    }

    /// Requests the cancellation of all jobs of a batch; returns their number.
    pub async fn cancel_batch(&self, batch: &BatchId) -> Result<u64, JobError> {
        both!(self, status => status.cancel_batch(batch).await)
    }

    /// Requeues a failed or cancelled job.
    pub async fn retry(&self, id: JobId) -> Result<RetryOutcome, JobError> {
        both!(self, status => status.retry(id).await)
    }

    /// Stores a refused message that has an id, and the reason. Returns false and writes nothing if the id belongs to a
    /// job.
    pub async fn reject(&self, id: JobId, raw: &str, error: &ErrorRecord) -> Result<bool, JobError> {
        both!(self, status => status.reject(id, raw, error).await)
    }

    /// The refused message with this id.
    pub async fn rejection(&self, id: JobId) -> Result<Option<Rejection>, JobError> {
        both!(self, status => status.rejection(id).await)
    }

    pub async fn get(&self, id: JobId) -> Result<Option<JobRow>, JobError> {
        both!(self, status => status.get(id).await)
    }

    /// The jobs among these ids that exist and can be read, in any order.
    pub async fn get_many(&self, ids: &[JobId]) -> Result<Vec<JobRow>, JobError> {
        both!(self, status => status.get_many(ids).await)
    }

    pub async fn list(&self, filter: &Filter) -> Result<Page, JobError> {
        both!(self, status => status.list(filter).await)
    }

    /// The newest unfinished job with this body, left by a process that was killed.
    pub async fn find_unfinished(&self, fingerprint: &str) -> Result<Option<JobRow>, JobError> {
        both!(self, status => status.find_unfinished(fingerprint).await)
    }

    /// A job and its attempts, oldest first.
    pub async fn get_with_attempts(&self, id: JobId) -> Result<Option<(JobRow, Vec<Attempt>)>, JobError> {
        both!(self, status => status.get_with_attempts(id).await)
    }

    /// The number of jobs in each state.
    pub async fn count(&self) -> Result<Vec<(JobState, i64)>, JobError> {
        both!(self, status => status.count().await)
    }

    /// The queued jobs by kind.
    pub async fn queue_depth(&self) -> Result<Vec<Depth>, JobError> {
        both!(self, status => status.queue_depth().await)
    }

    /// Jobs that can be claimed now, most urgent first; they fill the in-process queue.
    pub async fn due(&self, limit: u32) -> Result<Vec<(JobId, u8, Timestamp)>, JobError> {
        both!(self, status => status.due(limit).await)
    }

    /// Batches, newest jobs first.
    pub async fn batches(&self, limit: u32) -> Result<Vec<BatchId>, JobError> {
        both!(self, status => status.batches(limit).await)
    }

    /// Absent if no job has this batch.
    pub async fn batch_summary(&self, batch: &BatchId) -> Result<Option<BatchSummary>, JobError> {
        both!(self, status => status.batch_summary(batch).await)
    }

    /// The jobs of a batch in order of arrival, after a given one.
    pub async fn batch_rows(&self, batch: &BatchId, after: Option<JobId>, limit: u32) -> Result<Vec<JobRow>, JobError> {
        both!(self, status => status.batch_rows(batch, after, limit).await)
    }

    /// Ended jobs that may be deleted, oldest first. Delete their objects, then [`JobStore::forget`] them.
    pub async fn prunable(&self, rules: &PruneRules) -> Result<Vec<Pruned>, JobError> {
        both!(self, status => status.prunable(rules).await)
    }

    /// Deletes the rows of ended jobs with their history; returns their number.
    pub async fn forget(&self, ids: &[JobId]) -> Result<u64, JobError> {
        both!(self, status => status.forget(ids).await)
    }

    /// Deletes refused messages that were received before a time.
    pub async fn forget_rejections(&self, before: Timestamp) -> Result<u64, JobError> {
        both!(self, status => status.forget_rejections(before).await)
    }

    /// Takes due messages for the time of `lease`; no other relay gets them meanwhile.
    pub async fn outbox_take(&self, limit: u32, lease: Duration) -> Result<Vec<OutboxRow>, JobError> {
        both!(self, status => status.outbox_take(limit, lease).await)
    }

    /// Deletes messages that the broker has confirmed.
    pub async fn outbox_done(&self, ids: &[OutboxId]) -> Result<(), JobError> {
        both!(self, status => status.outbox_done(ids).await)
    }

    /// Messages that could not be sent become due again after `delay`.
    pub async fn outbox_release(&self, ids: &[OutboxId], delay: Duration) -> Result<(), JobError> {
        both!(self, status => status.outbox_release(ids, delay).await)
    }

    /// Takes due webhook calls for the time of `lease`; no other server gets them meanwhile.
    pub async fn webhooks_take(&self, limit: u32, lease: Duration) -> Result<Vec<WebhookRow>, JobError> {
        both!(self, status => status.webhooks_take(limit, lease).await)
    }

    /// The call succeeded.
    pub async fn webhook_done(&self, id: WebhookId) -> Result<(), JobError> {
        both!(self, status => status.webhook_done(id).await)
    }

    /// The call failed: it becomes due again after a pause, or is given up.
    pub async fn webhook_failed(&self, id: WebhookId, error: &str, again: Option<Duration>) -> Result<(), JobError> {
        both!(self, status => status.webhook_failed(id, error, again).await)
    }

    /// Dispatches jobs again that seem lost: running jobs whose lease has ended, and queued ones that nobody has
    /// claimed within `grace` after their message was sent. The time until the next repetition doubles, so that a long
    /// queue does not fill up with repetitions. Returns the number of messages written.
    pub async fn reap(&self, grace: Duration) -> Result<u64, JobError> {
        both!(self, status => status.reap(grace).await)
    }

    /// Wakes when rows change.
    pub fn changes(&self) -> Changes {
        both!(self, status => status.changes())
    }
}
