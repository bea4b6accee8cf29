//! The state that handlers share.

use std::{
    ops::Deref,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use jiff::Timestamp;
use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::{
    HttpSettings, Probes, ServerModels,
    caller::Caller,
    jobs::UploadMemory,
    middleware::Rates,
    pace::Pace,
    problem::{Answer, ApiError},
    thumbnails::Thumbnails,
    watch::JobWatcher,
};
use crate::{
    database::{Actor, CancelOutcome, JobRow, JobStore, Rejection, SubmitOptions, Submitted},
    engine::Resident,
    job::{JobError, JobId},
    queue::Queue,
    store::Stores,
    trace,
};

/// How many pictures are converted at a time, because each may be large in memory; and how many of the largest uploads
/// may arrive at a time.
const UPLOADS: usize = 4;
/// The maximum age of the cached counts of waiting jobs.
const FRESH: Duration = Duration::from_millis(500);
/// How long what is known about the models' files is used.
const MODELS: Duration = Duration::from_secs(5);
/// The time in which `jobs_per_day` of a token counts.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The parts of the API.
pub struct ApiParts {
    pub settings: HttpSettings,
    /// Looks which models are on this machine, and what they accept. It reads files.
    pub models: Arc<dyn Fn() -> ServerModels + Send + Sync>,
    pub jobs: JobStore,
    pub stores: Stores,
    pub queue: Queue,
    pub dispatch: Dispatcher,
    pub probes: Probes,
    /// Which models are in memory; absent if this process does not run jobs.
    pub resident: Option<watch::Receiver<Resident>>,
    /// Whether the worker with this name is known to have died.
    pub is_dead: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    /// The most requests that stay open while a job runs.
    pub most_long: usize,
    /// Set when the server stops, so that streams end.
    pub stop: CancellationToken,
}

/// How a new job reaches a worker.
#[derive(Debug, Clone)]
pub enum Dispatcher {
    /// What dispatches in this process: the relay that sends the outbox, or what fills the in-process queue.
    Wake(Arc<Notify>),
    /// Another process polls the rows.
    Nobody,
}

/// The jobs that wait.
#[derive(Debug, Default)]
struct WaitingJobs {
    counted: Option<(Instant, u64)>,
    pace: Pace,
}

/// The state that handlers share; cloning it is cheap.
#[derive(Clone)]
pub struct Api {
    inner: Arc<ApiInner>,
    /// Those of `inner`, with the actor of a request if there is one.
    jobs: JobStore,
    /// The limit of the request's token.
    jobs_per_day: Option<(u64, Actor)>,
}

pub struct ApiInner {
    pub parts: ApiParts,
    pub watch: JobWatcher,
    pub rates: Rates,
    pub thumbnails: Thumbnails,
    /// For pictures that are converted, and files that are made of layers.
    pub uploads: Semaphore,
    pub upload_memory: UploadMemory,
    long: Arc<Semaphore>,
    waiting: Mutex<WaitingJobs>,
    models: Mutex<Option<(Instant, ServerModels)>>,
    /// Held while a job of a token with a limit is counted and accepted.
    counting: Mutex<()>,
}

impl Deref for Api {
    type Target = ApiInner;

    fn deref(&self) -> &ApiInner {
        &self.inner
    }
}

impl Api {
    /// Starts the task that polls watched jobs; it ends with `stop`.
    pub fn new(parts: ApiParts) -> Self {
        let watch = JobWatcher::start(parts.jobs.clone(), parts.stop.clone());
        let rates = Rates::new(parts.settings.requests_per_second, &parts.settings.tokens);
        let jobs = parts.jobs.clone();
        let upload_memory = UploadMemory::new(parts.settings.max_upload_bytes.saturating_mul(UPLOADS as u64));
        let long = Arc::new(Semaphore::new(parts.most_long));
        let inner = Arc::new(ApiInner {
            parts,
            watch,
            rates,
            thumbnails: Thumbnails::default(),
            uploads: Semaphore::new(UPLOADS),
            upload_memory,
            long,
            waiting: Mutex::default(),
            models: Mutex::default(),
            counting: Mutex::default(),
        });
        Self { inner, jobs, jobs_per_day: None }
    }

    /// For the changes of one request, which are recorded as its sender's.
    pub fn by(&self, caller: &Caller) -> Self {
        let actor = caller.actor.clone();
        Self {
            inner: self.inner.clone(),
            jobs: self.parts.jobs.by(actor.clone()),
            jobs_per_day: caller.jobs_per_day.map(|most| (most, actor)),
        }
    }

    /// A place for a request that stays open while a job runs: it ends when it is dropped.
    pub fn long_request(&self) -> Answer<OwnedSemaphorePermit> {
        let most = self.parts.most_long;
        self.long.clone().try_acquire_owned().map_err(|_| {
            let detail = format!(
                "{most} event streams and waiting requests are open, which is half of the connections that this server \
                 accepts (http.max_connections, and at most half of `ulimit -n`); ask GET /v1/jobs/ID now and then \
                 instead, or try again later"
            );
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail).later(5)
        })
    }

    pub fn settings(&self) -> &HttpSettings {
        &self.parts.settings
    }

    pub fn jobs(&self) -> &JobStore {
        &self.jobs
    }

    pub fn stores(&self) -> &Stores {
        &self.parts.stores
    }

    pub async fn job(&self, id: JobId) -> Answer<JobRow> {
        match self.jobs().get(id).await? {
            Some(row) => Ok(row),
            None => Err(self.no_job(id).await),
        }
    }

    /// The error for a job without a row: its message may have been refused.
    pub async fn no_job(&self, id: JobId) -> ApiError {
        match self.jobs().rejection(id).await {
            Ok(Some(Rejection { received_at, error, .. })) => ApiError::not_found(format!(
                "{id} is not a job, because its message was refused at {received_at}: {}; GET /v1/dead-letters shows \
                 the messages that RabbitMQ keeps",
                error.message
            )),
            Ok(None) => ApiError::no_job(id),
            Err(error) => error.into(),
        }
    }

    /// Accepts a job if the queue has room, and notifies the worker or relay.
    pub async fn accept(&self, request: &crate::job::JobRequest, options: &SubmitOptions) -> Answer<Submitted> {
        // Jobs that were accepted before are returned even if no new ones are accepted.
        if let Err(full) = self.room().await
            && self.jobs().get(request.id).await?.is_none()
        {
            return Err(full);
        }
        let _counting = match &self.jobs_per_day {
            Some((most, actor)) => {
                let counting = self.counting.lock().await;
                self.check_day(request.id, *most, actor).await?;
                Some(counting)
            }
            None => None,
        };
        let span = trace::send(&self.parts.queue.destination(request.task.kind()), 1, Some(request.id));
        let options = SubmitOptions { trace: span.context(), ..options.clone() };
        let submitted = self.jobs().submit(request, &options).await;
        span.end_with(&submitted);
        let submitted = match submitted {
            Ok(submitted) => submitted,
            Err(error @ JobError::InvalidRequest { .. }) if self.jobs().get(request.id).await?.is_some() => {
                return Err(ApiError::conflict(error.to_string()).about("id"));
            }
            Err(error) => return Err(error.into()),
        };
        if let Submitted::New(_) = &submitted {
            self.waiting.lock().await.pace.accepted();
            self.wake();
        }
        Ok(submitted)
    }

    /// The models, and which of them are in memory.
    pub async fn models(&self) -> ServerModels {
        let mut known = self.models.lock().await;
        let mut models = match known.take().filter(|(at, _)| at.elapsed() < MODELS) {
            Some((at, models)) => {
                *known = Some((at, models.clone()));
                models
            }
            None => {
                let models = self.parts.models.clone();
                let models =
                    tokio::task::spawn_blocking(move || models()).await.unwrap_or_else(|_| (self.parts.models)());
                *known = Some((Instant::now(), models.clone()));
                models
            }
        };
        if let Some(resident) = &self.parts.resident {
            let resident = resident.borrow();
            models.decompose.loaded = Some(resident.decompose.is_some());
            models.edit.loaded = Some(resident.edit.is_some());
        }
        models
    }

    /// Wakes what dispatches after a change.
    pub fn wake(&self) {
        if let Dispatcher::Wake(wake) = &self.parts.dispatch {
            wake.notify_one();
        }
    }

    pub async fn cancel(&self, id: JobId) -> Result<CancelOutcome, JobError> {
        let outcome = self.jobs().cancel(id, &*self.parts.is_dead).await?;
        self.wake();
        Ok(outcome)
    }

    /// Whether a token may submit one more job today. A job that was accepted before is returned all the same.
    async fn check_day(&self, id: JobId, most: u64, actor: &Actor) -> Answer<()> {
        let submitted = self.jobs().submissions(actor.name(), DAY).await?;
        if submitted.jobs < most || self.jobs().get(id).await?.is_some() {
            return Ok(());
        }
        let detail = format!(
            "{} new jobs with the token `{}` within 24 hours; at most {most} are allowed (jobs_per_day of the token)",
            submitted.jobs,
            actor.name()
        );
        let wait = DAY.saturating_sub(submitted.oldest).as_secs() + 1;
        Err(ApiError::new(axum::http::StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail).later(wait))
    }

    /// Whether the queue has room for one more job.
    async fn room(&self) -> Answer<()> {
        let most = self.settings().max_queued;
        let mut waiting = self.waiting.lock().await;
        let (at, jobs) = match waiting.counted.filter(|(at, _)| at.elapsed() < FRESH) {
            Some(known) => known,
            None => {
                let jobs = self.jobs().queue_depth().await?.iter().map(|depth| depth.queued).sum();
                let now = Instant::now();
                waiting.pace.counted(now, jobs);
                (now, jobs)
            }
        };
        if jobs < most {
            // Counted as accepted, so that a burst between two counts does not exceed the limit.
            waiting.counted = Some((at, jobs + 1));
            return Ok(());
        }
        waiting.counted = Some((at, jobs));
        let wait = waiting.pace.seconds_until(jobs - most + 1);
        let detail = format!("{jobs} jobs are waiting; at most {most} may wait (http.max_queued); try again later");
        Err(ApiError::new(axum::http::StatusCode::TOO_MANY_REQUESTS, "queue_full", detail).later(wait))
    }

    /// How long the attempt of a running job has been running.
    pub fn seconds(row: &JobRow) -> Option<f64> {
        let started = row.started_at.filter(|_| row.state == crate::job::JobState::Running)?;
        Some(Timestamp::now().duration_since(started).as_secs_f64().max(0.0))
    }
}
