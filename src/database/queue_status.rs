//! What waits, what runs and what is paused, as the command line and the API show it.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Pause, Scope, backend::JobStore, dispatch::KindCounts};
use crate::job::{JobError, JobKind};

/// The queue as a whole. Fields are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct QueueStatus {
    /// How many jobs of each kind are dispatched before a worker starts them (`queue.window`); null: any number.
    pub window: Option<u64>,
    /// Live workers.
    pub workers: u64,
    /// How many jobs they hold at a time, together.
    pub slots: u64,
    pub paused: Vec<PauseStatus>,
    pub kinds: Vec<KindStatus>,
    /// The tenants with running jobs.
    pub tenants: Vec<TenantStatus>,
}

/// What is paused, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PauseStatus {
    /// `all`, `kind` or `batch`.
    pub scope: String,
    /// The kind or the batch; null for `all`.
    pub name: Option<String>,
    pub paused_at: Timestamp,
    /// Why, if acetate paused it and not a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What may be a mistake: no job is in this batch yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remark: Option<&'static str>,
}

/// The unfinished jobs of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct KindStatus {
    pub kind: JobKind,
    /// Due, but not dispatched: queued, or left by a worker that died.
    pub waiting: u64,
    /// Queued for a later time: scheduled, or waiting for the next attempt.
    pub scheduled: u64,
    /// In the broker, and not started. 0 without a broker.
    pub dispatched: u64,
    /// Running on a live worker.
    pub running: u64,
    /// Whether the kind, or everything, is paused.
    pub paused: bool,
}

/// The running jobs of one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct TenantStatus {
    pub tenant: String,
    pub running: u64,
    /// The most jobs that it may have in the broker or running; null: any number.
    pub limit: Option<u32>,
}

impl JobStore {
    pub async fn queue_status(&self) -> Result<QueueStatus, JobError> {
        let (pauses, workers, rules) = (self.pauses().await?, self.workers().await?, self.dispatch_rules());
        let counts = self.kind_counts().await?;
        let is_paused = |kind| pauses.iter().any(|pause| pause.scope == Scope::All || pause.scope == Scope::Kind(kind));
        let kind = |kind: JobKind| {
            let none = KindCounts { kind, waiting: 0, scheduled: 0, dispatched: 0, running: 0 };
            let KindCounts { waiting, scheduled, dispatched, running, .. } =
                counts.iter().find(|counts| counts.kind == kind).copied().unwrap_or(none);
            KindStatus { kind, waiting, scheduled, dispatched, running, paused: is_paused(kind) }
        };
        let tenant = |(tenant, running): (String, u64)| {
            let limit = rules.limit_of(&tenant);
            TenantStatus { tenant, running, limit }
        };
        let mut paused = Vec::with_capacity(pauses.len());
        for pause in &pauses {
            paused.push(PauseStatus { remark: self.remark_on(&pause.scope).await?, ..PauseStatus::from(pause) });
        }
        Ok(QueueStatus {
            window: rules.window_of(workers),
            workers: workers.workers,
            slots: workers.slots,
            paused,
            kinds: JobKind::ALL.into_iter().map(kind).collect(),
            tenants: self.tenants_running().await?.into_iter().map(tenant).collect(),
        })
    }
}

impl JobStore {
    /// What a person who pauses this should know.
    pub async fn remark_on(&self, scope: &Scope) -> Result<Option<&'static str>, JobError> {
        let Scope::Batch(batch) = scope else { return Ok(None) };
        let is_empty = self.batch_rows(batch, None, 1).await?.is_empty();
        Ok(is_empty.then_some("no job is in this batch yet"))
    }
}

impl From<&Pause> for PauseStatus {
    fn from(pause: &Pause) -> Self {
        let (scope, name) = pause.scope.columns();
        Self {
            scope: scope.to_owned(),
            name: Some(name).filter(|name| !name.is_empty()),
            paused_at: pause.paused_at,
            reason: pause.reason.clone(),
            remark: None,
        }
    }
}
