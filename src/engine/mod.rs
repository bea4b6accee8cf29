//! The engine: for each device, one operating-system thread owns it and the models on it. Two devices that compute
//! guidance in parallel have one thread and count as one device.
//!
//! A call waits for a free device and has it alone, with its own progress and cancellation. Nothing else uses the
//! device, and no model call runs on a thread of the async runtime. A device that fails is not used any more; the
//! others go on.

mod devices;
mod error;
mod hub_error;
mod identity;
mod loras;
mod pool;
mod thread;

pub use self::{devices::DeviceGroup, identity::EngineIdentity, loras::AllowedLoras};

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ::image::RgbaImage;
use qwen_image::{PipelineOptions, hub::ModelRef, image_processor::Mask};
use tokio::sync::{mpsc, oneshot, watch};

use self::pool::{LentDevice, Pool};
use crate::job::{
    Caption, DecomposeParams, EditParams, EditRecord, JobError, ModelRecord, SamplingRecord, Stage, StageTiming,
};

/// The engine's configuration.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The checkpoint for decompose.
    pub model: ModelRef,
    /// Each gets a thread and its own models. At least one.
    pub devices: Vec<DeviceGroup>,
    /// Everything else, including the edit model.
    pub pipeline: PipelineOptions,
    /// The LoRAs that jobs may name.
    pub allowed_loras: AllowedLoras,
    /// Whether the text encoder is asked what layers are that the caption does not name.
    pub name_layers: bool,
}

/// One call of one pipeline.
#[derive(Debug)]
pub enum Work {
    Decompose {
        image: RgbaImage,
        params: DecomposeParams,
        seed: u64,
    },
    Edit {
        /// The picture to edit; it determines the output's size and alpha.
        image: RgbaImage,
        /// Up to two more pictures that the instruction may refer to.
        references: Vec<RgbaImage>,
        /// Where the picture may change, of its size.
        mask: Option<Mask>,
        params: EditParams,
        seed: u64,
    },
}

/// The result of a call.
#[derive(Debug)]
pub struct EngineOutput {
    /// Decompose: the regenerated composite, then the layers back to front. Edit: one picture.
    pub images: Vec<RgbaImage>,
    /// Decompose: for each layer its name, if it is clear.
    pub layer_names: Vec<Option<String>>,
    pub caption: Option<Caption>,
    /// Notes for the user about the checkpoint or this call.
    pub notes: Vec<String>,
    /// For decompose: the working resolution.
    pub resolution: Option<u32>,
    /// For an edit, if there is anything to say.
    pub edit: Option<EditRecord>,
    pub model: ModelRecord,
    /// The identity of its checkpoint's files; see [`EngineIdentity::weights`].
    pub weights: String,
    /// Absent for a call with several seeds.
    pub sampling: Option<SamplingRecord>,
    /// Device, number format and attention kernel.
    pub device: String,
    pub timings: Vec<StageTiming>,
}

/// What a call made with one of its seeds.
#[derive(Debug)]
pub struct SeedOutput {
    pub seed: u64,
    /// As in [`EngineOutput`].
    pub images: Vec<RgbaImage>,
    pub layer_names: Vec<Option<String>>,
    pub caption: Option<Caption>,
    pub notes: Vec<String>,
    pub resolution: Option<u32>,
    pub edit: Option<EditRecord>,
    pub sampling: SamplingRecord,
}

/// The seeds of a call, and where its outputs go, in order.
#[derive(Debug)]
struct SeedOutputs {
    seeds: Vec<u64>,
    each: mpsc::Sender<SeedOutput>,
}

/// Cancels a call: any thread may set it, and the pipeline checks it between steps.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Called with `(stage, step, steps)` on the device's thread, so it must be quick.
pub type ProgressFn = Box<dyn FnMut(Stage, u32, u32) + Send>;

/// Which checkpoints are in memory, for `/readyz`, metrics and `edit-status` of the Qwen-Image web server's endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resident {
    pub decompose: Option<String>,
    pub edit: Option<String>,
}

