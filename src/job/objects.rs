//! What a job leaves in the store.

use super::{Epoch, JobId};

/// What a job may have written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobObjects {
    pub job: JobId,
    /// Its last attempt. Objects of later ones belong to a job that was queued again meanwhile, and are left alone.
    pub epoch: Epoch,
    /// The root of its result. Absent: the own store; failed attempts may also have written below `prefix`.
    pub root: Option<String>,
    /// The request's `output.prefix`.
    pub prefix: String,
    /// The names of the files that its manifest lists, if it has a result.
    pub files: Option<Vec<String>>,
}
