//! One face over both databases.

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

/// Methods that both databases have under the same name: each calls that of the one at hand.
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
    /// Connects, and brings the tables up to date.
    pub async fn open(url: &DatabaseUrl, mode: OutboxMode) -> Result<Self, JobError> {
        Ok(match url {
            DatabaseUrl::Sqlite(path) => Self::Sqlite(SqliteJobStore::open(path, mode).await?),
            DatabaseUrl::Postgres(url) => Self::Postgres(PostgresJobStore::open(url, mode).await?),
        })
    }

    /// Where the rows are, without a password.
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

    /// Whether the database answers.
    async fn ping(&self) -> Result<(), JobError>;

    /// Accepts a job. The same id twice is one job; the same id with another body is refused.
    async fn submit(&self, request: &JobRequest, options: &SubmitOptions) -> Result<Submitted, JobError>;

    /// Accepts many jobs, as [`JobStore::submit`] does each, in few transactions. One answer for each request, in order;
    /// after an error all of it may be submitted again.
    async fn submit_many(
        &self,
        requests: &[JobRequest],
        options: &SubmitOptions,
    ) -> Vec<Result<Submitted, JobError>>;

    /// Takes a queued job, or a running one whose lease has run out or whose worker is dead.
    async fn claim(&self, id: JobId, rules: &ClaimRules<'_>) -> Result<Claim, JobError>;

    /// Renews the lease and writes progress, whose sequence never goes back.
    async fn heartbeat(
        &self,
        id: JobId,
        epoch: Epoch,
        lease: Duration,
        progress: Option<&Progress>,
    ) -> Result<Fenced<Beat>, JobError>;

    /// Publishes: the move to `succeeded` carries the manifest's key. This and the other endings may be asked for again
    /// when the reply was lost: what stands is not written twice.
    async fn succeed(&self, id: JobId, epoch: Epoch, result: &Published) -> Result<Fenced<JobRow>, JobError>;

    async fn fail(&self, id: JobId, epoch: Epoch, error: &ErrorRecord) -> Result<Fenced<JobRow>, JobError>;

    /// Puts the job back for another attempt, not before `delay` has passed. If somebody asked for it to stop in the
    /// meantime, it is cancelled instead.
    async fn requeue(
        &self,
        id: JobId,
        epoch: Epoch,
        error: &ErrorRecord,
        delay: Duration,
    ) -> Result<Fenced<JobRow>, JobError>;

    /// Puts the job back at once because its worker stops; the attempt does not count.
    async fn give_back(&self, id: JobId, epoch: Epoch) -> Result<Fenced<JobRow>, JobError>;

    async fn cancelled(&self, id: JobId, epoch: Epoch) -> Result<Fenced<JobRow>, JobError>;

    /// Asks for a job to stop. One that nobody works on (see [`ClaimRules::is_dead`]) stops at once.
    async fn cancel(&self, id: JobId, is_dead: &(dyn Fn(&str) -> bool + Sync)) -> Result<CancelOutcome, JobError>;

    /// Asks for all jobs of a batch to stop; returns how many that concerned.
    async fn cancel_batch(&self, batch: &BatchId) -> Result<u64, JobError>;

    /// Starts a job over that failed or was cancelled.
    async fn retry(&self, id: JobId) -> Result<RetryOutcome, JobError>;

    /// Keeps a message that could be read as far as its id, and why it was refused. False, and nothing is written, where the id is
    /// a job's.
    async fn reject(&self, id: JobId, raw: &str, error: &ErrorRecord) -> Result<bool, JobError>;

    /// The refused message of an id that is no job's.
    async fn rejection(&self, id: JobId) -> Result<Option<Rejection>, JobError>;

    async fn get(&self, id: JobId) -> Result<Option<JobRow>, JobError>;

    /// Those of the jobs that there are and that can be read, in any order.
    async fn get_many(&self, ids: &[JobId]) -> Result<Vec<JobRow>, JobError>;

    async fn list(&self, filter: &Filter) -> Result<Page, JobError>;

    /// The newest job of this body that has not ended: the wish of somebody whose process was killed.
    async fn find_unfinished(&self, fingerprint: &str) -> Result<Option<JobRow>, JobError>;

    /// A job and its history, oldest attempt first.
    async fn get_with_attempts(&self, id: JobId) -> Result<Option<(JobRow, Vec<Attempt>)>, JobError>;

    /// How many jobs are in each state that occurs.
    async fn count(&self) -> Result<Vec<(JobState, i64)>, JobError>;

    /// Queued jobs by kind, for those kinds that have some.
    async fn queue_depth(&self) -> Result<Vec<Depth>, JobError>;

    /// Jobs that can be claimed now, the most urgent first: what fills a queue in process.
    async fn due(&self, limit: u32) -> Result<Vec<(JobId, u8, Timestamp)>, JobError>;

    /// Batches, those with the newest jobs first.
    async fn batches(&self, limit: u32) -> Result<Vec<BatchId>, JobError>;

    /// Absent when no job has this batch.
    async fn batch_summary(&self, batch: &BatchId) -> Result<Option<BatchSummary>, JobError>;

    /// The jobs of a batch in the order in which they came, after one of them.
    async fn batch_rows(&self, batch: &BatchId, after: Option<JobId>, limit: u32) -> Result<Vec<JobRow>, JobError>;

    /// Ended jobs that may go, the oldest first. Delete their objects, then [`JobStore::forget`] them.
    async fn prunable(&self, rules: &PruneRules) -> Result<Vec<Pruned>, JobError>;

    /// Deletes the rows of ended jobs with their history; returns how many there were.
    async fn forget(&self, ids: &[JobId]) -> Result<u64, JobError>;

    /// Deletes what was kept of refused messages that came before a time.
    async fn forget_rejections(&self, before: Timestamp) -> Result<u64, JobError>;
}

// The outbox: what is to be told of changes.
in_either! {
    /// Takes due messages for as long as `lease`; nobody else gets them meanwhile.
    async fn outbox_take(&self, limit: u32, lease: Duration) -> Result<Vec<OutboxRow>, JobError>;

    /// They have been sent, and the broker has confirmed it.
    async fn outbox_done(&self, ids: &[OutboxId]) -> Result<(), JobError>;

    /// They could not be sent; they are due again after `delay`.
    async fn outbox_release(&self, ids: &[OutboxId], delay: Duration) -> Result<(), JobError>;

    /// Dispatches again what seems to be lost: running jobs whose lease is over, and queued ones that nobody has
    /// claimed for as long as `grace` after their message was sent. The time until the next repetition doubles, so a
    /// queue that is merely long does not fill up with them. Returns how many messages were written.
    async fn reap(&self, grace: Duration) -> Result<u64, JobError>;
}

// Calls to the addresses that jobs named.
in_either! {
    /// Takes calls that are due for as long as `lease`; nobody else gets them meanwhile.
    async fn webhooks_take(&self, limit: u32, lease: Duration) -> Result<Vec<WebhookRow>, JobError>;

    /// It has arrived.
    async fn webhook_done(&self, id: WebhookId) -> Result<(), JobError>;

    /// It has not arrived: it is due again after a pause, or given up.
    async fn webhook_failed(&self, id: WebhookId, error: &str, again: Option<Duration>) -> Result<(), JobError>;
}