/// The handle; clones share the threads, which end when the last one is dropped.
#[derive(Debug, Clone)]
pub struct Engine {
    config: Arc<EngineConfig>,
    devices: Arc<[DeviceThread]>,
    pool: Arc<Pool>,
}

/// A device's thread.
#[derive(Debug)]
struct DeviceThread {
    name: String,
    commands: mpsc::Sender<DeviceCommand>,
    busy: BusyTime,
}

/// A device for metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceStatus {
    /// `cuda:0`, or `cuda:0,cuda:1` if they compute guidance in parallel.
    pub name: String,
    /// How long its thread has been busy since it started.
    pub busy: Duration,
    pub resident: Resident,
    /// False after it has failed.
    pub usable: bool,
}

/// The time that the thread has spent on commands; clones share it.
#[derive(Debug, Clone, Default)]
struct BusyTime(Arc<Mutex<(Duration, Option<Instant>)>>);

impl BusyTime {
    fn begin(&self) {
        self.lock().1 = Some(Instant::now());
    }

    fn end(&self) {
        let mut busy = self.lock();
        if let Some(start) = busy.1.take() {
            busy.0 += start.elapsed();
        }
    }

    fn so_far(&self) -> Duration {
        let busy = self.lock();
        busy.0 + busy.1.map_or(Duration::ZERO, |start| start.elapsed())
    }

    /// No code under the lock can leave it inconsistent.
    fn lock(&self) -> MutexGuard<'_, (Duration, Option<Instant>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum DeviceCommand {
    Test {
        reply: oneshot::Sender<Result<String, JobError>>,
    },
    Run {
        work: Box<Work>,
        seeds: Option<SeedOutputs>,
        task: CallContext,
        reply: oneshot::Sender<Result<EngineOutput, JobError>>,
    },
    LoadEdit {
        task: CallContext,
        reply: oneshot::Sender<Result<(), JobError>>,
    },
}

/// What comes with a call. The device is free again when this is dropped.
struct CallContext {
    cancel: CancelToken,
    progress: ProgressFn,
    lent: LentDevice,
}

impl Engine {
    /// Starts the threads. Opening a device happens there, so a missing GPU is reported by the first call.
    ///
    /// # Errors
    /// If the configuration has a device that this build does not support.
    pub fn start(config: &EngineConfig) -> Result<Self, JobError> {
        let pool = Pool::new(config.devices.len());
        let start = |(index, device): (usize, &DeviceGroup)| {
            let options = device.options(&config.pipeline);
            options.check()?;
            let (commands, inbox) = mpsc::channel(1);
            let busy = BusyTime::default();
            let thread = thread::Thread {
                model: config.model.clone(),
                options,
                allowed_loras: config.allowed_loras.clone(),
                name_layers: config.name_layers,
                name: device.name(),
                index,
                alone: config.devices.len() == 1,
                pool: pool.clone(),
                busy: busy.clone(),
            };
            std::thread::Builder::new()
                .name(if config.devices.len() == 1 { "engine".to_owned() } else { format!("engine {}", device.name()) })
                .spawn(move || thread.run(inbox))
                .map_err(|error| JobError::device("engine", error.to_string()).caused_by(error))?;
            Ok(DeviceThread { name: device.name(), commands, busy })
        };
        let devices = config.devices.iter().enumerate().map(start).collect::<Result<_, JobError>>()?;
        Ok(Self { config: Arc::new(config.clone()), devices, pool })
    }

    /// Runs one call when its turn comes. Dropping the future does not stop the work; cancelling does.
    ///
    /// # Errors
    /// The pipeline's. An error of class `DeviceThread` means that the device was lost; see [`Self::has_others`].
    pub async fn run(&self, work: Work, cancel: CancelToken, progress: ProgressFn) -> Result<EngineOutput, JobError> {
        self.run_with(work, None, cancel, progress).await
    }

