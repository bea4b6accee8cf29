//! Runs work on blocking threads.

use crate::job::JobError;

/// Runs file operations or computations outside of the async runtime's threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JobError> + Send + 'static,
) -> Result<T, JobError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(JobError::storage("store", format!("its thread stopped: {error}")).caused_by(error)),
    }
}
