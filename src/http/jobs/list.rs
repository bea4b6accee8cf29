//! `GET /v1/jobs` and `GET /v1/jobs/{id}`.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    database::{Cursor, Filter},
    http::{
        api::Api,
        extract::{Id, QueryParams},
        problem::{Answer, ApiError, Problem},
        view::JobView,
    },
    job::{BatchId, JobError, JobId, JobKind, JobState},
};

const USUAL: u32 = 50;
const MOST: u32 = 200;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct JobQuery {
    state: Option<JobState>,
    kind: Option<JobKind>,
    batch: Option<BatchId>,
    /// `key=value`.
    label: Option<String>,
    /// Words that must all occur in the id, the batch, a label, the prompt, an instruction or a picture's name.
    q: Option<String>,
    /// Default: 50.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
    /// The previous page's `next`, or the id of a job.
    after: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = JobPage)]
pub struct Jobs {
    pub jobs: Vec<JobView>,
    /// The `after` of the next page; null on the last page.
    pub next: Option<String>,
}

/// List jobs, newest first
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs", operation_id = "list_jobs", params(JobQuery),
    responses((status = 200, description = "A page of jobs", body = Jobs), (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn list(State(api): State<Api>, QueryParams(asked): QueryParams<JobQuery>) -> Answer<Json<Jobs>> {
    let limit = asked.limit.unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) {
        return Err(ApiError::bad_request(format!("limit: {limit} is not between 1 and {MOST}")).about("limit"));
    }
    let label = match asked.label.as_deref().map(|label| label.split_once('=')) {
        None => Vec::new(),
        Some(Some((key, value))) => vec![(key.to_owned(), value.to_owned())],
        Some(None) => return Err(ApiError::bad_request("label: write key=value").about("label")),
    };
    let wrong = |error: JobError| ApiError::bad_request(error.to_string()).about("after");
    let after = asked.after.as_deref().map(str::parse::<Cursor>).transpose().map_err(wrong)?;
    let filter = Filter {
        state: asked.state,
        kind: asked.kind,
        batch: asked.batch,
        labels: label,
        search: asked.q.unwrap_or_default(),
        limit,
        after,
    };
    let page = api.jobs().list(&filter).await?;
    Ok(Json(Jobs {
        jobs: page.jobs.iter().map(|row| JobView::new(row, &api)).collect(),
        next: page.next.map(|next| next.to_string()),
    }))
}

/// Show a job
#[utoipa::path(get, path = "/v1/jobs/{id}", tag = "jobs", operation_id = "show_job", params(("id" = JobId, Path)),
    responses((status = 200, description = "The job", body = JobView), (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn show(State(api): State<Api>, Id(id): Id) -> Answer<Json<JobView>> {
    let Some((row, attempts)) = api.jobs().get_with_attempts(id).await? else { return Err(api.no_job(id).await) };
    Ok(Json(JobView::new(&row, &api).with_history(attempts)))
}