    /// Runs one call with several seeds, which replace its own: the models are loaded once, and its inputs are encoded
    /// once. `each` gets the outputs, in order; without a receiver, the call is cancelled. The outcome has no pictures.
    ///
    /// # Errors
    /// Like [`Self::run`].
    pub async fn run_seeds(
        &self,
        work: Work,
        seeds: Vec<u64>,
        each: mpsc::Sender<SeedOutput>,
        cancel: CancelToken,
        progress: ProgressFn,
    ) -> Result<EngineOutput, JobError> {
        self.run_with(work, Some(SeedOutputs { seeds, each }), cancel, progress).await
    }

    async fn run_with(
        &self,
        work: Work,
        seeds: Option<SeedOutputs>,
        cancel: CancelToken,
        progress: ProgressFn,
    ) -> Result<EngineOutput, JobError> {
        let lent = self.pool.lend(Some(&work)).await?;
        let (reply, answer) = oneshot::channel();
        let work = Box::new(work);
        self.send(lent.index, DeviceCommand::Run { work, seeds, task: CallContext { cancel, progress, lent }, reply })
            .await?;
        answer.await.map_err(|_| gone())?
    }

    /// Loads the edit model now, and downloads it if needed.
    pub async fn load_edit_model(&self, cancel: CancelToken, progress: ProgressFn) -> Result<(), JobError> {
        let lent = self.pool.lend(None).await?;
        let (reply, answer) = oneshot::channel();
        self.send(lent.index, DeviceCommand::LoadEdit { task: CallContext { cancel, progress, lent }, reply }).await?;
        answer.await.map_err(|_| gone())?
    }

    /// Opens all devices and runs their self-tests; returns the descriptions of those that work.
    ///
    /// # Errors
    /// If none works, with the first one's reason. The thread of one that fails beside others logs it and leaves.
    pub async fn self_test(&self) -> Result<Vec<String>, JobError> {
        let mut answers = Vec::new();
        for index in 0..self.devices.len() {
            let (reply, answer) = oneshot::channel();
            self.send(index, DeviceCommand::Test { reply }).await?;
            answers.push(answer);
        }
        let (mut descriptions, mut failure) = (Vec::new(), None);
        for answer in answers {
            match answer.await.unwrap_or_else(|_| Err(gone())) {
                Ok(description) => descriptions.push(description),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        match failure {
            Some(error) if descriptions.is_empty() => Err(error),
            Some(_) | None => Ok(descriptions),
        }
    }

    /// Whether an error about this model, or about a part of it, is about one that the settings name.
    pub fn has_configured(&self, model: &str) -> bool {
        let options = &self.config.pipeline;
        let models = [Some(&self.config.model), options.edit_model.as_ref()].into_iter().flatten();
        let files = [&options.transformer, &options.edit_transformer, &options.text_encoder].into_iter().flatten();
        let names = models.map(ToString::to_string).chain(files.map(|file| file.display().to_string()));
        names.filter(|name| !name.is_empty()).any(|name| model.starts_with(&name))
    }

    /// Whether the worker can go on after a device has failed.
    pub fn has_others(&self) -> bool {
        self.devices.len() > 1 && self.usable() > 0
    }

    /// How many devices have not failed.
    pub fn usable(&self) -> usize {
        self.pool.usable()
    }

    pub fn devices(&self) -> Vec<DeviceStatus> {
        let status = |(index, device): (usize, &DeviceThread)| DeviceStatus {
            name: device.name.clone(),
            busy: device.busy.so_far(),
            resident: self.pool.resident_on(index),
            usable: self.pool.is_usable(index),
        };
        self.devices.iter().enumerate().map(status).collect()
    }

    /// The models on all devices together.
    pub fn resident(&self) -> watch::Receiver<Resident> {
        self.pool.resident()
    }

    async fn send(&self, index: usize, command: DeviceCommand) -> Result<(), JobError> {
        self.devices[index].commands.send(command).await.map_err(|_| gone())
    }
}

fn gone() -> JobError {
    JobError::device("engine", "its thread has stopped; restart the process, and the job is retried")
}
