//! `/healthz`, `/readyz` and `/metrics`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tokio::{sync::Mutex, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::metrics;
use crate::{database::JobStore, job::JobError, queue::Queue, store::Stores, telemetry::Metrics};

/// How long a probe waits for the database.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long the database's answer is reused by other probes.
const FRESH: Duration = Duration::from_secs(1);

/// The state that the probes check; clones share it.
#[derive(Clone)]
pub struct Probes {
    pub jobs: JobStore,
    pub queue: Queue,
    pub metrics: Metrics,
    /// Whether this process runs jobs; otherwise it is ready if it can accept them.
    pub works: bool,
    /// Set when the device has failed; a worker whose device fails the self-test at startup never gets here.
    pub broken: CancellationToken,
    /// Set once the worker accepts no more jobs.
    pub leaving: CancellationToken,
    /// The kinds of jobs that the worker does not take.
    pub unfit: Unfit,
    /// Those of the worker.
    stores: Stores,
    database: Arc<Mutex<DatabaseProbe>>,
}

/// What the database answered, and a question that it has not answered yet: others would only queue behind it.
#[derive(Default)]
struct DatabaseProbe {
    last: Option<LastAnswer>,
    asked: Option<JoinHandle<Result<(), JobError>>>,
    /// The last error since it worked.
    cause: Option<String>,
}

/// Which kinds of jobs the worker does not take, and why.
pub type Unfit = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// The time and the result of the last database check.
type LastAnswer = (Instant, Result<(), String>);

impl Probes {
    pub fn new(
        jobs: JobStore,
        queue: Queue,
        stores: Stores,
        metrics: Metrics,
        works: bool,
        broken: CancellationToken,
        leaving: CancellationToken,
    ) -> Self {
        super::metrics::describe_database();
        Self {
            jobs,
            queue,
            stores,
            metrics,
            works,
            broken,
            leaving,
            unfit: Arc::new(|| None),
            database: Arc::default(),
        }
    }

    /// Also says what the worker in this process does not take.
    pub fn with_unfit(self, unfit: Unfit) -> Self {
        Self { unfit, ..self }
    }

    async fn database(&self) -> Result<(), String> {
        let mut probe = self.database.lock().await;
        if let Some((at, result)) = probe.last.as_ref()
            && at.elapsed() < FRESH
        {
            return result.clone();
        }
        let jobs = self.jobs.clone();
        // Runs in its own task, because a database query must not be dropped midway.
        let asked = probe.asked.get_or_insert_with(|| tokio::spawn(async move { jobs.ping().await }));
        let answer = tokio::time::timeout(TIMEOUT, asked).await;
        let result = match answer {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(error.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => {
                let before = probe.cause.as_ref().map(|cause| format!("; before that: {cause}")).unwrap_or_default();
                let text = format!("{}: no response within {} s{before}", self.jobs.place(), TIMEOUT.as_secs());
                probe.last = Some((Instant::now(), Err(text.clone())));
                return Err(text);
            }
        };
        *probe =
            DatabaseProbe { last: Some((Instant::now(), result.clone())), asked: None, cause: result.clone().err() };
        result
    }

    /// What the last job that could not write found, until the store takes objects again.
    async fn store(&self) -> Result<(), String> {
        let Some(trouble) = self.stores.trouble() else { return Ok(()) };
        match tokio::time::timeout(TIMEOUT, self.stores.own_is_usable()).await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err(trouble),
        }
    }
}

/// The process responds. Nothing else is checked, so that an unreachable database does not restart workers.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// 200 if this worker can run jobs: it consumes, reaches the database, and its device has passed the self-test. For a
/// process that only accepts jobs: if it reaches the database.
pub async fn readyz(State(probes): State<Probes>) -> Response {
    let health = probes.queue.health();
    // Without a broker, jobs are still accepted, and dispatched when it is back.
    let blocked = health.blocked.map(|why| {
        format!(
            "blocked: RabbitMQ accepts no messages (connection.blocked: {why}), it is short of memory or disk; jobs are \
             kept in the database until it accepts them again"
        )
    });
    let refused = health.refused.map(|why| {
        format!("refused: RabbitMQ does not take everything that this process sends, which stays in the database or its queue until it does: {why}")
    });
    let queue = match blocked.or(refused) {
        Some(why) => Err(why),
        None if !probes.works || health.connected && health.consuming => Ok(()),
        None => {
            let why = health.last_error.unwrap_or_else(|| "not consuming yet".to_owned());
            Err(format!("{why} (since {:.0})", health.since))
        }
    };
    let device = if probes.broken.is_cancelled() { Err("not usable, see the log".to_owned()) } else { Ok(()) };
    let leaving = if probes.leaving.is_cancelled() { Err("accepts no more jobs".to_owned()) } else { Ok(()) };
    let (database, store) = tokio::join!(probes.database(), probes.store());
    let models = (probes.unfit)().map_or(Ok(()), Err);
    let checks = [
        ("queue", queue),
        ("database", database),
        ("store", store),
        ("device", device),
        ("models", models),
        ("worker", leaving),
    ];
    // A process that only accepts jobs can do so while nothing can be sent.
    let ready =
        checks.iter().all(|(name, result)| result.is_ok() || matches!(*name, "queue" | "store") && !probes.works);
    let full: Vec<_> = health.full.into_values().collect();
    let says = |name: &str| match name {
        // Those that have room, and everything else, go on.
        "queue" if !full.is_empty() => Value::from(format!("full: {}", full.join("; "))),
        _ => Value::from("ok"),
    };
    let shown: serde_json::Map<String, Value> = checks
        .into_iter()
        .map(|(name, result)| (name.to_owned(), result.map_or_else(Value::from, |()| says(name))))
        .collect();
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "ready": ready, "checks": shown }))).into_response()
}

pub async fn metrics(State(probes): State<Probes>) -> Response {
    metrics::database(&probes.jobs);
    metrics::queue(&probes.queue.health());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], probes.metrics.render()).into_response()
}
