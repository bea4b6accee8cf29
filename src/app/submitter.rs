//! The parts for commands that submit or inspect jobs, without an engine or a consumer.

use std::time::Duration;

use tracing::warn;

use super::wiring;
use crate::{
    config::LoadedConfig,
    database::{JobStore, SubmitOptions, Submitted},
    job::{JobError, JobRequest},
    queue::Queue,
    store::{InputReader, Stores, Trust},
    trace,
    worker::{Liveness, publish_due},
};

/// How long a submitter waits for the broker. The jobs are already saved; a worker's relay sends the rest.
const BROKER: Duration = Duration::from_secs(5);

pub struct Submitter {
    pub jobs: JobStore,
    pub stores: Stores,
    pub inputs: InputReader,
    queue: Queue,
    max_bytes: u64,
}

impl Submitter {
    pub async fn open(loaded: &LoadedConfig) -> Result<Self, JobError> {
        let config = &loaded.config;
        let stores = wiring::stores(config, Trust::Local)?;
        Ok(Self {
            jobs: wiring::job_store(config).await?.by(wiring::cli_actor(loaded)),
            queue: wiring::queue(config)?,
            inputs: stores.inputs().clone(),
            stores,
            max_bytes: config.image.max_bytes,
        })
    }

    /// Submits a job, as part of the trace of the running code.
    pub async fn submit(&self, request: &JobRequest, options: &SubmitOptions) -> Result<Submitted, JobError> {
        let span = trace::send(&self.queue.destination(request.task.kind()), 1, Some(request.id));
        let options = SubmitOptions { trace: span.context(), ..options.clone() };
        let submitted = self.jobs.submit(request, &options).await;
        span.end_with(&submitted);
        submitted
    }

    /// Submits jobs of one kind, with one span.
    pub async fn submit_many(
        &self,
        requests: &[JobRequest],
        options: &SubmitOptions,
    ) -> Vec<Result<Submitted, JobError>> {
        let Some(first) = requests.first() else { return Vec::new() };
        let span = trace::send(&self.queue.destination(first.task.kind()), requests.len(), None);
        let options = SubmitOptions { trace: span.context(), ..options.clone() };
        let submitted = self.jobs.submit_many(requests, &options).await;
        if let Some(failed) = submitted.iter().find(|submitted| submitted.is_err()) {
            span.end_with(failed);
        }
        submitted
    }

    /// Sends the outbox, so that the jobs need not wait for a worker's relay. Returns false if the broker is
    /// unreachable; nothing is lost then, because the rows are written.
    pub async fn dispatch(&self) -> bool {
        self.dispatch_in_steps(|_| true).await
    }

    /// Like [`Submitter::dispatch`]; `go_on` gets the number of messages of each step, and may stop after it.
    pub async fn dispatch_in_steps(&self, mut go_on: impl FnMut(u64) -> bool) -> bool {
        if matches!(self.queue, Queue::Embedded(_)) {
            return true;
        }
        let sent = match self.queue.ready(BROKER).await {
            Ok(()) => loop {
                match publish_due(&self.jobs, &self.queue).await {
                    Ok(sent) if sent == 0 || !go_on(sent as u64) => break Ok(()),
                    Ok(_) => {}
                    Err(error) => break Err(error),
                }
            },
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            warn!(%error, "the jobs are accepted and will be dispatched when the broker is back");
            return false;
        }
        true
    }

    /// What ends a worker's lease early, as seen from here.
    pub fn liveness(&self) -> Liveness {
        Liveness::of(&self.queue)
    }

    /// Closes the connections to the broker and the database.
    pub async fn close(self) {
        self.queue.close().await;
        self.jobs.close().await;
    }

    /// Copies a local file into the store; returns its address there, which is the same for the same bytes.
    pub async fn upload(&self, url: &str) -> Result<String, JobError> {
        let bytes = self.inputs.read(url, self.max_bytes).await?;
        let ending = url.rsplit('.').next().filter(|ending| ending.len() <= 4).unwrap_or("bin").to_ascii_lowercase();
        let own = self.stores.own();
        Ok(own.url(&own.put_input(&ending, bytes).await?))
    }
}
