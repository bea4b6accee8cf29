//! Cancels, retries and deletes jobs.

use axum::{Json, extract::State, http::StatusCode};

use crate::{
    database::{CancelOutcome, EndedJob, RetryOutcome},
    http::{
        api::Api,
        caller::Caller,
        extract::Id,
        problem::{Answer, ApiError, Problem},
        view::JobView,
    },
    job::{JobId, JobState},
};

/// Cancel a job
///
/// A running job stops within one denoise step.
#[utoipa::path(post, path = "/v1/jobs/{id}/cancel", tag = "jobs", operation_id = "cancel_job", params(("id" = JobId, Path)),
    responses((status = 200, description = "The job", body = JobView), (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn cancel(State(api): State<Api>, caller: Caller, Id(id): Id) -> Answer<Json<JobView>> {
    let api = api.by(&caller);
    caller.may_cancel(&api, id).await?;
    match api.cancel(id).await? {
        CancelOutcome::Cancelled | CancelOutcome::Requested => {}
        CancelOutcome::AlreadyEnded(state) => {
            return Err(ApiError::conflict(format!("job {id} has already ended ({state})")));
        }
        CancelOutcome::Unknown => return Err(api.no_job(id).await),
    }
    Ok(Json(JobView::new(&api.job(id).await?, &api)))
}

/// Retry a failed or cancelled job
///
/// A job that is queued or running is returned as it is, so that the request can be repeated.
#[utoipa::path(post, path = "/v1/jobs/{id}/retry", tag = "jobs", operation_id = "retry_job", params(("id" = JobId, Path)),
    responses((status = 200, description = "The job", body = JobView), (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn retry(State(api): State<Api>, caller: Caller, Id(id): Id) -> Answer<Json<JobView>> {
    let api = api.by(&caller);
    match api.jobs().retry(id).await? {
        RetryOutcome::Queued(row) => {
            api.wake();
            Ok(Json(JobView::new(&row, &api)))
        }
        RetryOutcome::Refused(JobState::Queued | JobState::Running) => {
            Ok(Json(JobView::new(&api.job(id).await?, &api)))
        }
        RetryOutcome::Refused(state) => Err(ApiError::conflict(format!(
            "job {id} {}; only failed or cancelled jobs can be retried",
            state.predicate()
        ))),
        RetryOutcome::Unknown => Err(api.no_job(id).await),
    }
}

/// Delete a job and its files
#[utoipa::path(delete, path = "/v1/jobs/{id}", tag = "jobs", operation_id = "delete_job", params(("id" = JobId, Path)),
    responses((status = 204, description = "Deleted"), (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn delete(State(api): State<Api>, caller: Caller, Id(id): Id) -> Answer<StatusCode> {
    let api = api.by(&caller);
    let row = api.job(id).await?;
    if !row.state.is_terminal() {
        return Err(ApiError::conflict(format!("job {id} is {}; cancel it first", row.state)));
    }
    let ended = EndedJob::from(&row);
    // The files before the row: if the process stops in between, the row still names the remaining files.
    if !api.jobs().retire_results(&[ended]).await?.is_empty()
        && let Some(error) = api.stores().delete_results(&[row.objects()]).await.failed.remove(&id)
    {
        return Err(error.into());
    }
    if api.jobs().forget(&[ended]).await?.left > 0 {
        return Err(ApiError::conflict(format!("job {id} was retried meanwhile; look at it again")));
    }
    api.thumbnails.forget(id);
    Ok(StatusCode::NO_CONTENT)
}
