//! Requests for changes of a row, and their outcomes.

use std::time::Duration;

use jiff::Timestamp;

use super::{dispatch::Hold, row::JobRow};
use crate::job::{BatchId, JobState, TraceContext};

/// How a job is accepted.
#[derive(Debug, Clone, Default)]
pub struct SubmitOptions {
    pub batch: Option<BatchId>,
    /// Not before this time. Absent: at once.
    pub at: Option<Timestamp>,
    /// The webhook to call when the job ends.
    pub webhook: Option<String>,
    /// The trace that the job is submitted in.
    pub trace: Option<TraceContext>,
    /// See [`JobRow::local`].
    pub local: bool,
    /// See [`JobRow::reuse`].
    pub reuse: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Submitted {
    New(Box<JobRow>),
    /// The same id with the same body already exists.
    Known(Box<JobRow>),
}

/// The worker that claims, for how long, and the maximum number of attempts.
pub struct ClaimRules<'a> {
    pub worker: &'a str,
    pub lease: Duration,
    /// A job that has been claimed this often is quarantined instead.
    pub max_attempts: u32,
    /// Whether the worker with this name is known to have died, so that its lease need not end first.
    pub is_dead: &'a (dyn Fn(&str) -> bool + Sync),
    /// The fingerprint of the message; a row with another fingerprint is not changed.
    pub fingerprint: Option<&'a str>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Claim {
    /// The job is claimed, at the row's epoch.
    Taken(Box<JobRow>),
    /// Another worker holds the lease.
    Held {
        worker: String,
        until: Timestamp,
    },
    /// It waits for its next attempt.
    NotBefore(Timestamp),
    /// It is due, but not to be started yet. Its dispatch is back in the outbox, and no attempt is counted.
    OnHold(Hold),
    /// It has ended: earlier, or just now because it was cancelled or had no attempt left.
    Ended(Box<JobRow>),
    /// The id belongs to a job with another body; nothing was changed.
    Conflict(Box<JobRow>),
    Unknown,
}

/// The outcome of a write that names its [`super::Fence`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a lost lease means that another worker has the job: stop"]
pub enum Fenced<T> {
    /// The fence matched, and the row was written.
    Held(T),
    /// The row has moved on; nothing was written.
    Lost,
}

/// The result of a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeartbeatReply {
    pub cancel_requested: bool,
}

/// What became of a message that a worker leaves to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deferred {
    /// The job is dispatched again later.
    Later,
    /// It has ended, so nothing is left to do.
    Ended,
    /// No row has this id.
    Unknown,
}

pub(super) fn deferred(state: Option<JobState>) -> Deferred {
    match state {
        Some(JobState::Queued | JobState::Running) => Deferred::Later,
        Some(JobState::Succeeded | JobState::Failed | JobState::Cancelled) => Deferred::Ended,
        None => Deferred::Unknown,
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum CancelOutcome {
    /// The job had no worker and is cancelled.
    Cancelled,
    /// Its worker is notified and stops it within one step.
    Requested,
    AlreadyEnded(JobState),
    Unknown,
}

#[derive(Debug, Clone, PartialEq)]
pub enum RetryOutcome {
    /// It is queued again, with all its attempts available.
    Queued(Box<JobRow>),
    /// Only failed or cancelled jobs can be retried.
    Refused(JobState),
    Unknown,
}
