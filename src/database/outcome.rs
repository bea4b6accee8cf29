//! What is asked of a row, and what came of it.

use std::time::Duration;

use jiff::Timestamp;

use super::row::JobRow;
use crate::job::{BatchId, JobState};

/// How a job is accepted.
#[derive(Debug, Clone, Default)]
pub struct SubmitOptions {
    pub batch: Option<BatchId>,
    /// Not before this time; absent: at once.
    pub at: Option<Timestamp>,
    /// Address that is told when the job ends.
    pub webhook: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Submitted {
    New(Box<JobRow>),
    /// The same id with the same body came before.
    Known(Box<JobRow>),
}

/// Who claims, for how long, and how often a job may be tried.
pub struct ClaimRules<'a> {
    pub worker: &'a str,
    pub lease: Duration,
    /// A job that has been claimed this often is quarantined instead.
    pub max_attempts: u32,
    /// Whether the worker of this name has certainly died, so that its lease need not run out first.
    pub is_dead: &'a (dyn Fn(&str) -> bool + Sync),
    /// Of the message that asks for the job; a row with another one is not touched.
    pub fingerprint: Option<&'a str>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Claim {
    /// It is ours, at the row's epoch.
    Taken(Box<JobRow>),
    /// Another worker holds the lease.
    Held {
        worker: String,
        until: Timestamp,
    },
    /// It waits for its next attempt.
    NotBefore(Timestamp),
    /// It has ended: earlier, or just now because it was cancelled or had no attempt left.
    Ended(Box<JobRow>),
    /// The id belongs to a job with another body; nothing was changed.
    Conflict(Box<JobRow>),
    Unknown,
}

/// What came of a write that names its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a lost lease means that another worker has the job: stop"]
pub enum Fenced<T> {
    /// The epoch was still the row's; the write stands.
    Held(T),
    /// The row has moved on; nothing was written.
    Lost,
}

/// What a heartbeat brings back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    pub cancel_requested: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum CancelOutcome {
    /// Nobody was working on it: it is cancelled.
    Cancelled,
    /// Its worker has been told; it stops within one step.
    Requested,
    AlreadyEnded(JobState),
    Unknown,
}

#[derive(Debug, Clone, PartialEq)]
pub enum RetryOutcome {
    /// It waits for a worker again, with all its attempts before it.
    Queued(Box<JobRow>),
    /// Only a job that failed or was cancelled can be tried anew.
    Refused(JobState),
    Unknown,
}
