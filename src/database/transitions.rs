//! The allowed transitions of a row: pure functions, the same for both databases.
//!
//! A change is decided on a row that was read, as a [`Transition`], and then written if the row has not changed.

use std::time::Duration;

use super::{
    fence::Fence,
    outbox::Topic,
    outcome::ClaimRules,
    row::{JobRow, LeaseState, Published},
    row_mapping::{after, timestamp, to_json},
    url::OutboxMode,
};
use crate::job::{Epoch, ErrorRecord, JobError, JobRequest, JobState};

/// Why a job cannot be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClaimRefusal {
    Ended,
    NotYet,
    Held,
    /// Its cancellation was requested, and it has no worker.
    Cancelled,
    /// It has no attempts left.
    Exhausted,
    Free {
        /// Its worker died before its lease ended.
        dead: bool,
    },
}

pub(super) fn standing(row: &JobRow, now: i64, rules: &ClaimRules<'_>) -> ClaimRefusal {
    let dead = match row.state {
        JobState::Succeeded | JobState::Failed | JobState::Cancelled => return ClaimRefusal::Ended,
        JobState::Queued if row.available_at.as_millisecond() > now && !row.cancel_requested => {
            return ClaimRefusal::NotYet;
        }
        JobState::Queued => false,
        JobState::Running => match row.lease(timestamp(now), rules.is_dead) {
            LeaseState::Over => false,
            LeaseState::WorkerDead => true,
            LeaseState::Held => return ClaimRefusal::Held,
        },
    };
    if row.cancel_requested {
        ClaimRefusal::Cancelled
    } else if row.attempts >= rules.max_attempts {
        ClaimRefusal::Exhausted
    } else {
        ClaimRefusal::Free { dead }
    }
}

/// The error of a job that has no attempts left.
pub(super) fn exhausted(row: &JobRow) -> JobError {
    match &row.error {
        Some(last) => exhausted_by(row.attempts, last),
        None => JobError::AttemptsExhausted { attempts: row.attempts, last: "its worker died".to_owned(), cause: None },
    }
}

/// The same, with the error of the last attempt.
pub(crate) fn exhausted_by(attempts: u32, last: &ErrorRecord) -> JobError {
    JobError::AttemptsExhausted { attempts, last: last.message.clone(), cause: Some(last.code.clone()) }
}

/// Whether a message's fingerprint differs from the row's. The row's is computed from its request, which a newer
/// version may serialize differently than the version that accepted it.
pub(super) fn is_conflict(row: &JobRow, rules: &ClaimRules<'_>) -> bool {
    rules.fingerprint.is_some_and(|fingerprint| row.request.fingerprint() != fingerprint)
}

/// Refuses a request whose id is another job's.
pub(super) fn check_same(known: &JobRequest, request: &JobRequest) -> Result<(), JobError> {
    if known.fingerprint() == request.fingerprint() {
        return Ok(());
    }
    let there = JobRequest { output: known.output.clone(), ..request.clone() };
    if there.fingerprint() == known.fingerprint() {
        let reason = format!(
            "{} is already a job with another output folder, {}; use that folder or another id",
            request.id, known.output.prefix
        );
        return Err(JobError::invalid("id", reason));
    }
    Err(JobError::invalid(
        "id",
        format!(
            "{} is already a {} job with other inputs or parameters; use another id, or none",
            request.id,
            known.task.kind()
        ),
    ))
}

