//! `/v1/queue`: what waits and runs; pause and resume.

use axum::{Json, extract::State};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    api::Api,
    caller::Caller,
    extract,
    problem::{Answer, ApiError, Problem},
};
use crate::{
    database::{QueueStatus, Scope},
    job::{BatchId, JobKind},
};

/// The most bytes of a body.
const MOST: usize = 4096;

/// What to pause or resume: a kind or a batch. Without either: all jobs.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScopeBody {
    #[serde(default)]
    pub kind: Option<JobKind>,
    #[serde(default)]
    pub batch: Option<BatchId>,
}

impl ScopeBody {
    fn scope(self) -> Answer<Scope> {
        match (self.kind, self.batch) {
            (None, None) => Ok(Scope::All),
            (Some(kind), None) => Ok(Scope::Kind(kind)),
            (None, Some(batch)) => Ok(Scope::Batch(batch)),
            (Some(_), Some(_)) => {
                Err(ApiError::bad_request("has both `kind` and `batch`; give one, or neither for all jobs")
                    .about("batch"))
            }
        }
    }
}

/// Show what waits, runs and is paused
#[utoipa::path(get, path = "/v1/queue", tag = "queue", operation_id = "show_queue",
    responses((status = 200, description = "The queue", body = QueueStatus), (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn show(State(api): State<Api>) -> Answer<Json<QueueStatus>> {
    Ok(Json(api.jobs().queue_status().await?))
}

/// Pause all jobs, a kind or a batch
///
/// Queued jobs stay queued until you resume; running ones go on.
#[utoipa::path(post, path = "/v1/queue/pause", tag = "queue", operation_id = "pause_queue", request_body = ScopeBody,
    responses((status = 200, description = "The queue", body = QueueStatus), (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn pause(
    State(api): State<Api>,
    caller: Caller,
    extract::Json(body): extract::Json<ScopeBody, MOST>,
) -> Answer<Json<QueueStatus>> {
    api.by(&caller).jobs().pause(&body.scope()?).await?;
    Ok(Json(api.jobs().queue_status().await?))
}

/// Resume what was paused with the same kind, the same batch, or neither
#[utoipa::path(post, path = "/v1/queue/resume", tag = "queue", operation_id = "resume_queue", request_body = ScopeBody,
    responses((status = 200, description = "The queue", body = QueueStatus), (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn resume(
    State(api): State<Api>,
    caller: Caller,
    extract::Json(body): extract::Json<ScopeBody, MOST>,
) -> Answer<Json<QueueStatus>> {
    api.by(&caller).jobs().resume(&body.scope()?).await?;
    api.wake();
    Ok(Json(api.jobs().queue_status().await?))
}
