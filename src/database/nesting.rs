//! Jobs that take layers of other jobs apart.

use super::{Filter, JobRow, JobStore};
use crate::job::{JobError, JobId, JobKind, JobRequest, JobState, LAYER_OF, MOST_NESTED, ParentLayer};

/// The most decomposes of a job's layers that are looked at, newest first.
const MOST: u32 = 200;

impl JobStore {
    /// The layer that a request takes apart, with its depth. Jobs that were deleted do not count.
    ///
    /// # Errors
    /// [`JobError::InvalidRequest`] if it is nested too deep.
    pub async fn nesting(&self, request: &JobRequest) -> Result<Option<ParentLayer>, JobError> {
        let Some(parent) = request.parent_layer() else { return Ok(None) };
        let (mut depth, mut next) = (1, Some(parent.job));
        while let Some(job) = next {
            next = self.get(job).await?.and_then(|row| row.request.parent_layer()).map(|above| above.job);
            depth += u32::from(next.is_some());
            if depth > MOST_NESTED {
                let reason = format!(
                    "layer {} of job {} is the result of {MOST_NESTED} decomposes of layers, which is the most; edit it, \
                     or take the picture apart anew with more layers",
                    parent.layer, parent.job
                );
                return Err(JobError::invalid("input", reason));
            }
        }
        Ok(Some(ParentLayer { depth, ..parent }))
    }

    /// The decomposes of a job's layers that have succeeded, newest first.
    pub async fn nested_in(&self, job: JobId) -> Result<Vec<JobRow>, JobError> {
        let filter = Filter {
            state: Some(JobState::Succeeded),
            kind: Some(JobKind::Decompose),
            labels: vec![(LAYER_OF.to_owned(), job.to_string())],
            limit: MOST,
            ..Filter::default()
        };
        let mut jobs = self.list(&filter).await?.jobs;
        // The search may find a label of that name.
        jobs.retain(|row| row.request.parent_layer().is_some_and(|parent| parent.job == job));
        Ok(jobs)
    }
}
