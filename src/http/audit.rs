//! `/v1/audit`, who did what, and `/v1/jobs/{id}/history`, what happened to a job.

use axum::{Json, extract::State};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{
    api::Api,
    extract::{Id, QueryParams},
    problem::{Answer, ApiError, Problem},
    view::AttemptView,
};
use crate::{
    database::{Action, ActionFilter, ActionRow, HistoryEntry},
    job::{BatchId, JobId},
};

const USUAL: u32 = 50;
const MOST: u32 = 1000;

/// Something that a person or a program did.
#[derive(Debug, Serialize, ToSchema)]
pub struct ActionView {
    pub id: i64,
    /// By the database's clock.
    pub at: Timestamp,
    /// The name of a token (`token` for `http.token`), `anonymous` without one, `cli:USER@HOST`, or
    /// `amqp:USER` (`amqp` if the message does not say) for a message.
    pub actor: String,
    /// The client's address, for requests.
    pub address: Option<String>,
    /// `submitted`, `cancelled`, `retried`, `deleted`, `pruned`, `dead_letter_retried`, `dead_letter_dropped`, `paused`
    /// or `resumed`; a newer version may have more.
    pub action: String,
    /// The job; null for an action on many.
    pub job: Option<JobId>,
    pub batch: Option<BatchId>,
    /// How many jobs, or dead letters.
    pub jobs: u64,
    #[schema(value_type = Option<Object>)]
    pub detail: Option<Value>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ActionPage)]
pub struct Actions {
    pub actions: Vec<ActionView>,
    /// The start of the next page; null on the last page.
    pub next: Option<i64>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// Only actions from this time on.
    since: Option<Timestamp>,
    actor: Option<String>,
    action: Option<String>,
    job: Option<JobId>,
    batch: Option<BatchId>,
    /// Default: 50.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// The previous page's `next`.
    after: Option<i64>,
}

/// One thing that happened to a job.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum HistoryView {
    /// The job was accepted by a version that did not record who submitted it.
    Accepted { at: Timestamp },
    /// An action on the job, or on its whole batch.
    Action(ActionView),
    /// A worker claimed the job.
    Attempt(AttemptView),
    /// The job was deleted together with others.
    Removed { at: Timestamp },
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = JobHistory)]
pub struct History {
    pub id: JobId,
    /// Oldest first.
    pub history: Vec<HistoryView>,
}

impl From<ActionRow> for ActionView {
    fn from(row: ActionRow) -> Self {
        let ActionRow { id, at, actor, address, action, job, batch, jobs, detail } = row;
        Self { id, at, actor, address, action, job, batch, jobs, detail }
    }
}

impl From<HistoryEntry> for HistoryView {
    fn from(entry: HistoryEntry) -> Self {
        match entry {
            HistoryEntry::Accepted(at) => Self::Accepted { at },
            HistoryEntry::Action(action) => Self::Action(action.into()),
            HistoryEntry::Attempt(attempt) => Self::Attempt(attempt.into()),
            HistoryEntry::Removed(at) => Self::Removed { at },
        }
    }
}

/// List who did what, newest first
#[utoipa::path(get, path = "/v1/audit", tag = "audit", operation_id = "list_actions", params(AuditQuery),
    responses((status = 200, description = "A page of actions", body = Actions), (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn list(State(api): State<Api>, QueryParams(asked): QueryParams<AuditQuery>) -> Answer<Json<Actions>> {
    let limit = asked.limit.unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) {
        return Err(ApiError::bad_request(format!("limit: {limit} is not between 1 and {MOST}")).about("limit"));
    }
    let AuditQuery { since, actor, action, job, batch, after, .. } = asked;
    let action = action.filter(|action| !action.is_empty());
    if let Some(reason) = action.as_deref().and_then(|action| Action::check(action).err()) {
        return Err(ApiError::bad_request(format!("action: {reason}")).about("action"));
    }
    let page = api.jobs().list_actions(&ActionFilter { since, actor, action, job, batch, limit, after }).await?;
    Ok(Json(Actions { actions: page.actions.into_iter().map(ActionView::from).collect(), next: page.next }))
}

/// Show what happened to a job
///
/// Actions on it and on its whole batch, and its attempts, oldest first. Actions stay after the job was deleted.
#[utoipa::path(get, path = "/v1/jobs/{id}/history", tag = "audit", operation_id = "show_job_history", params(("id" = JobId, Path)),
    responses((status = 200, description = "The history", body = History), (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn history(State(api): State<Api>, Id(id): Id) -> Answer<Json<History>> {
    let Some(entries) = api.jobs().history(id).await? else { return Err(api.no_job(id).await) };
    Ok(Json(History { id, history: entries.into_iter().map(HistoryView::from).collect() }))
}
