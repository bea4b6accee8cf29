//! The engine: one operating-system thread owns the device and the models.
//!
//! Commands go in through a bounded channel, one at a time; progress and cancel travel beside them. Nothing else
//! touches the device, and no model call ever runs on a thread of the async runtime.

mod bench;
mod memory;
mod models;
mod plan;
mod residents;
mod shared;
mod thread;

pub use self::{
    bench::{BenchConfig, BenchLine, BenchPart, BenchReport, Tensors, bench},
    models::{describe, foresee},
    plan::Offload,
};

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ::image::RgbaImage;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    hub::{HubConfig, ModelRef},
    job::{Caption, DecomposeParams, EditParams, JobError, ModelRecord, Stage, StageTiming},
};

/// How the engine is set up; read by `config`, changed by flags.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The checkpoint that takes pictures apart.
    pub model: ModelRef,
    /// The checkpoint that edits.
    pub edit_model: ModelRef,
    /// Load the edit model at start instead of at its first use.
    pub load_edit_model: bool,
    pub device: DeviceChoice,
    pub dtype: DTypeChoice,
    /// What may leave a GPU while it is not needed there.
    pub offload: Offload,
    /// Most bytes that models may take on a GPU; absent: what it has free.
    pub vram_budget: Option<u64>,
    /// Most bytes that the models may take in the host's memory; absent: what the machine has free.
    pub memory_budget: Option<u64>,
    pub hub: HubConfig,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    Cpu,
    Cuda(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DTypeChoice {
    F32,
    Bf16,
    /// Like `Bf16`, with the transformer's blocks in eight bits: faster and smaller, less exact. For GPUs of compute
    /// capability 8.9 and newer.
    Fp8,
}

impl DTypeChoice {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Fp8 => "fp8",
        }
    }
}

/// One call of one pipeline.
#[derive(Debug)]
pub enum Work {
    Decompose {
        image: RgbaImage,
        params: DecomposeParams,
        seed: u64,
    },
    /// One to three pictures; the last one gives the output its shape and its alpha.
    Edit {
        images: Vec<RgbaImage>,
        params: EditParams,
        seed: u64,
    },
}

/// What a call made.
#[derive(Debug)]
pub struct Outcome {
    /// Decompose: the regenerated composite, then the layers back to front. Edit: one picture.
    pub images: Vec<RgbaImage>,
    pub caption: Option<Caption>,
    /// What the user should know: about the checkpoint, or about this call.
    pub notes: Vec<String>,
    /// Of a decompose: the side that its model worked at.
    pub resolution: Option<u32>,
    pub model: ModelRecord,
    /// Device, number format and attention kernel.
    pub device: String,
    pub timings: Vec<StageTiming>,
}

/// Set from outside, read between steps.
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

/// Told `(stage, step, steps)` as the work goes on; called on the engine's thread, so it must be quick.
pub type ProgressFn = Box<dyn FnMut(Stage, u32, u32) + Send>;

/// Which checkpoints are in memory, for `/readyz`, metrics and the seed's `edit-status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resident {
    pub decompose: Option<String>,
    pub edit: Option<String>,
}

/// The handle; clones share the thread, which ends when the last one is dropped.
#[derive(Debug, Clone)]
pub struct Engine {
    commands: mpsc::Sender<Command>,
    resident: watch::Receiver<Resident>,
    busy: Busy,
}

/// Time that the thread has spent on commands; clones share it.
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

    /// Nothing under the lock can leave it half-changed.
    fn lock(&self) -> MutexGuard<'_, (Duration, Option<Instant>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Command {
    Test { reply: oneshot::Sender<Result<String, JobError>> },
    Run { work: Work, cancel: CancelToken, progress: ProgressFn, reply: oneshot::Sender<Result<Outcome, JobError>> },
    LoadEdit { progress: ProgressFn, cancel: CancelToken, reply: oneshot::Sender<Result<(), JobError>> },
}

impl Engine {
    /// Starts the thread. Opening the device happens there, so a missing GPU is reported by the first call.
    ///
    /// # Errors
    /// When the configuration asks for a device that this build cannot drive.
    pub fn start(config: EngineConfig) -> Result<Self, JobError> {
        check_device(config.device)?;
        let (commands, inbox) = mpsc::channel(1);
        let (tell_resident, resident) = watch::channel(Resident::default());
        let busy = Busy::default();
        let clock = busy.clone();
        std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || thread::run(config, inbox, tell_resident, &clock))
            .map_err(|error| JobError::Device { device: "engine".to_owned(), reason: error.to_string() })?;
        Ok(Self { commands, resident, busy })
    }

    /// Runs one call; waits for its turn. Dropping the future does not stop the work: cancel does.
    pub async fn run(&self, work: Work, cancel: CancelToken, progress: ProgressFn) -> Result<Outcome, JobError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Run { work, cancel, progress, reply }).await?;
        answer.await.map_err(|_| gone())?
    }

    /// Loads the edit model now, downloading it if need be.
    pub async fn load_edit_model(&self, cancel: CancelToken, progress: ProgressFn) -> Result<(), JobError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::LoadEdit { progress, cancel, reply }).await?;
        answer.await.map_err(|_| gone())?
    }

    /// Opens the device and has it compute something whose result is known; gives the device's name.
    pub async fn self_test(&self) -> Result<String, JobError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Test { reply }).await?;
        answer.await.map_err(|_| gone())?
    }

    /// How long the thread has worked since it started.
    pub fn busy(&self) -> Duration {
        self.busy.so_far()
    }

    pub fn resident(&self) -> watch::Receiver<Resident> {
        self.resident.clone()
    }

    async fn send(&self, command: Command) -> Result<(), JobError> {
        self.commands.send(command).await.map_err(|_| gone())
    }
}

/// Refuses a device that this build cannot drive.
///
/// # Errors
/// On `cuda` without the `cuda` feature.
pub fn check_device(device: DeviceChoice) -> Result<(), JobError> {
    if matches!(device, DeviceChoice::Cuda(_)) && !candle_core::utils::cuda_is_available() {
        return Err(JobError::invalid("device", "this acetate is built without CUDA; use cpu"));
    }
    Ok(())
}

fn gone() -> JobError {
    JobError::Device {
        device: "engine".to_owned(),
        reason: "its thread has ended; restart the process, the job will be tried again".to_owned(),
    }
}
