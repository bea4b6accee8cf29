//! `/v1/dead-letters`: messages that are not valid jobs, or that RabbitMQ removed from their queue.

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::{
    api::Api,
    caller::Caller,
    extract::{PathParams, QueryParams},
    problem::{Answer, ApiError, Problem},
};
use crate::{
    database::{Action, JobStore, Subject},
    job::{JobError, JobKind},
    queue::{DeadLetter, DeadLetterAction, DeadLetterFilter, DeadLetterName, DeadLetterReport, DeadLetterRetry, Queue},
};

const USUAL: u32 = 50;
const MOST: u32 = 1000;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeadLetterQuery {
    /// Only those from the queue of this kind.
    kind: Option<JobKind>,
    /// Only those with this code, or with this text in their reason.
    reason: Option<String>,
    /// Default: 50.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RetryQuery {
    /// The kind of job to publish it as. Default: that of the queue that it came from.
    to: Option<JobKind>,
    /// Also run jobs that the database does not know, for instance after it was restored from an older backup.
    #[serde(default)]
    as_new: bool,
}

/// Some of the dead letters, oldest first, without their bodies.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetterPage)]
pub struct DeadLetterList {
    /// How many are in the queue, without those that another reader holds.
    pub total: u32,
    pub dead_letters: Vec<DeadLetter>,
    /// Whether there are more than `limit`.
    pub more: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct RetriedLetters {
    /// How many dead letters were published again; equal ones have the same id.
    pub retried: usize,
}

/// List dead letters, oldest first
///
/// They stay in the queue. Needs the role `operate`.
#[utoipa::path(get, path = "/v1/dead-letters", tag = "dead-letters", operation_id = "list_dead_letters", params(DeadLetterQuery),
    responses((status = 200, description = "The dead letters", body = DeadLetterList), (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(api): State<Api>,
    QueryParams(asked): QueryParams<DeadLetterQuery>,
) -> Answer<Json<DeadLetterList>> {
    let limit = asked.limit.unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) {
        return Err(ApiError::bad_request(format!("limit: {limit} is not between 1 and {MOST}")).about("limit"));
    }
    let filter = DeadLetterFilter { kind: asked.kind, reason: asked.reason, ..DeadLetterFilter::default() };
    let page = queue(&api)?.dead_letters(&filter, limit).await?;
    Ok(Json(DeadLetterList { total: page.total, dead_letters: page.letters, more: page.more }))
}

/// Show a dead letter with its body
///
/// `id` is the dead letter's, its position (1 is the oldest), or a job's. At most 64 KiB of the body are returned.
#[utoipa::path(get, path = "/v1/dead-letters/{id}", tag = "dead-letters", operation_id = "show_dead_letter", params(("id" = String, Path)),
    responses((status = 200, description = "The dead letter", body = DeadLetter), (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn show(State(api): State<Api>, PathParams(id): PathParams<String>) -> Answer<Json<DeadLetter>> {
    let name = named(&id)?;
    let found = queue(&api)?.dead_letter(name.clone()).await?;
    Ok(Json(found.ok_or_else(|| missing(&name))?))
}

/// Publish a dead letter again
///
/// To the queue that it came from. It is removed from the dead letters once RabbitMQ has confirmed that; if the server
/// dies in between, the message is there twice, which is one job.
#[utoipa::path(post, path = "/v1/dead-letters/{id}/retry", tag = "dead-letters", operation_id = "retry_dead_letter", params(("id" = String, Path), RetryQuery),
    responses((status = 200, description = "Published", body = RetriedLetters), (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn retry(
    State(api): State<Api>,
    caller: Caller,
    PathParams(id): PathParams<String>,
    QueryParams(asked): QueryParams<RetryQuery>,
) -> Answer<Json<RetriedLetters>> {
    let how = DeadLetterRetry { to: asked.to, as_new: asked.as_new };
    let report = handle(&api, &caller, &id, DeadLetterAction::Retry(how)).await?;
    Ok(Json(RetriedLetters { retried: report.done.len() }))
}

/// Drop a dead letter
#[utoipa::path(delete, path = "/v1/dead-letters/{id}", tag = "dead-letters", operation_id = "drop_dead_letter", params(("id" = String, Path)),
    responses((status = 204, description = "Dropped"), (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn drop(State(api): State<Api>, caller: Caller, PathParams(id): PathParams<String>) -> Answer<StatusCode> {
    handle(&api, &caller, &id, DeadLetterAction::Drop).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn handle(api: &Api, caller: &Caller, id: &str, action: DeadLetterAction) -> Answer<DeadLetterReport> {
    let name = named(id)?;
    let jobs = api.by(caller).jobs().clone();
    let queue = queue(api)?.clone();
    let filter = DeadLetterFilter::one(name.clone());
    // In a task of its own: a client that leaves must not stop it between publishing and removing.
    let handled = tokio::spawn(async move {
        let done = match action {
            DeadLetterAction::Retry(_) => Action::DeadLetterRetried,
            DeadLetterAction::Drop => Action::DeadLetterDropped,
        };
        queue.handle_dead_letters(&filter, action, |letters| record(jobs.clone(), done, letters), |_| true).await
    });
    let mut report = handled.await.map_err(|error| JobError::Busy { reason: error.to_string() })??;
    if let Some((_, error)) = report.failed.pop() {
        return Err(match error {
            JobError::InvalidRequest { reason, .. } => JobError::invalid("to", reason).into(),
            error => error.into(),
        });
    }
    if report.done.is_empty() { Err(missing(&name)) } else { Ok(report) }
}

async fn record(jobs: JobStore, action: Action, letters: Vec<DeadLetter>) -> Result<(), JobError> {
    for letter in letters {
        let subject = Subject::DeadLetter(&letter.id, letter.job);
        let detail = json!({ "dead_letter": letter.id, "code": letter.code, "queue": letter.queue });
        jobs.record(action, subject, 1, &detail).await?;
    }
    Ok(())
}

/// Only a broker has dead letters.
fn queue(api: &Api) -> Answer<&Queue> {
    match &api.parts.queue {
        Queue::Embedded(_) => Err(ApiError::conflict(
            "this server has no dead letters: it runs without RabbitMQ (queue.url); jobs that cannot run are in \
             /v1/jobs?state=failed",
        )),
        queue @ Queue::Rabbit(_) => Ok(queue),
    }
}

fn named(id: &str) -> Answer<DeadLetterName> {
    id.parse().map_err(|reason: String| ApiError::bad_request(reason).about("id"))
}

fn missing(name: &DeadLetterName) -> ApiError {
    ApiError::not_found(format!("there is no dead letter {name}, or another reader holds it right now"))
}
