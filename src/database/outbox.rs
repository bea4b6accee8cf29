//! Messages that must be sent because a row has changed.
//!
//! They are written together with the change, taken by a relay for a short time, sent, and deleted. If a relay dies in
//! between, the message is sent again; receivers recognize repetitions by the job's row.

use std::{fmt, str::FromStr};

use jiff::Timestamp;

use crate::job::{JobId, JobKind, JobState, TraceContext};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutboxId(pub(super) i64);

impl fmt::Display for OutboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct OutboxRow {
    pub id: OutboxId,
    pub job: JobId,
    pub topic: Topic,
    pub kind: JobKind,
    pub priority: u8,
    /// JSON: the request for a dispatch, a [`crate::job::JobEvent`] for an event.
    pub payload: String,
    /// The job's.
    pub trace: Option<TraceContext>,
    /// Of an event: the span of the last attempt.
    pub attempt: Option<TraceContext>,
    /// How often a queue has refused it.
    pub refusals: u32,
    pub available_at: Timestamp,
    pub created_at: Timestamp,
}

/// The topic of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    /// The job waits for a worker.
    Dispatch,
    Succeeded,
    Failed,
    Cancelled,
}

impl Topic {
    const ALL: [Self; 4] = [Self::Dispatch, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// For an event, also its routing key.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dispatch => "dispatch",
            Self::Succeeded => "job.succeeded",
            Self::Failed => "job.failed",
            Self::Cancelled => "job.cancelled",
        }
    }

    pub fn is_event(self) -> bool {
        match self {
            Self::Dispatch => false,
            Self::Succeeded | Self::Failed | Self::Cancelled => true,
        }
    }

    /// The messages to send after a row has changed its state.
    pub(super) fn of(state: JobState) -> Option<Self> {
        match state {
            JobState::Queued => Some(Self::Dispatch),
            JobState::Running => None,
            JobState::Succeeded => Some(Self::Succeeded),
            JobState::Failed => Some(Self::Failed),
            JobState::Cancelled => Some(Self::Cancelled),
        }
    }
}

impl FromStr for Topic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|topic| topic.as_str() == text)
            .ok_or_else(|| format!("`{text}` is not a topic of the outbox"))
    }
}
