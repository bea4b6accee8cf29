//! The parts for commands that submit or inspect jobs, without an engine or a consumer.

use std::time::Duration;

use sha2::{Digest, Sha256};
use tracing::warn;

use super::wiring;
use crate::{
    config::LoadedConfig,
    database::{DatabaseUrl, JobStore, SubmitOptions, Submitted},
    egress::WebhookPolicy,
    job::{InputRef, JobError, JobRequest},
    queue::Queue,
    store::{InputReader, ObjectKey, Stores, Trust, check_readable},
    trace,
    worker::{Liveness, Relayed, publish_due},
};

/// How long a submitter waits for the broker. The jobs are already saved; a worker's relay sends the rest.
const BROKER: Duration = Duration::from_secs(5);

pub struct Submitter {
    pub jobs: JobStore,
    pub stores: Stores,
    pub inputs: InputReader,
    /// What workers may read and write, by the settings of this machine; absent for jobs of the local user.
    rules: Option<Stores>,
    queue: Queue,
    /// How long a worker with the settings of this machine has a job without a heartbeat.
    pub lease: Duration,
    max_bytes: u64,
    /// Absent if servers with the settings of this machine send no webhooks.
    webhooks: Option<WebhookPolicy>,
}

impl Submitter {
    pub async fn open(loaded: &LoadedConfig) -> Result<Self, JobError> {
        let stores = wiring::stores(&loaded.config, Trust::Local)?;
        Self::with(loaded, stores, wiring::job_store(&loaded.config).await?)
    }

    /// For commands that only read: without jobs yet, the database is not created. A remark says so.
    pub async fn to_read(loaded: &LoadedConfig) -> Result<(Self, Option<String>), JobError> {
        let stores = wiring::stores(&loaded.config, Trust::Local)?;
        let (jobs, remark) = wiring::jobs_to_read(&loaded.config).await?;
        Ok((Self::with(loaded, stores, jobs)?, remark))
    }

    /// For commands that tell what submitting would do: nothing is created or migrated.
    pub async fn for_dry_run(loaded: &LoadedConfig) -> Result<Self, JobError> {
        let stores = wiring::stores(&loaded.config, Trust::Local)?;
        Self::with(loaded, stores, wiring::jobs_for_dry_run(&loaded.config).await?)
    }

    fn with(loaded: &LoadedConfig, stores: Stores, jobs: JobStore) -> Result<Self, JobError> {
        let config = &loaded.config;
        let (jobs, queue) = (jobs.by(wiring::cli_actor(loaded)), wiring::queue(config)?);
        // With SQLite and the queue in the worker's process, the worker is on this machine.
        let is_local = matches!((wiring::database_url(config)?, &queue), (DatabaseUrl::Sqlite(_), Queue::Embedded(_)));
        let rules = if is_local { None } else { Some(wiring::stores(config, Trust::Submitted)?) };
        let http = &config.http;
        let policy = || WebhookPolicy::new("http.webhook_allow", &http.webhook_allow, None);
        let webhooks = http.webhook_secret.as_ref().map(|_| policy()).transpose()?;
        let (inputs, max_bytes) = (stores.inputs().clone(), config.image.max_bytes);
        let lease = config.worker.lease();
        Ok(Self { jobs, queue, rules, inputs, stores, lease, max_bytes, webhooks })
    }

    /// Whether the jobs are for workers of this machine, so that they may read what its user may read.
    pub fn is_local(&self) -> bool {
        self.rules.is_none()
    }

    /// Refuses a request whose addresses the workers may not use, as far as this machine knows: by its settings, or if
    /// the workers are here, by what this user may read. `uploads`: local inputs are copied into the store first.
    pub fn check_allowed(&self, request: &JobRequest, uploads: bool) -> Result<(), JobError> {
        self.check_output(&request.output.prefix)?;
        let inputs = self.rules.as_ref().map_or(&self.inputs, Stores::inputs);
        for input in request.inputs.with_mask() {
            let InputRef::Url(url) = input else { continue };
            let is_file = url.starts_with("file://");
            if is_file && self.is_local() {
                check_readable(url)?;
            } else if !(is_file && uploads) {
                inputs.check(url)?;
            }
        }
        Ok(())
    }

    /// Refuses a prefix that workers may not write to.
    pub fn check_output(&self, prefix: &str) -> Result<(), JobError> {
        self.rules.as_ref().map_or(Ok(()), |rules| rules.results(prefix).map(drop))
    }

    /// Refuses an address that servers with the settings of this machine would not call.
    pub fn check_webhook(&self, field: &str, url: &str) -> Result<(), JobError> {
        match &self.webhooks {
            Some(policy) => policy.check(field, url),
            None => {
                let reason =
                    "no server sends webhooks: http.webhook_secret is not set; set it for `acetate serve` and here";
                Err(JobError::invalid(field, reason))
            }
        }
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
                    Ok(Relayed { refused: Some(error), .. }) => break Err(error),
                    Ok(Relayed { sent, .. }) if sent == 0 || !go_on(sent as u64) => break Ok(()),
                    Ok(_) => {}
                    Err(error) => break Err(error),
                }
            },
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            warn!(%error, "the jobs are accepted and will be dispatched when {}", when_dispatched(&error));
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

    /// The address of a picture's bytes in the store, where [`Submitter::put_pictures`] puts them.
    pub fn picture_url(&self, ending: &str, bytes: &[u8]) -> Result<String, JobError> {
        let own = self.stores.own();
        Ok(own.url(&ObjectKey::input(&hex::encode(Sha256::digest(bytes)), ending)?))
    }

    /// Puts pictures into the store, once for the same bytes.
    ///
    /// # Errors
    /// For each picture its own; of all, if nothing could be done.
    pub async fn put_pictures(&self, pictures: Vec<(&str, Vec<u8>)>) -> Result<Vec<Result<(), JobError>>, JobError> {
        self.stores.own().put_inputs(pictures).await
    }

    /// Copies a local file into the store; returns its address there, which is the same for the same bytes.
    pub async fn upload(&self, url: &str) -> Result<String, JobError> {
        let bytes = self.inputs.read(url, self.max_bytes).await?;
        let ending = url.rsplit('.').next().filter(|ending| ending.len() <= 4).unwrap_or("bin").to_ascii_lowercase();
        let own = self.stores.own();
        Ok(own.url(&own.put_input(&ending, bytes).await?))
    }
}

fn when_dispatched(error: &JobError) -> &'static str {
    match error {
        JobError::Database { .. } => "the job database takes writes again",
        _ => "the broker takes them",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_what_failed() {
        assert_eq!(when_dispatched(&JobError::database("its disk is full")), "the job database takes writes again");
        assert_eq!(when_dispatched(&JobError::queue("blocked")), "the broker takes them");
    }
}
