//! The engine: one operating-system thread owns the device and the models.
//!
//! Commands arrive through a bounded channel, one at a time, with their own progress and cancellation. Nothing else
//! uses the device, and no model call runs on a thread of the async runtime.

mod error;
mod loras;
mod thread;

pub use self::loras::AllowedLoras;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ::image::RgbaImage;
use qwen_image::{PipelineOptions, hub::ModelRef};
use tokio::sync::{mpsc, oneshot, watch};

use crate::job::{Caption, DecomposeParams, EditParams, JobError, ModelRecord, SamplingRecord, Stage, StageTiming};

/// The engine's configuration.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The checkpoint for decompose.
    pub model: ModelRef,
    /// Everything else, including the edit model.
    pub pipeline: PipelineOptions,
    /// The LoRAs that jobs may name.
    pub allowed_loras: AllowedLoras,
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
        params: EditParams,
        seed: u64,
    },
}

/// The result of a call.
#[derive(Debug)]
pub struct Outcome {
    /// Decompose: the regenerated composite, then the layers back to front. Edit: one picture.
    pub images: Vec<RgbaImage>,
    pub caption: Option<Caption>,
    /// Notes for the user about the checkpoint or this call.
    pub notes: Vec<String>,
    /// For decompose: the working resolution.
    pub resolution: Option<u32>,
    pub model: ModelRecord,
    pub sampling: SamplingRecord,
    /// Device, number format and attention kernel.
    pub device: String,
    pub timings: Vec<StageTiming>,
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

/// Called with `(stage, step, steps)` on the engine's thread, so it must be quick.
pub type ProgressFn = Box<dyn FnMut(Stage, u32, u32) + Send>;

/// Which checkpoints are in memory, for `/readyz`, metrics and `edit-status` of the Qwen-Image web server's endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resident {
    pub decompose: Option<String>,
    pub edit: Option<String>,
}

/// The handle; clones share the thread, which ends when the last one is dropped.
#[derive(Debug, Clone)]
pub struct Engine {
    commands: mpsc::Sender<EngineCommand>,
    resident: watch::Receiver<Resident>,
    busy: Busy,
}

/// The time that the thread has spent on commands; clones share it.
#[derive(Debug, Clone, Default)]
struct Busy(Arc<Mutex<(Duration, Option<Instant>)>>);

impl Busy {
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

enum EngineCommand {
    Test { reply: oneshot::Sender<Result<String, JobError>> },
    Run { work: Work, cancel: CancelToken, progress: ProgressFn, reply: oneshot::Sender<Result<Outcome, JobError>> },
    LoadEdit { progress: ProgressFn, cancel: CancelToken, reply: oneshot::Sender<Result<(), JobError>> },
}

impl EngineCommand {
    fn refuse(self, error: JobError) {
        // The caller may be gone.
        match self {
            Self::Test { reply } => drop(reply.send(Err(error))),
            Self::Run { reply, .. } => drop(reply.send(Err(error))),
            Self::LoadEdit { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}

impl Engine {
    /// Starts the thread. Opening the device happens there, so a missing GPU is reported by the first call.
    ///
    /// # Errors
    /// If the configuration has a device that this build does not support.
    pub fn start(config: EngineConfig) -> Result<Self, JobError> {
        config.pipeline.check()?;
        let (commands, inbox) = mpsc::channel(1);
        let (tell_resident, resident) = watch::channel(Resident::default());
        let busy = Busy::default();
        let clock = busy.clone();
        std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || thread::run(config, inbox, tell_resident, &clock))
            .map_err(|error| JobError::device("engine", error.to_string()).caused_by(error))?;
        Ok(Self { commands, resident, busy })
    }

    /// Runs one call when its turn comes. Dropping the future does not stop the work; cancelling does.
    pub async fn run(&self, work: Work, cancel: CancelToken, progress: ProgressFn) -> Result<Outcome, JobError> {
        let (reply, answer) = oneshot::channel();
        self.send(EngineCommand::Run { work, cancel, progress, reply }).await?;
        answer.await.map_err(|_| gone())?
    }

    /// Loads the edit model now, and downloads it if needed.
    pub async fn load_edit_model(&self, cancel: CancelToken, progress: ProgressFn) -> Result<(), JobError> {
        let (reply, answer) = oneshot::channel();
        self.send(EngineCommand::LoadEdit { progress, cancel, reply }).await?;
        answer.await.map_err(|_| gone())?
    }

    /// Opens the device and runs its self-test; returns the device's name.
    pub async fn self_test(&self) -> Result<String, JobError> {
        let (reply, answer) = oneshot::channel();
        self.send(EngineCommand::Test { reply }).await?;
        answer.await.map_err(|_| gone())?
    }

    /// How long the thread has been busy since it started.
    pub fn busy(&self) -> Duration {
        self.busy.so_far()
    }

    pub fn resident(&self) -> watch::Receiver<Resident> {
        self.resident.clone()
    }

    async fn send(&self, command: EngineCommand) -> Result<(), JobError> {
        self.commands.send(command).await.map_err(|_| gone())
    }
}

fn gone() -> JobError {
    JobError::device("engine", "its thread has stopped; restart the process, and the job is retried")
}
