//! Runs one job in this process: `acetate run`.

use jiff::Timestamp;

use super::wiring;
use crate::{
    config::LoadedConfig,
    database::{Actor, DatabaseUrl, JobStore, OutboxMode, SubmitOptions, Submitted},
    engine::CancelToken,
    job::{JobError, JobId, JobRequest},
    queue::{ConsumeOptions, EmbeddedQueue, Queue},
    store::Trust,
    trace,
    worker::{JobControl, Reporter, ResultPlacement, Verdict, Worker, run},
};

/// Everything in one process: SQLite, a folder, the queue in memory, the engine.
pub struct EmbeddedApp {
    pub worker: Worker,
    /// Who runs the command.
    pub actor: Actor,
    queue: EmbeddedQueue,
    /// Whether other processes of this machine may run these jobs, and may then use what its user may use.
    pub is_local: bool,
}

impl EmbeddedApp {
    /// Opens all parts; the engine's models stay unloaded until the first job that needs them.
    pub async fn open(loaded: &LoadedConfig) -> Result<Self, JobError> {
        let config = &loaded.config;
        let stores = wiring::stores(config, Trust::Local)?;
        stores.own().check().await?;
        let queue = EmbeddedQueue::default();
        let is_local = matches!(wiring::database_url(config)?, DatabaseUrl::Sqlite(_));
        // No other process dispatches its rows, even if a queue is configured for workers.
        let jobs = {
            let (url, options) = (wiring::database_url(config)?, wiring::database_options(config)?);
            JobStore::open_with(&url, OutboxMode::Embedded, &options).await?
        };
        let worker = wiring::worker(loaded, jobs, stores, Queue::Embedded(queue.clone()), ResultPlacement::OwnStore)?;
        Ok(Self { worker, actor: wiring::cli_actor(loaded), queue, is_local })
    }

    /// Creates the job, as part of the trace of the running code. `reuse`: it may take the result of an equal one.
    pub async fn submit(&self, request: &JobRequest, reuse: bool) -> Result<Submitted, JobError> {
        let span = trace::send(&self.worker.queue.destination(request.task.kind()), 1, Some(request.id));
        let options = SubmitOptions { trace: span.context(), reuse, local: self.is_local, ..SubmitOptions::default() };
        let submitted = self.worker.jobs.by(self.actor.clone()).submit(request, &options).await;
        span.end_with(&submitted);
        submitted
    }

    /// Dispatches one job and runs it. It is attempted once: after a temporary failure it goes back to `queued` and
    /// waits for the next run.
    pub async fn run_job(
        &self,
        job: JobId,
        cancel: &CancelToken,
        reporter: &Reporter,
    ) -> Result<Option<Verdict>, JobError> {
        // The queue of a killed process is lost; it is filled again from the row.
        let Some(row) = self.worker.jobs.get(job).await? else { return Ok(None) };
        self.queue.push(job, row.request.priority, Timestamp::now());
        let options = ConsumeOptions { kinds: Vec::new(), prefetch: 1, affinity: std::time::Duration::ZERO };
        let consumer = self.worker.queue.consume(options);
        let control = JobControl::new(cancel.clone(), reporter.clone());
        match consumer.next(None).await {
            Some(delivery) => run(&self.worker, delivery, &control).await.map(Some),
            None => Ok(None),
        }
    }

    pub async fn close(self) {
        self.worker.jobs.close().await;
    }
}
