//! `/v1/batches`: many jobs under one name.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Request, State},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    api::Api,
    caller::Caller,
    extract::{self, PathParams, QueryParams},
    problem::{Answer, ApiError, Problem},
};
use crate::{
    database::{BatchSummary, CancelId, RetryRules},
    job::{BatchId, JobError, JobState},
};

const USUAL: u32 = 20;
const MOST: u32 = 100;
const MOST_BYTES: u64 = 16 * 1024;

/// The progress of a batch.
#[derive(Debug, Serialize, ToSchema)]
pub struct BatchView {
    pub batch: BatchId,
    pub total: u64,
    /// The number of jobs in each state.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub states: BTreeMap<String, u64>,
    pub ended: u64,
    pub created_at: Timestamp,
    /// When the most recent job ended.
    pub last_finished_at: Option<Timestamp>,
    /// The mean time from claim to end of the jobs that succeeded.
    pub mean_seconds: Option<f64>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BatchPage)]
pub struct Batches {
    pub batches: Vec<BatchView>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Cancelled {
    /// The number of jobs that were cancelled or asked to stop.
    pub cancelled: u64,
    /// Takes it back: give it to `POST /v1/batches/{batch}/retry`.
    pub undo: CancelId,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct BatchQuery {
    /// Default: 20.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
}

impl BatchView {
    fn new(batch: BatchId, summary: &BatchSummary) -> Self {
        let states = summary.states.iter().map(|(state, jobs): &(JobState, u64)| (state.to_string(), *jobs)).collect();
        Self {
            batch,
            total: summary.total(),
            states,
            ended: summary.ended(),
            created_at: summary.first_created,
            last_finished_at: summary.last_finished,
            mean_seconds: summary.mean_seconds,
        }
    }
}

/// List batches, newest jobs first
#[utoipa::path(get, path = "/v1/batches", tag = "batches", operation_id = "list_batches", params(BatchQuery),
    responses((status = 200, description = "The batches", body = Batches), (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn list(State(api): State<Api>, QueryParams(asked): QueryParams<BatchQuery>) -> Answer<Json<Batches>> {
    let limit = asked.limit.unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) {
        return Err(ApiError::bad_request(format!("limit: {limit} is not between 1 and {MOST}")).about("limit"));
    }
    let mut batches = Vec::new();
    for batch in api.jobs().batches(limit).await? {
        if let Some(summary) = api.jobs().batch_summary(&batch).await? {
            batches.push(BatchView::new(batch, &summary));
        }
    }
    Ok(Json(Batches { batches }))
}

/// Show a batch
#[utoipa::path(get, path = "/v1/batches/{batch}", tag = "batches", operation_id = "show_batch", params(("batch" = BatchId, Path)),
    responses((status = 200, description = "The batch", body = BatchView), (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn show(State(api): State<Api>, PathParams(batch): PathParams<String>) -> Answer<Json<BatchView>> {
    let batch = named(&batch)?;
    match api.jobs().batch_summary(&batch).await? {
        Some(summary) => Ok(Json(BatchView::new(batch, &summary))),
        None => Err(ApiError::not_found(format!("there is no batch {batch}"))),
    }
}

/// Cancel the jobs of a batch
#[utoipa::path(post, path = "/v1/batches/{batch}/cancel", tag = "batches", operation_id = "cancel_batch", params(("batch" = BatchId, Path)),
    responses((status = 200, description = "The number of jobs", body = Cancelled), (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn cancel(
    State(api): State<Api>,
    caller: Caller,
    PathParams(batch): PathParams<String>,
) -> Answer<Json<Cancelled>> {
    let api = api.by(&caller);
    let batch = named(&batch)?;
    if api.jobs().batch_summary(&batch).await?.is_none() {
        return Err(ApiError::not_found(format!("there is no batch {batch}")));
    }
    let undo = CancelId::new();
    let cancelled = api.jobs().cancel_batch_in_steps(&batch, undo, |_| true).await?;
    api.wake();
    Ok(Json(Cancelled { cancelled, undo }))
}

/// Which jobs of a batch to retry.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryBody {
    /// `failed`, `cancelled` or both. Default: `failed`.
    state: Vec<JobState>,
    /// Only jobs whose error has one of these codes.
    code: Vec<String>,
    /// Only the jobs that this cancellation of the batch cancelled: its `undo`. Instead of `state` and `code`.
    undo: Option<CancelId>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Retried {
    /// The number of jobs that were queued again.
    pub retried: u64,
    /// With `undo`: the number of jobs that the cancellation asked to stop and that still run. Send the request again
    /// until there are none.
    pub stopping: u64,
    /// The jobs that were not queued again, by their state before.
    pub left: BTreeMap<String, u64>,
}

/// Retry the failed jobs of a batch
///
/// Without a body, all that have failed. Jobs that are queued, running or have succeeded are left alone, so the request
/// can be repeated.
#[utoipa::path(post, path = "/v1/batches/{batch}/retry", tag = "batches", operation_id = "retry_batch", params(("batch" = BatchId, Path)),
    request_body = Option<RetryBody>,
    responses((status = 200, description = "The number of jobs", body = Retried), (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn retry(
    State(api): State<Api>,
    caller: Caller,
    PathParams(batch): PathParams<String>,
    request: Request,
) -> Answer<Json<Retried>> {
    let api = api.by(&caller);
    let batch = named(&batch)?;
    let (parts, body) = request.into_parts();
    let bytes = extract::whole(&parts.headers, body, MOST_BYTES).await?;
    let asked: RetryBody = match bytes.is_empty() {
        true => RetryBody::default(),
        false if extract::is_json(&parts.headers) => extract::parse(&bytes)?,
        false => return Err(extract::unsupported("application/json")),
    };
    if let Some(state) = asked.state.iter().find(|state| !matches!(state, JobState::Failed | JobState::Cancelled)) {
        let reason = format!("{state} jobs are not retried; the states are failed and cancelled");
        return Err(JobError::invalid("state", reason).into());
    }
    let RetryBody { state, code: codes, undo: cancel } = asked;
    if cancel.is_some() && !(state.is_empty() && codes.is_empty()) {
        let reason = "chooses the jobs that were cancelled by it; leave out `state` and `code`";
        return Err(JobError::invalid("undo", reason).into());
    }
    let Some(before) = api.jobs().batch_summary(&batch).await? else {
        return Err(ApiError::not_found(format!("there is no batch {batch}")));
    };
    let states = match (cancel, state.is_empty()) {
        (Some(_), _) => vec![JobState::Cancelled],
        (None, true) => vec![JobState::Failed],
        (None, false) => state,
    };
    // Before those that have stopped are queued again, so that none is missed between the two.
    let stopping = match cancel {
        Some(cancel) => api.jobs().stopping(&batch, cancel).await?,
        None => 0,
    };
    let rules = RetryRules { batch, states, codes, cancel };
    rules.check_codes("code", api.jobs()).await?;
    let retried = api.jobs().retry_batch(&rules, |_| true).await?.len() as u64;
    api.wake();
    let left = left(&before, api.jobs().batch_summary(&rules.batch).await?.as_ref());
    Ok(Json(Retried { retried, stopping, left }))
}

/// Of each state the jobs that were in it before and after. Those that were queued before are still so, or have
/// started.
fn left(before: &BatchSummary, after: Option<&BatchSummary>) -> BTreeMap<String, u64> {
    let stayed = |state: JobState, jobs: u64| match state {
        JobState::Queued => jobs,
        JobState::Running | JobState::Succeeded | JobState::Failed | JobState::Cancelled => {
            jobs.min(after.map_or(0, |after| after.in_state(state)))
        }
    };
    let states = before.states.iter().map(|(state, jobs)| (state.to_string(), stayed(*state, *jobs)));
    states.filter(|(_, jobs)| *jobs > 0).collect()
}

fn named(text: &str) -> Answer<BatchId> {
    text.parse().map_err(|error: JobError| ApiError::bad_request(error.to_string()).about("batch"))
}