/// How an attempt ends.
#[derive(Clone, Copy)]
pub(super) enum Ending<'a> {
    Succeeded(&'a Published),
    /// Its result was in the store already, from this epoch.
    Adopted(&'a Published, Epoch),
    Failed(&'a ErrorRecord),
    Requeued(&'a ErrorRecord, Duration),
    /// The same, but the attempt does not count.
    Postponed(&'a ErrorRecord, Duration),
    /// Its worker is stopping; the attempt does not count.
    GivenBack,
    Cancelled,
}

impl Ending<'_> {
    /// Whether the row already has this ending: the reply to a commit was lost, and the worker repeats it.
    pub(super) fn stands(&self, row: &JobRow, fence: Fence) -> bool {
        let there = match self {
            Self::Succeeded(result) => {
                row.state == JobState::Succeeded
                    && row.published.as_ref().is_some_and(|there| there.manifest == result.manifest)
            }
            Self::Adopted(result, epoch) => {
                let adopted = Fence { epoch: *epoch, ..fence };
                return Self::Succeeded(result).stands(row, adopted);
            }
            Self::Failed(error) => row.state == JobState::Failed && row.error.as_ref() == Some(*error),
            Self::Requeued(error, _) | Self::Postponed(error, _) => {
                row.state == JobState::Queued && row.error.as_ref() == Some(*error)
            }
            Self::GivenBack => row.state == JobState::Queued,
            Self::Cancelled => row.state == JobState::Cancelled,
        };
        row.fence() == fence && there
    }
}

/// A decided change: from the row that was read to the new row.
#[derive(Debug)]
pub(super) struct Transition {
    pub seen: Seen,
    pub row: JobRow,
    /// How the open attempt ended, if there is one.
    pub outcome: &'static str,
    pub attempt_error: Option<ErrorRecord>,
    pub message: Option<OutboxMessage>,
    /// The event of an ended job, as JSON.
    pub event: Option<String>,
}

/// The conditions for writing the change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub state: JobState,
    pub fence: Fence,
    /// A retry begins anew, at the same epoch.
    pub attempts: u32,
    pub cancel_requested: bool,
    /// Set if the reason is the end of a lease: a heartbeat in between prevents the change.
    pub lease_until: Option<i64>,
}

#[derive(Debug)]
pub(super) struct OutboxMessage {
    pub topic: Topic,
    pub payload: Option<String>,
    pub available_at: i64,
}

impl Transition {
    /// The end of an attempt by its own worker. A job whose cancellation was requested is not requeued.
    pub(super) fn settle(row: JobRow, ending: Ending<'_>, now: i64, mode: OutboxMode) -> Result<Self, JobError> {
        let mut seen = Seen::of(&row);
        seen.lease_until = None;
        let ending = match ending {
            Ending::Requeued(..) | Ending::Postponed(..) | Ending::GivenBack if row.cancel_requested => {
                Ending::Cancelled
            }
            other => other,
        };
        let mut next = moved(row, now);
        let (state, outcome, error) = match ending {
            Ending::Succeeded(result) => {
                next.published = Some(result.clone());
                (JobState::Succeeded, if result.reused_from.is_some() { "reused" } else { "succeeded" }, None)
            }
            Ending::Adopted(result, epoch) => {
                next.published = Some(result.clone());
                next.epoch = epoch;
                (JobState::Succeeded, "succeeded", None)
            }
            Ending::Failed(error) => (JobState::Failed, "failed", Some(error.clone())),
            Ending::Requeued(error, delay) => {
                next.available_at = timestamp(after(now, delay));
                (JobState::Queued, "requeued", Some(error.clone()))
            }
            Ending::Postponed(error, delay) => {
                next.attempts = next.attempts.saturating_sub(1);
                next.available_at = timestamp(after(now, delay));
                (JobState::Queued, "requeued", Some(error.clone()))
            }
            Ending::GivenBack => {
                next.attempts = next.attempts.saturating_sub(1);
                (JobState::Queued, "given_back", next.error.take())
            }
            Ending::Cancelled => (JobState::Cancelled, "cancelled", Some(ErrorRecord::from(&JobError::Cancelled))),
        };
        next.state = state;
        next.error = error;
        let attempt_error = next.error.clone().filter(|_| !matches!(ending, Ending::GivenBack));
        Self::to(seen, next, outcome, attempt_error, now, mode)
    }

    /// The end of a job without a worker.
    pub(super) fn end(
        row: JobRow,
        state: JobState,
        error: &JobError,
        now: i64,
        mode: OutboxMode,
    ) -> Result<Self, JobError> {
        let seen = Seen::of(&row);
        let next = JobRow { state, error: Some(ErrorRecord::from(error)), ..moved(row, now) };
        Self::to(seen, next, "lost", None, now, mode)
    }

    /// Requeues a failed or cancelled job. Its epoch stays, so that workers of earlier attempts still cannot write.
    pub(super) fn retry(row: JobRow, now: i64, mode: OutboxMode) -> Result<Self, JobError> {
        let seen = Seen::of(&row);
        let next =
            JobRow { state: JobState::Queued, error: None, attempts: 0, cancel_requested: false, ..moved(row, now) };
        Self::to(seen, next, "lost", None, now, mode)
    }

    fn to(
        seen: Seen,
        mut row: JobRow,
        outcome: &'static str,
        attempt_error: Option<ErrorRecord>,
        now: i64,
        mode: OutboxMode,
    ) -> Result<Self, JobError> {
        row.finished_at = row.state.is_terminal().then(|| timestamp(now));
        let event = if row.state.is_terminal() { Some(to_json(&row.event(timestamp(now)))?) } else { None };
        let message = match (mode, Topic::of(row.state)) {
            (OutboxMode::Embedded, _) | (OutboxMode::Service, None) => None,
            (OutboxMode::Service, Some(topic)) => Some(OutboxMessage {
                topic,
                payload: event.clone().filter(|_| topic.is_event()),
                available_at: if topic.is_event() { now } else { row.available_at.as_millisecond() },
            }),
        };
        Ok(Self { seen, row, outcome, attempt_error, message, event })
    }
}

impl Seen {
    fn of(row: &JobRow) -> Self {
        Self {
            state: row.state,
            fence: row.fence(),
            attempts: row.attempts,
            cancel_requested: row.cancel_requested,
            lease_until: row.lease_until.filter(|_| row.state == JobState::Running).map(|at| at.as_millisecond()),
        }
    }
}

/// The part that all changes share: the row no longer has a worker.
fn moved(row: JobRow, now: i64) -> JobRow {
    let now = timestamp(now);
    JobRow { worker: None, lease_until: None, published: None, available_at: now, updated_at: now, ..row }
}

/// The error if other processes keep changing the row first.
pub(super) fn overtaken(id: crate::job::JobId) -> JobError {
    JobError::Busy { reason: format!("job {id} keeps changing; try again") }
}
