//! One interface for both databases.

use std::{collections::BTreeMap, path::Path, time::Duration};

use jiff::Timestamp;

use super::{
    Actor, Admission, Attempt, BatchSummary, CancelId, CancelOutcome, Changes, Claim, ClaimRules, DatabaseOptions,
    DatabaseUrl, DatasetJob, DatasetRow, DatasetRun, Deferred, Depth, DispatchRules, EndedJob, ErrorCount, Fence,
    Fenced, Filter, Forgotten, HeartbeatReply, JobRow, KindCounts, Lineage, LiveWorker, OutboxId, OutboxMode,
    OutboxRow, Page, Pause, PostgresJobStore, PrunePage, PruneRules, Published, Rejection, RetryOutcome, RetryRules,
    Scope, SourceOverlap, SqliteJobStore, SubmitOptions, Submitted, SweepCursor, Swept, Workers,
};
use crate::job::{BatchId, Epoch, ErrorRecord, JobError, JobId, JobKind, JobRequest, JobState, Progress, TraceContext};

/// Job rows in either database; clones share its connections.
#[derive(Debug, Clone)]
pub enum JobStore {
    Sqlite(SqliteJobStore),
    Postgres(PostgresJobStore),
}

/// What opening did to the tables: their version before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrated {
    /// 0: there were none.
    pub from: usize,
    pub to: usize,
}

/// What is at an address, found out without changing it.
#[derive(Debug)]
pub enum Inspected {
    /// The tables of this version.
    Tables(JobStore),
    /// The tables of an older version.
    Older { has: usize, needs: usize },
    /// No tables yet; whether they could be made.
    Nothing(Result<(), JobError>),
}

/// What an operator should know of a database that can be used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DatabaseRemarks {
    pub remarks: Vec<String>,
    /// What is probably not as it was meant.
    pub warnings: Vec<String>,
}

/// How often connections were lost; for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectionCounts {
    /// Connections that were replaced because the server went away or changed its role.
    pub replaced: u64,
    /// Losses of the connection that listens for notifications.
    pub listener_lost: u64,
}

/// Defines methods that call the method of the same name on the current database.
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
pub(super) use in_either;

impl JobStore {
    /// Connects and migrates the tables.
    pub async fn open(url: &DatabaseUrl, mode: OutboxMode) -> Result<Self, JobError> {
        Self::open_with(url, mode, &DatabaseOptions::default()).await
    }

    /// Connects, and migrates the tables if the options say so.
    pub async fn open_with(url: &DatabaseUrl, mode: OutboxMode, options: &DatabaseOptions) -> Result<Self, JobError> {
        Ok(match url {
            DatabaseUrl::Sqlite(path) => Self::Sqlite(SqliteJobStore::open(path, mode, options).await?),
            DatabaseUrl::Postgres(url) => Self::Postgres(PostgresJobStore::open(url, mode, options).await?),
        })
    }

    /// Connects to tables that exist. Creates and migrates nothing, whatever the options say.
    pub async fn inspect(
        url: &DatabaseUrl,
        mode: OutboxMode,
        options: &DatabaseOptions,
    ) -> Result<Inspected, JobError> {
        match url {
            DatabaseUrl::Sqlite(path) => SqliteJobStore::inspect(path, mode, options).await,
            DatabaseUrl::Postgres(url) => PostgresJobStore::inspect(url, mode, options).await,
        }
    }

    /// A store without jobs, in memory, for commands that read from a file that does not exist yet.
    pub async fn nothing(path: &Path, mode: OutboxMode, options: &DatabaseOptions) -> Result<Self, JobError> {
        Ok(Self::Sqlite(SqliteJobStore::nothing(path, mode, options).await?))
    }

    /// What opening did to the tables.
    pub fn migrated(&self) -> Migrated {
        match self {
            Self::Sqlite(store) => store.migrated(),
            Self::Postgres(store) => store.migrated(),
        }
    }

    pub fn connection_counts(&self) -> ConnectionCounts {
        match self {
            // It has no server that could be lost.
            Self::Sqlite(_) => ConnectionCounts::default(),
            Self::Postgres(store) => store.connection_counts(),
        }
    }

    /// Whether what is read comes from the server that is written to.
    pub async fn check_reads(&self) -> Result<(), JobError> {
        match self {
            // There is only one file.
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(store) => store.check_reads().await,
        }
    }

