//! One interface for both databases.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    Admission, Attempt, BatchSummary, Beat, CancelOutcome, Changes, Claim, ClaimRules, DatabaseUrl, Depth, ErrorCount,
    Fenced, Filter, JobRow, OutboxId, OutboxMode, OutboxRow, Page, Place, PostgresJobStore, PrunePage, PruneRules,
    Published, Rejection, RetryOutcome, RetryRules, SqliteJobStore, SubmitOptions, Submitted, Swept, WebhookId,
    WebhookRow,
};
use crate::job::{BatchId, Epoch, ErrorRecord, JobError, JobId, JobRequest, JobState, Progress};

/// Job rows in either database; clones share its connections.
#[derive(Debug, Clone)]
pub enum JobStore {
    Sqlite(SqliteJobStore),
    Postgres(PostgresJobStore),
}

/// Methods that both databases have, with the same name; each calls the one of the current database.
macro_rules! in_either {
    ($($(#[$doc:meta])* async fn $name:ident(&self $(, $arg:ident: $type:ty)* $(,)?) $(-> $out:ty)?;)*) => {
        impl JobStore {
            $($(#[$doc])*
            pub async fn $name(&self $(, $arg: $type)*) $(-> $out)? {
                match self {
                    Self::Sqlite(store) => store.$name($($arg),*).await,
                    Self::Postgres(store) => store.$name($($arg),*).await,
                }
            })*
        }
    };
}

impl JobStore {
    /// Connects and migrates the tables.
    pub async fn open(url: &DatabaseUrl, mode: OutboxMode) -> Result<Self, JobError> {
        Ok(match url {
            DatabaseUrl::Sqlite(path) => Self::Sqlite(SqliteJobStore::open(path, mode).await?),
            DatabaseUrl::Postgres(url) => Self::Postgres(PostgresJobStore::open(url, mode).await?),
        })
    }

    /// The database's address, without a password.
    pub fn place(&self) -> String {
        match self {
            Self::Sqlite(store) => store.place(),
            Self::Postgres(store) => store.place(),
        }
    }

    /// Wakes when rows change.
    pub fn changes(&self) -> Changes {
        match self {
            Self::Sqlite(store) => store.changes(),
            Self::Postgres(store) => store.changes(),
        }
    }
}

// Jobs.
in_either! {
    async fn close(&self);

    /// Checks that the database responds.
    async fn ping(&self) -> Result<(), JobError>;

    /// Accepts a job. The same id again is the same job; the same id with another body is refused.
    async fn submit(&self, request: &JobRequest, options: &SubmitOptions) -> Result<Submitted, JobError>;

    /// Accepts many jobs, each as in [`JobStore::submit`], in few transactions. Returns one outcome per request, in
    /// order; after an error, all of them may be submitted again.
    async fn submit_many(
        &self,
        requests: &[JobRequest],
        options: &SubmitOptions,
    ) -> Vec<Result<Submitted, JobError>>;

    /// Accepts a job by a message of another client, unless it had ended and was deleted.
    async fn submit_message(&self, request: &JobRequest) -> Result<Admission, JobError>;

    /// When a job with this id was deleted; absent if it never was, or long ago ([`JobStore::forget_tombstones`]).
    async fn deleted_at(&self, id: JobId) -> Result<Option<Timestamp>, JobError>;

    /// Claims a queued job, or a running one whose lease has ended or whose worker is dead.
    async fn claim(&self, id: JobId, rules: &ClaimRules<'_>) -> Result<Claim, JobError>;

    /// Renews the lease and writes progress, whose sequence never decreases.
    async fn heartbeat(
        &self,
        id: JobId,
        epoch: Epoch,
        lease: Duration,
        progress: Option<&Progress>,
    ) -> Result<Fenced<Beat>, JobError>;

    /// Publishes a result: the change to `succeeded` sets the manifest's key. This and the other endings may be
    /// repeated if the reply was lost: nothing is written twice.
    async fn succeed(&self, id: JobId, epoch: Epoch, result: &Published) -> Result<Fenced<JobRow>, JobError>;

    /// Like [`JobStore::succeed`], for a result that was in the store already, from the attempt at `made_at`. The row
    /// gets that epoch, so that the end is told as it was, or would have been, then.
    async fn adopt(
        &self,
        id: JobId,
        epoch: Epoch,
        result: &Published,
        made_at: Epoch,
    ) -> Result<Fenced<JobRow>, JobError>;

    async fn fail(&self, id: JobId, epoch: Epoch, error: &ErrorRecord) -> Result<Fenced<JobRow>, JobError>;

    /// Requeues the job for another attempt after `delay`. If its cancellation was requested in the meantime, it is
    /// cancelled instead.
    async fn requeue(
        &self,
        id: JobId,
        epoch: Epoch,
        error: &ErrorRecord,
        delay: Duration,
    ) -> Result<Fenced<JobRow>, JobError>;

    /// Requeues the job at once because its worker stops; the attempt does not count.
    async fn give_back(&self, id: JobId, epoch: Epoch) -> Result<Fenced<JobRow>, JobError>;

    async fn cancelled(&self, id: JobId, epoch: Epoch) -> Result<Fenced<JobRow>, JobError>;

    /// Requests the cancellation of a job. A job without a live worker (see [`ClaimRules::is_dead`]) is cancelled at
    /// once.
    async fn cancel(&self, id: JobId, is_dead: &(dyn Fn(&str) -> bool + Sync)) -> Result<CancelOutcome, JobError>;

    /// Cancels some of the queued jobs of a batch, in order of arrival; see [`JobStore::cancel_batch`].
    async fn cancel_queued(&self, batch: &BatchId, after: Option<Place>) -> Result<Swept, JobError>;

    /// Asks the workers of a batch's running jobs to stop; returns the number of those that had not been asked.
    async fn cancel_running(&self, batch: &BatchId) -> Result<u64, JobError>;

    /// Requeues some of the jobs that the rules choose, in order of arrival; see [`JobStore::retry_batch`].
    async fn retry_some(&self, rules: &RetryRules, after: Option<Place>) -> Result<Swept, JobError>;

    /// The errors of a batch's failed and cancelled jobs, the most frequent first.
    async fn error_counts(&self, batch: &BatchId) -> Result<Vec<ErrorCount>, JobError>;

    /// Requeues a failed or cancelled job.
    async fn retry(&self, id: JobId) -> Result<RetryOutcome, JobError>;

    /// Stores a refused message that has an id, and the reason. Returns false and writes nothing if the id belongs to a
    /// job.
    async fn reject(&self, id: JobId, raw: &str, error: &ErrorRecord) -> Result<bool, JobError>;

    /// The refused message with this id.
    async fn rejection(&self, id: JobId) -> Result<Option<Rejection>, JobError>;

    async fn get(&self, id: JobId) -> Result<Option<JobRow>, JobError>;

    /// The jobs among these ids that exist and can be read, in any order.
    async fn get_many(&self, ids: &[JobId]) -> Result<Vec<JobRow>, JobError>;

    async fn list(&self, filter: &Filter) -> Result<Page, JobError>;

    /// The newest unfinished job with this body, left by a process that was killed.
    async fn find_unfinished(&self, fingerprint: &str) -> Result<Option<JobRow>, JobError>;

    /// A job and its attempts, oldest first.
    async fn get_with_attempts(&self, id: JobId) -> Result<Option<(JobRow, Vec<Attempt>)>, JobError>;

    /// The number of jobs in each state.
    async fn count(&self) -> Result<Vec<(JobState, i64)>, JobError>;

    /// The queued jobs by kind.
    async fn queue_depth(&self) -> Result<Vec<Depth>, JobError>;

    /// Jobs that can be claimed now, most urgent first; they fill the in-process queue.
    async fn due(&self, limit: u32) -> Result<Vec<(JobId, u8, Timestamp)>, JobError>;

    /// Batches, newest jobs first.
    async fn batches(&self, limit: u32) -> Result<Vec<BatchId>, JobError>;

    /// Absent if no job has this batch.
    async fn batch_summary(&self, batch: &BatchId) -> Result<Option<BatchSummary>, JobError>;

    /// The jobs of a batch in order of arrival, after a given one.
    async fn batch_rows(&self, batch: &BatchId, after: Option<JobId>, limit: u32) -> Result<Vec<JobRow>, JobError>;

    /// The time by the database's clock, which decides how old a job is.
    async fn now(&self) -> Result<Timestamp, JobError>;

    /// The number of ended jobs that may be deleted.
    async fn count_prunable(&self, rules: &PruneRules) -> Result<u64, JobError>;

    /// Ended jobs that may be deleted, oldest first. Delete their objects, then [`JobStore::forget`] them.
    async fn prunable(&self, rules: &PruneRules, after: Option<Place>) -> Result<PrunePage, JobError>;

    /// Deletes the rows of ended jobs with their history, and remembers their ids; returns their number.
    async fn forget(&self, ids: &[JobId]) -> Result<u64, JobError>;

    /// Forgets the ids of jobs that were deleted longer ago than this; returns their number.
    async fn forget_tombstones(&self, older_than: Duration) -> Result<u64, JobError>;

    /// Deletes refused messages that were received before a time.
    async fn forget_rejections(&self, before: Timestamp) -> Result<u64, JobError>;
}

// The outbox: messages about changes.
in_either! {
    /// Takes due messages for the time of `lease`; no other relay gets them meanwhile.
    async fn outbox_take(&self, limit: u32, lease: Duration) -> Result<Vec<OutboxRow>, JobError>;

    /// Deletes messages that the broker has confirmed.
    async fn outbox_done(&self, ids: &[OutboxId]) -> Result<(), JobError>;

    /// Messages that could not be sent become due again after `delay`.
    async fn outbox_release(&self, ids: &[OutboxId], delay: Duration) -> Result<(), JobError>;

    /// Dispatches jobs again that seem lost: running jobs whose lease has ended, and queued ones that nobody has
    /// claimed within `grace` after their message was sent. The time until the next repetition doubles, so that a long
    /// queue does not fill up with repetitions. Returns the number of messages written.
    async fn reap(&self, grace: Duration) -> Result<u64, JobError>;
}

// Webhook calls.
in_either! {
    /// Takes due webhook calls for the time of `lease`; no other server gets them meanwhile.
    async fn webhooks_take(&self, limit: u32, lease: Duration) -> Result<Vec<WebhookRow>, JobError>;

    /// The call succeeded.
    async fn webhook_done(&self, id: WebhookId) -> Result<(), JobError>;

    /// The call failed: it becomes due again after a pause, or is given up.
    async fn webhook_failed(&self, id: WebhookId, error: &str, again: Option<Duration>) -> Result<(), JobError>;
}
