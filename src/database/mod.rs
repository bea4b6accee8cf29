//! Job rows: the request, the worker, the progress and the outcome. All SQL is here.
//!
//! The database owns the state. A claim increments the row's epoch in one statement and draws an id; every later write
//! names both ([`Fence`]) and changes nothing if the row has moved on. So a worker that lost its lease cannot change
//! the row, and gets [`Fenced::Lost`].
//!
//! Every other change is decided on a row that was read (`transitions.rs`, without a database) and written only if the
//! row has not changed since: SQLite holds its write lock in between, Postgres compares and retries. With
//! [`OutboxMode::Service`], a change writes its messages to the outbox in the same statement or transaction, so the row
//! and its messages always agree.

mod actions;
mod backend;
mod calls;
mod clock;
mod dataset;
mod dispatch;
mod fence;
mod history;
mod lineage;
mod listing;
mod nesting;
mod notify;
mod outbox;
mod outcome;
mod postgres;
mod postgres_options;
mod postgres_url;
mod queue_status;
mod retention;
mod row;
mod row_mapping;
mod search;
mod sqlite;
mod sweep;
mod tombstone;
mod transitions;
mod url;
mod webhook;

pub use actions::{Action, ActionFilter, ActionPage, ActionRow, Actor, Subject, Submissions};
pub use backend::{ConnectionCounts, DatabaseRemarks, Inspected, JobStore, Migrated};
pub use dataset::{DatasetCursor, DatasetJob, DatasetRow, DatasetRun, SourceOverlap};
pub use dispatch::{DispatchRules, Hold, KindCounts, LiveWorker, Pause, Scope, Window, Workers};
pub use fence::{ClaimId, Fence};
pub use history::HistoryEntry;
pub use lineage::Lineage;
pub use listing::{BatchSummary, Cursor, Depth, Filter, Page};
pub use notify::Changes;
pub use outbox::{OutboxId, OutboxRow, Topic};
pub use outcome::{
    CancelOutcome, Claim, ClaimRules, Deferred, Fenced, HeartbeatReply, RetryOutcome, SubmitOptions, Submitted,
};
pub use postgres::PostgresJobStore;
pub use postgres_url::PostgresUrl;
pub use queue_status::{KindStatus, PauseStatus, QueueStatus, TenantStatus};
pub use retention::{EndedJob, Forgotten, PrunePage, PruneRules, Pruned};
pub use row::{Attempt, JobRow, LeaseState, Published, Rejection};
pub use sqlite::SqliteJobStore;
pub use sweep::{CancelId, ErrorCount, RetryRules, SweepCursor, Swept};
pub use tombstone::Admission;
pub(crate) use transitions::exhausted_by;
pub use url::{DatabaseOptions, DatabaseUrl, OutboxMode};
pub use webhook::{WebhookId, WebhookLimits, WebhookRow};
