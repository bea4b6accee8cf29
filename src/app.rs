//! The composition root: builds the parts from the configuration and puts them into each other's hands.

use jiff::Timestamp;

use crate::{
    config::{Config, Loaded},
    engine::{CancelToken, Engine, EngineConfig},
    hub::{ModelRef, Small},
    image::Limits,
    job::{JobError, JobId},
    queue::EmbeddedQueue,
    status::{Mode, Place, Status},
    store::{FolderStore, file_url},
    worker::{Backoff, Options, Reporter, Verdict, Worker, WorkerName, run},
};

/// Everything in one process: SQLite, a folder, the queue in memory, the engine.
pub struct Embedded {
    pub worker: Worker,
    queue: EmbeddedQueue,
}

impl Embedded {
    /// Opens all parts; the engine's models stay unloaded until the first job that needs them.
    pub async fn open(loaded: &Loaded) -> Result<Self, JobError> {
        let config = &loaded.config;
        if config.queue.url.is_some() {
            return Err(JobError::invalid("queue.url", "this build has the queue in process only; leave it empty"));
        }
        let worker = Worker {
            store: FolderStore::open(&store_url(config))?,
            status: open_status(config).await?,
            engine: Engine::start(engine_config(loaded)?)?,
            options: worker_options(config),
        };
        Ok(Self { worker, queue: EmbeddedQueue::default() })
    }

    /// Dispatches one job and works on it. It is tried once: a job that fails for a passing reason goes back to
    /// `queued` and waits for the next run.
    pub async fn run_job(
        &self,
        job: JobId,
        cancel: &CancelToken,
        reporter: &Reporter,
    ) -> Result<Option<Verdict>, JobError> {
        // The queue of a process that was killed died with it; it is filled again from the row.
        let Some(row) = self.worker.status.get(job).await? else { return Ok(None) };
        self.queue.push(job, row.request.priority, Timestamp::now());
        match self.queue.next().await {
            Some(delivery) => run(&self.worker, delivery, cancel, reporter).await.map(Some),
            None => Ok(None),
        }
    }

    pub async fn close(self) {
        self.worker.status.close().await;
    }
}

/// The job rows alone, for commands that only look.
pub async fn open_status(config: &Config) -> Result<Status, JobError> {
    let mode = if config.queue.url.is_some() { Mode::Service } else { Mode::Embedded };
    Status::open(&status_place(config)?, mode).await
}

pub fn status_place(config: &Config) -> Result<Place, JobError> {
    match &config.status.url {
        Some(url) => Place::parse("status.url", url.reveal()),
        None => Ok(Place::Sqlite(config.data_dir.join("acetate.db"))),
    }
}

pub fn store_url(config: &Config) -> String {
    config.store.url.clone().unwrap_or_else(|| file_url(&config.data_dir.join("objects")))
}

pub fn engine_config(loaded: &Loaded) -> Result<EngineConfig, JobError> {
    let settings = &loaded.config.qwen_image;
    Ok(EngineConfig {
        model: model(loaded)?,
        edit_model: edit_model(loaded)?,
        load_edit_model: settings.load_edit_model,
        device: settings.device,
        dtype: settings.dtype().map_err(|reason| JobError::invalid("qwen_image.dtype", reason))?,
        memory_budget: Some(settings.memory_budget).filter(|budget| *budget > 0),
        hub: loaded.hub.clone(),
    })
}

/// What takes pictures apart: the configured checkpoint, else the small one.
pub fn model(loaded: &Loaded) -> Result<ModelRef, JobError> {
    match &loaded.config.qwen_image.model_path {
        Some(path) => Ok(ModelRef::parse(path)?),
        None => Ok(small(loaded, Small::Layered)),
    }
}

/// What edits. Who has chosen a model for the layers, but none for edits, gets the full one: a small one beside it
/// would be a surprise.
pub fn edit_model(loaded: &Loaded) -> Result<ModelRef, JobError> {
    let settings = &loaded.config.qwen_image;
    match (&settings.edit_model_path, &settings.model_path) {
        (Some(path), _) => Ok(ModelRef::parse(path)?),
        (None, Some(_)) => Ok(ModelRef::parse(Small::Edit.full_model())?),
        (None, None) => Ok(small(loaded, Small::Edit)),
    }
}

fn small(loaded: &Loaded, which: Small) -> ModelRef {
    ModelRef::Small { which, around: loaded.surroundings.clone() }
}

fn worker_options(config: &Config) -> Options {
    Options {
        name: WorkerName::of_this_process(),
        lease: config.worker.lease(),
        heartbeat: config.worker.heartbeat(),
        max_attempts: config.worker.max_attempts,
        backoff: backoff(),
        limits: limits(config),
        max_input_bytes: config.image.max_bytes,
    }
}

/// Of a run by hand: whoever starts it again does not want to wait.
fn backoff() -> Backoff {
    Backoff { base: std::time::Duration::ZERO, cap: std::time::Duration::ZERO }
}

fn limits(config: &Config) -> Limits {
    Limits {
        max_width: config.image.max_width,
        max_height: config.image.max_height,
        max_pixels: config.image.max_pixels,
        max_bytes: config.image.max_bytes,
    }
}
