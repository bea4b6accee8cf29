//! Job rows: what was asked, who works on it, how far it is, how it ended. All SQL is here.
//!
//! The database owns the state. A claim raises the row's epoch in one statement; every later write names its epoch
//! and changes nothing when the row has moved on. So a worker that lost its lease loses every race, and learns it as
//! [`Fenced::Lost`].
//!
//! Every other change is decided on a row that was read (`transitions.rs`, without a database) and written if the row is
//! still what was read: SQLite holds its one write lock in between, Postgres compares and tries again. With
//! [`OutboxMode::Service`] a change leaves its messages in the outbox, in the same statement or transaction; so what the row
//! says and what is told about it cannot differ.

mod backend;
mod listing;
mod notify;
mod outbox;
mod outcome;
mod postgres;
mod row;
mod row_mapping;
mod search;
mod sqlite;
mod transitions;
mod url;
mod webhook;

pub use backend::JobStore;
pub use listing::{BatchSummary, Depth, Filter, Page, PruneRules, Pruned};
pub use notify::Changes;
pub use outbox::{OutboxId, OutboxRow, Topic};
pub use outcome::{Beat, CancelOutcome, Claim, ClaimRules, Fenced, RetryOutcome, SubmitOptions, Submitted};
pub use postgres::PostgresJobStore;
pub use row::{Attempt, JobRow, LeaseState, Published, Rejection};
pub use sqlite::SqliteJobStore;
pub use url::{DatabaseUrl, OutboxMode, PostgresUrl};
pub use webhook::{WebhookId, WebhookRow};
