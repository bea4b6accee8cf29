//! Builds each part from its section of the configuration.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{self, Config, Loaded},
    database::{self, JobStore, OutboxMode},
    engine::Engine,
    image::Limits,
    job::JobError,
    queue::{EmbeddedQueue, Queue, RabbitOptions, RabbitQueue},
    store::{Checksums, S3Settings, StoreSettings, Stores, Trust, file_url},
    worker::{Backoff, Options, Place, Worker, WorkerName},
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

/// The stores, with the rules for the party that chose the addresses.
pub fn stores(config: &Config, trust: Trust) -> Result<Stores, JobError> {
    let settings = &config.store;
    let s3 = S3Settings {
        endpoint: settings.endpoint.clone(),
        checksums: match settings.checksums {
            config::Checksums::Supported => Checksums::Supported,
            config::Checksums::Required => Checksums::Required,
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
    loaded: &Loaded,
    status: JobStore,
    stores: Stores,
    queue: Queue,
    place: Place,
) -> Result<Worker, JobError> {
    let mut options = options(&loaded.config, place)?;
    if place == Place::OwnStore {
        // Someone who runs a job by hand again does not want to wait.
        options.backoff = Backoff { base: Duration::ZERO, cap: Duration::ZERO };
        options.patience = Duration::ZERO;
    }
    let engine = Engine::start(super::engine_config(loaded)?)?;
    let (wake, broken) = (Arc::new(Notify::new()), CancellationToken::new());
    Ok(Worker { status, stores, queue, engine, options, wake, broken })
}

fn options(config: &Config, place: Place) -> Result<Options, JobError> {
    let worker = &config.worker;
    Ok(Options {
        name: WorkerName::of_this_process(),
        lease: worker.lease(),
        heartbeat: worker.heartbeat(),
        max_attempts: worker.max_attempts,
        backoff: Backoff {
            base: Duration::from_secs_f64(worker.retry_base_seconds),
            cap: Duration::from_secs_f64(worker.retry_longest_seconds),
        },
        limits: Limits {
            max_width: config.image.max_width,
            max_height: config.image.max_height,
            max_pixels: config.image.max_pixels,
            max_bytes: config.image.max_bytes,
        },
        max_input_bytes: config.image.max_bytes,
        place,
        slots: worker.slots as usize,
        affinity_wait: config.queue.affinity(),
        job_timeout: worker.job_timeout(),
        drain: worker.drain(),
        patience: worker.database_patience(),
        poll: Duration::from_millis(500),
        redispatch_after: worker.redispatch(),
        failpoint: worker.failpoint.parse()?,
    })
}