    /// The database's address, without a password.
    pub fn place(&self) -> String {
        match self {
            Self::Sqlite(store) => store.place(),
            Self::Postgres(store) => store.place(),
        }
    }

    /// The same rows, whose changes from here on are recorded as this actor's.
    pub fn by(&self, actor: Actor) -> Self {
        match self {
            Self::Sqlite(store) => Self::Sqlite(store.by(actor)),
            Self::Postgres(store) => Self::Postgres(store.by(actor)),
        }
    }

    /// Which jobs this process dispatches and claims.
    pub fn dispatch_rules(&self) -> &DispatchRules {
        match self {
            Self::Sqlite(store) => store.dispatch_rules(),
            Self::Postgres(store) => store.dispatch_rules(),
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

    /// Checks that the database responds and can be written to: after a failed write, it fails until a write succeeds.
    async fn ping(&self) -> Result<(), JobError>;

    /// Writes to the tables and takes it back.
    async fn check_writes(&self) -> Result<(), JobError>;

    /// Returns once the database is not the one that was opened: a file that was removed or replaced.
    async fn lost(&self) -> JobError;

    /// [`JobStore::check_writes`] and [`JobStore::check_reads`], and what an operator should know of this database.
    async fn check(&self) -> Result<DatabaseRemarks, JobError>;

    /// Submits a job. The same id with the same body is the same job; the same id with a different body is refused.
    async fn submit(&self, request: &JobRequest, options: &SubmitOptions) -> Result<Submitted, JobError>;

    /// Submits many jobs, each as in [`JobStore::submit`], in few transactions. Returns one outcome per request, in
    /// order; after an error, all of them may be submitted again.
    async fn submit_many(
        &self,
        requests: &[JobRequest],
        options: &SubmitOptions,
    ) -> Vec<Result<Submitted, JobError>>;

    /// Accepts a job by a message of another client, unless it had ended and was deleted.
    async fn submit_message(&self, request: &JobRequest, options: &SubmitOptions) -> Result<Admission, JobError>;

    /// When a job with this id was deleted; absent if it never was, or long ago ([`JobStore::forget_tombstones`]).
    async fn deleted_at(&self, id: JobId) -> Result<Option<Timestamp>, JobError>;

    /// Claims a queued job, or a running one whose lease has ended or whose worker is dead.
    async fn claim(&self, id: JobId, rules: &ClaimRules<'_>) -> Result<Claim, JobError>;

    /// Keeps the span of an attempt, and returns that of the attempt before it.
    async fn trace_attempt(
        &self,
        id: JobId,
        epoch: Epoch,
        span: &TraceContext,
    ) -> Result<Option<TraceContext>, JobError>;

    /// Renews the lease and writes progress, whose sequence never decreases.
    async fn heartbeat(
        &self,
        id: JobId,
        fence: Fence,
        lease: Duration,
        progress: Option<&Progress>,
    ) -> Result<Fenced<HeartbeatReply>, JobError>;

    /// Publishes a result: the change to `succeeded` sets the manifest's key. This and the other endings may be
    /// repeated if the reply was lost: nothing is written twice.
    async fn succeed(&self, id: JobId, fence: Fence, result: &Published) -> Result<Fenced<JobRow>, JobError>;

    /// Like [`JobStore::succeed`], for a result that was in the store already, from the attempt at `made_at`. The row
    /// gets that epoch, so that the end is told as it was, or would have been, then.
    async fn adopt(
        &self,
        id: JobId,
        fence: Fence,
        result: &Published,
        made_at: Epoch,
    ) -> Result<Fenced<JobRow>, JobError>;

    async fn fail(&self, id: JobId, fence: Fence, error: &ErrorRecord) -> Result<Fenced<JobRow>, JobError>;

    /// Requeues the job for another attempt after `delay`. If its cancellation was requested in the meantime, it is
    /// cancelled instead.
    async fn requeue(
        &self,
        id: JobId,
        fence: Fence,
        error: &ErrorRecord,
        delay: Duration,
    ) -> Result<Fenced<JobRow>, JobError>;

    /// As [`JobStore::requeue`], but the attempt does not count: the job was told to wait.
    async fn postpone(&self, id: JobId, at: Fence, why: &ErrorRecord, by: Duration) -> Result<Fenced<JobRow>, JobError>;

    /// Requeues the job at once because its worker is stopping; the attempt does not count.
    async fn give_back(&self, id: JobId, fence: Fence) -> Result<Fenced<JobRow>, JobError>;

    async fn cancelled(&self, id: JobId, fence: Fence) -> Result<Fenced<JobRow>, JobError>;

    /// Requests the cancellation of a job. A job without a live worker (see [`ClaimRules::is_dead`]) is cancelled at
    /// once.
    async fn cancel(&self, id: JobId, is_dead: &(dyn Fn(&str) -> bool + Sync)) -> Result<CancelOutcome, JobError>;

    /// Cancels some of the queued jobs of a batch, in order of arrival; see [`JobStore::cancel_batch`].
    async fn cancel_queued(
        &self,
        batch: &BatchId,
        cancel: CancelId,
        after: Option<SweepCursor>,
    ) -> Result<Swept, JobError>;

    /// Asks the workers of a batch's running jobs to stop; returns the number of those that had not been asked.
    async fn cancel_running(&self, batch: &BatchId, cancel: CancelId) -> Result<u64, JobError>;

    /// The number of jobs that a cancellation of a batch asked to stop and that still run.
    async fn stopping(&self, batch: &BatchId, cancel: CancelId) -> Result<u64, JobError>;

    /// Requeues some of the jobs that the rules choose, in order of arrival; see [`JobStore::retry_batch`].
    async fn retry_some(&self, rules: &RetryRules, after: Option<SweepCursor>) -> Result<Swept, JobError>;

    /// The errors of a batch's failed and cancelled jobs, the most frequent first.
    async fn error_counts(&self, batch: &BatchId) -> Result<Vec<ErrorCount>, JobError>;

    /// Requeues a failed or cancelled job.
    async fn retry(&self, id: JobId) -> Result<RetryOutcome, JobError>;

    /// Stores a refused message that has an id, and the reason. Returns false and writes nothing if the id belongs to a
    /// job.
    async fn reject(&self, id: JobId, raw: &str, error: &ErrorRecord) -> Result<bool, JobError>;

    /// Whether [`JobStore::reject`] stores a message with this id: no job has it, and none had it lately.
    async fn may_reject(&self, id: JobId) -> Result<bool, JobError>;

    /// The refused message with this id.
    async fn rejection(&self, id: JobId) -> Result<Option<Rejection>, JobError>;

    async fn get(&self, id: JobId) -> Result<Option<JobRow>, JobError>;

    /// The jobs among these ids that exist and can be read, in any order.
    async fn get_many(&self, ids: &[JobId]) -> Result<Vec<JobRow>, JobError>;

    async fn list(&self, filter: &Filter) -> Result<Page, JobError>;

    /// Jobs that have a result with this content key, the latest first.
    async fn results_of(&self, content_key: &str, limit: u32) -> Result<Vec<JobRow>, JobError>;

    /// The newest unfinished job with this body, left by a process that was killed.
    async fn find_unfinished(&self, fingerprint: &str) -> Result<Option<JobRow>, JobError>;

    /// A job and its attempts, oldest first.
    async fn get_with_attempts(&self, id: JobId) -> Result<Option<(JobRow, Vec<Attempt>)>, JobError>;

    /// The number of jobs in each state.
    async fn count(&self) -> Result<Vec<(JobState, i64)>, JobError>;

    /// The queued jobs by kind.
    async fn queue_depth(&self) -> Result<Vec<Depth>, JobError>;

    /// Jobs that can be claimed now, in the order of dispatch; they fill the in-process queue.
    async fn due(&self, limit: u32) -> Result<Vec<(JobId, u8, Timestamp)>, JobError>;

    /// Batches, newest jobs first.
    async fn batches(&self, limit: u32) -> Result<Vec<BatchId>, JobError>;

    /// `None` if no job has this batch.
    async fn batch_summary(&self, batch: &BatchId) -> Result<Option<BatchSummary>, JobError>;

    /// The jobs of a batch in order of arrival, after a given one.
    async fn batch_rows(&self, batch: &BatchId, after: Option<JobId>, limit: u32) -> Result<Vec<JobRow>, JobError>;

    /// Remembers which rows of a dataset the jobs of a batch were made of. Rows of jobs that do not exist are left out.
    /// It may be repeated.
    async fn record_dataset_rows(
        &self,
        batch: &BatchId,
        run: &DatasetRun,
        rows: &[DatasetRow],
    ) -> Result<(), JobError>;

    /// Forgets where the jobs of this run were in earlier runs over the same source, if their rows are elsewhere by
    /// now. `is_whole`: the run has seen the whole source; otherwise, rows that it has not seen stay.
    async fn drop_moved_rows(&self, batch: &BatchId, run: &DatasetRun, is_whole: bool) -> Result<(), JobError>;

    /// The sources that the rows of a batch are of, in the order of their first submission.
    async fn dataset_sources(&self, batch: &BatchId) -> Result<Vec<String>, JobError>;

    /// The rows of one source of a batch with their jobs, after a given one. `earlier`: the sources before it.
    async fn source_jobs(
        &self,
        batch: &BatchId,
        source: &str,
        earlier: &[String],
        after: Option<(u64, JobId)>,
        limit: u32,
    ) -> Result<Vec<DatasetJob>, JobError>;

    /// How many rows of a batch had jobs that were deleted. Deleted jobs are remembered for
    /// `queue.remember_deleted_days`.
    async fn deleted_rows(&self, batch: &BatchId) -> Result<u64, JobError>;

    /// The rows of one source of a batch without their jobs, after a given one.
    async fn source_rows(
        &self,
        batch: &BatchId,
        source: &str,
        after: Option<(u64, JobId)>,
        limit: u32,
    ) -> Result<Vec<DatasetRow>, JobError>;

    /// The other sources of a batch, and what they have in common with this one.
    async fn source_overlaps(&self, batch: &BatchId, source: &str) -> Result<Vec<SourceOverlap>, JobError>;

    /// Removes a source whose rows are those of another one, which takes its position.
    async fn merge_source(&self, batch: &BatchId, gone: &str, into: &str) -> Result<(), JobError>;

    /// The kinds of jobs in a batch, as far as this version knows them.
    async fn batch_kinds(&self, batch: &BatchId) -> Result<Vec<JobKind>, JobError>;

    /// Like [`JobStore::batch_rows`], only those that are of no row of a dataset.
    async fn batch_rows_outside(
        &self,
        batch: &BatchId,
        after: Option<JobId>,
        limit: u32,
    ) -> Result<Vec<JobRow>, JobError>;

    /// The time by the database's clock, which decides how old a job is.
    async fn now(&self) -> Result<Timestamp, JobError>;

    /// The number of ended jobs that may be deleted.
    async fn count_prunable(&self, rules: &PruneRules) -> Result<u64, JobError>;

    /// Ended jobs that may be deleted, oldest first: [`JobStore::retire_results`], delete their objects, then
    /// [`JobStore::prune`].
    async fn prunable(&self, rules: &PruneRules, after: Option<SweepCursor>) -> Result<PrunePage, JobError>;

    /// Before the objects of these jobs are deleted: from now on, no attempt takes one of their results. Returns those
    /// that are still as they were read; the objects of others must stay.
    async fn retire_results(&self, jobs: &[EndedJob]) -> Result<Vec<JobId>, JobError>;

    /// See [`JobStore::forget`].
    async fn delete_rows(&self, jobs: &[EndedJob]) -> Result<Forgotten, JobError>;

    /// See [`JobStore::prune`].
    async fn prune_rows(&self, jobs: &[EndedJob], batch: Option<&BatchId>) -> Result<Forgotten, JobError>;

    /// Forgets the ids of jobs that were deleted longer ago than this; returns their number.
    async fn forget_tombstones(&self, older_than: Duration) -> Result<u64, JobError>;

    /// The job that was accepted last.
    async fn last_job(&self) -> Result<Option<JobId>, JobError>;

    /// Some jobs whose ids have this beginning, in the order of their ids.
    async fn jobs_starting_with(&self, beginning: &str, limit: u32) -> Result<Vec<JobId>, JobError>;

    /// The texts of some requests in the order of arrival, and the place of the last one, after which the rest begins.
    async fn requests(&self, after: Option<SweepCursor>) -> Result<(Vec<String>, Option<SweepCursor>), JobError>;

    /// Deletes refused messages that were received before a time.
    async fn forget_rejections(&self, before: Timestamp) -> Result<u64, JobError>;
}

// The outbox: messages about changes.
in_either! {
    /// Takes due events, and the next dispatches for which there is room, for the duration of `lease`; no other relay
    /// gets them during that time. At most `limit` of each.
    async fn outbox_take(&self, limit: u32, lease: Duration) -> Result<Vec<OutboxRow>, JobError>;

    /// Deletes events that the broker has confirmed. A dispatch stays, and counts for the window until its job starts.
    async fn outbox_done(&self, ids: &[OutboxId]) -> Result<(), JobError>;

    /// Makes messages that could not be sent due again after `delay`.
    async fn outbox_release(&self, ids: &[OutboxId], delay: Duration) -> Result<(), JobError>;

    /// Makes messages that a queue refused due again after a pause, or gives events up. Dispatches are never given up.
    async fn outbox_refused(&self, ids: &[OutboxId], again: Option<Duration>) -> Result<(), JobError>;

    /// The number of events that wait because a queue refused them.
    async fn refused_events(&self) -> Result<u64, JobError>;

    /// How many jobs of each kind wait because RabbitMQ refused their messages.
    async fn refused_jobs(&self) -> Result<Vec<(JobKind, u64)>, JobError>;

    /// Sends another message for jobs that seem lost: running jobs whose lease has ended, and queued ones that no
    /// worker has claimed within `grace` after their message was sent. The time until the next repetition doubles, so
    /// that a long queue does not fill up with repetitions. Returns the number of messages written.
    async fn reap(&self, grace: Duration) -> Result<u64, JobError>;

    /// Makes jobs, events and webhook calls due that would wait for a clock that was set back; returns how many jobs.
    async fn mend_due_times(&self) -> Result<u64, JobError>;

    /// Dispatches queued jobs of these kinds again whose last message was sent before `grace`, for queues that are
    /// empty: their messages expired, were removed by a policy, or are held by a worker that is busy with another job.
    /// Returns the number of messages written.
    async fn redispatch(&self, kinds: &[JobKind], grace: Duration) -> Result<u64, JobError>;

    /// Dispatches a job again after `delay`, because this version cannot read its request. Its row is not read and not
    /// changed.
    async fn defer(&self, id: JobId, delay: Duration) -> Result<Deferred, JobError>;
}

// What is dispatched; see the module `dispatch`.
in_either! {
    /// Stops dispatches and claims; running jobs go on. Returns false if it was paused before.
    async fn pause(&self, scope: &Scope) -> Result<bool, JobError>;

    /// Ends the pause of the same scope. Returns false if there was none.
    async fn resume(&self, scope: &Scope) -> Result<bool, JobError>;

    async fn pauses(&self) -> Result<Vec<Pause>, JobError>;

    /// Pauses everything for a reason that a person must know.
    async fn pause_all(&self, reason: &str) -> Result<(), JobError>;

    /// Until when the database is known to have been in use.
    async fn lineage(&self) -> Result<Lineage, JobError>;

    /// Forgets [`Lineage::others`], after everything was paused.
    async fn forget_lineages(&self, names: &[String]) -> Result<(), JobError>;

    /// Says that the database is in use; returns the time.
    async fn record_alive(&self) -> Result<Timestamp, JobError>;

    /// Says that a worker is alive, and how many jobs it holds at a time.
    async fn record_worker(&self, name: &str, slots: u32) -> Result<(), JobError>;

    async fn remove_worker(&self, name: &str) -> Result<(), JobError>;

    async fn workers(&self) -> Result<Workers, JobError>;

    /// Some of the live workers by name.
    async fn live_workers(&self, limit: u32) -> Result<Vec<LiveWorker>, JobError>;

    /// The unfinished jobs by kind.
    async fn kind_counts(&self) -> Result<Vec<KindCounts>, JobError>;

    /// The number of jobs that live workers run.
    async fn running_in(&self, scope: &Scope) -> Result<u64, JobError>;

    /// Jobs whose worker has not been heard of for the length of its lease, and that nobody has claimed since.
    async fn abandoned_in(&self, scope: &Scope, limit: u32) -> Result<Vec<JobId>, JobError>;

    /// How many jobs of each tenant live workers run.
    async fn tenants_running(&self) -> Result<BTreeMap<String, u64>, JobError>;
}
