//! What is remembered of deleted jobs: their ids, for as long as a message of them may wait in a queue.

use jiff::Timestamp;

/// The outcome of a submission by a message of another client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The job has a row, new or known.
    Job,
    /// The job had ended and was deleted; nothing was written.
    Deleted(Timestamp),
}
