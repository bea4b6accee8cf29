//! Builds each part from its section of the configuration.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{self, Config, ImageLimits, LoadedConfig},
    database::{self, JobStore, OutboxMode},
    engine::Engine,
    image::Limits,
    job::JobError,
    queue::{EmbeddedQueue, Queue, RabbitOptions, RabbitQueue},
    store::{Checksums, S3Settings, StoreSettings, Stores, Trust, file_url},
    worker::{Backoff, ResultPlacement, Worker, WorkerName, WorkerOptions},
};

/// The address of the job database.
pub fn database_url(config: &Config) -> Result<database::DatabaseUrl, JobError> {
    match &config.status.url {
        Some(url) => database::DatabaseUrl::parse("status.url", url.reveal()),
        None => Ok(database::DatabaseUrl::Sqlite(config.data_dir.join("acetate.db"))),
    }
}

/// The job database, with its tables migrated.
pub async fn job_store(config: &Config) -> Result<JobStore, JobError> {
    let mode = if config.queue.url.is_some() { OutboxMode::Service } else { OutboxMode::Embedded };
    JobStore::open(&database_url(config)?, mode).await
}

/// The queue; it does not connect to RabbitMQ yet.
pub fn queue(config: &Config) -> Result<Queue, JobError> {
    let Some(url) = &config.queue.url else { return Ok(Queue::Embedded(EmbeddedQueue::default())) };
    let settings = &config.queue;
    let options = RabbitOptions {
        name: format!("acetate {}", WorkerName::of_this_process()),
        consumer_timeout: settings.consumer_timeout(),
        // A frozen worker keeps its messages only a little longer than its jobs.
        heartbeat: (config.worker.lease() / 3).clamp(Duration::from_secs(1), Duration::from_secs(20)),
        connect_timeout: settings.connect_timeout(),
        publish_timeout: settings.publish_timeout(),
    };
    Ok(Queue::Rabbit(RabbitQueue::new(url.reveal(), options)?))
}

impl From<&ImageLimits> for Limits {
    fn from(settings: &ImageLimits) -> Self {
        let ImageLimits { max_width, max_height, max_pixels, max_bytes } = *settings;
        Self { max_width, max_height, max_pixels, max_bytes }
    }
}

/// The stores, with the rules for the party that chose the addresses.
pub fn stores(config: &Config, trust: Trust) -> Result<Stores, JobError> {
    let settings = &config.store;
    let s3 = S3Settings {
        endpoint: settings.endpoint.clone(),
        checksums: match settings.checksums {
            config::ChecksumsSetting::Supported => Checksums::Supported,
            config::ChecksumsSetting::Required => Checksums::Required,
        },
        connect_timeout: settings.connect_timeout(),
        read_timeout: settings.read_timeout(),
        operation_timeout: settings.operation_timeout(),
        ..S3Settings::default()
    };
    let settings = StoreSettings {
        url: settings.url.clone().unwrap_or_else(|| file_url(&config.data_dir.join("objects"))),
        s3,
        inputs: settings.inputs.clone(),
        outputs: settings.outputs.clone(),
        http_inputs: settings.http_inputs,
    };
    Stores::new(&settings, trust)
}

/// A worker built from its parts; only the engine's thread is running.
pub(super) fn worker(
    loaded: &LoadedConfig,
    jobs: JobStore,
    stores: Stores,
    queue: Queue,
    results: ResultPlacement,
) -> Result<Worker, JobError> {
    let mut options = options(&loaded.config, results)?;
    if results == ResultPlacement::OwnStore {
        // Someone who runs a job by hand again does not want to wait.
        options.backoff = Backoff { base: Duration::ZERO, longest: Duration::ZERO };
        options.database_patience = Duration::ZERO;
    }
    let engine = Engine::start(super::engine_config(loaded)?)?;
    let (wake, broken) = (Arc::new(Notify::new()), CancellationToken::new());
    Ok(Worker { jobs, stores, queue, engine, options, wake, broken })
}

fn options(config: &Config, results: ResultPlacement) -> Result<WorkerOptions, JobError> {
    let worker = &config.worker;
    Ok(WorkerOptions {
        name: WorkerName::of_this_process(),
        lease: worker.lease(),
        heartbeat: worker.heartbeat(),
        max_attempts: worker.max_attempts,
        backoff: Backoff {
            base: Duration::from_secs_f64(worker.retry_base_seconds),
            longest: Duration::from_secs_f64(worker.retry_longest_seconds),
        },
        limits: Limits::from(&config.image),
        results,
        slots: worker.slots as usize,
        affinity: config.queue.affinity(),
        job_timeout: worker.job_timeout(),
        drain: worker.drain(),
        database_patience: worker.database_patience(),
        poll: Duration::from_millis(500),
        redispatch: worker.redispatch(),
        remember_deleted: config.queue.remember_deleted(),
        failpoint: worker.failpoint.parse()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Sources, load};

    #[test]
    fn the_limits_of_pictures_are_those_of_the_default_settings() {
        let environment = Environment::from_pairs([("HOME", "/home/me")]);
        let sources = Sources { file: Some("/dev/null".into()), environment, ..Sources::default() };
        let config = load(&sources).unwrap().config;
        assert_eq!(Limits::from(&config.image), Limits::default());
    }
}
