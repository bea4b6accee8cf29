//! The device, and the checkpoints on this machine. Which of them are in memory is in `residents`.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use tokio::sync::watch;

use super::{
    CancelToken, DTypeChoice, DeviceChoice, EngineConfig, ProgressFn, Resident, memory,
    plan::{Mode, Plan, Question, plan},
};
use crate::{
    hub::{self, DownloadEvent, ModelRef},
    job::{JobError, ModelRecord, Stage},
    models::ModelError,
    nn::{self, CardMemory},
    pipeline::{self, DecomposePipeline, EditPipeline, Pipeline},
};

pub struct Models {
    pub(super) config: EngineConfig,
    pub(super) device: Option<(Device, DType)>,
    pub(super) decompose: Option<Loaded<DecomposePipeline>>,
    pub(super) edit: Option<Loaded<EditPipeline>>,
    /// The fastest mode that is still tried: smaller ones after the device ran out of memory.
    pub(super) from: Mode,
    pub(super) tell: watch::Sender<Resident>,
}

/// A checkpoint in memory.
pub struct Loaded<P> {
    pub pipeline: P,
    pub record: ModelRecord,
    /// Where its parts go; none on the CPU, where all of them stay.
    pub plan: Option<Plan>,
    /// Of its weights, for `memory_budget`.
    pub(super) bytes: u64,
    pub(super) folder: PathBuf,
}

/// A checkpoint on this machine.
pub(super) struct Found {
    pub folder: PathBuf,
    pub record: ModelRecord,
}

/// Who is told and asked while a model comes in.
pub struct Watcher<'a> {
    pub progress: &'a mut ProgressFn,
    pub cancel: &'a CancelToken,
}

/// The sum over the product of two 64x64 matrices of ones and twos: 64 * 64 * 64 * 1 * 2.
const PRODUCT_SUM: f64 = 524_288.0;

fn product_sum(device: &Device, dtype: DType) -> candle_core::Result<f64> {
    let ones = Tensor::ones((64, 64), dtype, device)?;
    let twos = (&ones * 2.0)?;
    let sum: f32 = ones.matmul(&twos)?.to_dtype(DType::F32)?.sum_all()?.to_scalar()?;
    Ok(f64::from(sum))
}

/// Opens a device, with the number format that goes with the choice.
pub fn open(device: DeviceChoice, dtype: DTypeChoice) -> Result<(Device, DType), JobError> {
    let opened = match device {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Cuda(index) => nn::open_cuda(index),
    }
    .map_err(|error| JobError::Device { device: device_name(device), reason: first_line(&error) })?;
    let dtype = match dtype {
        DTypeChoice::F32 => DType::F32,
        DTypeChoice::Bf16 | DTypeChoice::Fp8 => DType::BF16,
    };
    Ok((opened, dtype))
}

/// A GPU in words, with the attention kernel that it will use; opens it.
pub fn describe(device: DeviceChoice, dtype: DTypeChoice) -> Result<String, JobError> {
    let name = device_name(device);
    let (opened, format) = open(device, dtype)?;
    let gpu = match device {
        DeviceChoice::Cpu => String::new(),
        DeviceChoice::Cuda(index) => {
            let gpu = nn::describe_cuda(index).map_err(|error| device_error(&name, &error))?;
            format!(", {gpu}")
        }
    };
    Ok(format!("{name}{gpu}, {}, attention {}", dtype.as_str(), nn::attention_kernel(&opened, format)))
}

/// Where a checkpoint would go on a GPU as it is now, in words.
pub fn foresee(config: &EngineConfig, folder: &Path, layered: bool) -> Result<String, JobError> {
    let pipeline = if layered { Pipeline::Layered } else { Pipeline::EditPlus };
    let name = device_name(config.device);
    let model = folder.display().to_string();
    let (device, dtype) = open(config.device, config.dtype)?;
    let sizes = pipeline::sizes(folder, pipeline, dtype, config.dtype == DTypeChoice::Fp8)
        .map_err(|error| model_error(&model, &name, error))?;
    let card = nn::card_memory(&device).map_err(|error| device_error(&name, &error))?;
    let Some(CardMemory { free, .. }) = card else { return Ok(String::new()) };
    let question = Question {
        sizes,
        free,
        held: 0,
        leavable: 0,
        host: config.memory_budget.unwrap_or_else(memory::available_memory),
        offload: config.offload,
        budget: config.vram_budget,
        from: Mode::Resident,
    };
    match plan(&question) {
        Ok(plan) => Ok(plan.to_string()),
        Err(refused) => Err(JobError::ModelTooLarge { model, reason: refused.to_string() }),
    }
}

fn device_name(device: DeviceChoice) -> String {
    match device {
        DeviceChoice::Cpu => "cpu".to_owned(),
        DeviceChoice::Cuda(index) => format!("cuda:{index}"),
    }
}

impl Models {
    pub fn new(config: EngineConfig, tell: watch::Sender<Resident>) -> Self {
        Self { config, device: None, decompose: None, edit: None, from: Mode::Resident, tell }
    }

    /// Opens the device and multiplies two matrices whose product is known.
    pub fn self_test(&mut self) -> Result<String, JobError> {
        let (device, dtype) = self.device()?;
        let name = self.device_name();
        let sum = product_sum(&device, dtype).map_err(|error| device_error(&name, &error))?;
        if (sum - PRODUCT_SUM).abs() > PRODUCT_SUM * 1e-2 {
            let reason = format!("it computes {sum} where {PRODUCT_SUM} is right; do not trust it");
            return Err(JobError::Device { device: name, reason });
        }
        Ok(self.description())
    }

    /// `cpu f32 cpu-blocked`: device, number format and attention kernel, for the manifest; on a GPU also where the
    /// model is.
    pub fn describe_with(&self, plan: Option<&Plan>) -> String {
        match plan {
            Some(plan) => format!("{}, {plan}", self.description()),
            None => self.description(),
        }
    }

    fn description(&self) -> String {
        match &self.device {
            Some((device, dtype)) => {
                let attention = nn::attention_kernel(device, *dtype);
                format!("{} {} {attention}", self.device_name(), self.config.dtype.as_str())
            }
            None => self.device_name(),
        }
    }

    pub(super) fn fp8(&self) -> bool {
        self.config.dtype == DTypeChoice::Fp8
    }

    pub fn device_name(&self) -> String {
        device_name(self.config.device)
    }

    pub(super) fn device(&mut self) -> Result<(Device, DType), JobError> {
        if let Some(open) = &self.device {
            return Ok(open.clone());
        }
        let (device, dtype) = open(self.config.device, self.config.dtype)?;
        tracing::info!(
            device = self.device_name(),
            dtype = self.config.dtype.as_str(),
            attention = nn::attention_kernel(&device, dtype),
            "device opened"
        );
        self.device = Some((device.clone(), dtype));
        Ok((device, dtype))
    }

    pub(super) fn find(
        &self,
        model: &ModelRef,
        pipeline: Pipeline,
        watcher: &mut Watcher<'_>,
    ) -> Result<Found, JobError> {
        (watcher.progress)(Stage::Load, 0, 0);
        let mut total = 0;
        let mut done = 0;
        let mut on_event = |event: DownloadEvent| {
            match event {
                DownloadEvent::Planned { bytes, present, .. } => (total, done) = (bytes, present),
                DownloadEvent::Progressed { bytes, .. } => done = bytes,
                DownloadEvent::Retrying { file, reason, wait } => {
                    tracing::warn!(%file, %reason, wait_seconds = wait.as_secs_f64(), "download interrupted");
                }
                DownloadEvent::Unreachable { reason } => tracing::warn!(%reason, "using the copy in the cache"),
                DownloadEvent::Locked { file } => tracing::info!(%file, "another process fetches this file"),
                DownloadEvent::Started { .. }
                | DownloadEvent::Verified { .. }
                | DownloadEvent::Waiting
                | DownloadEvent::Finished { .. } => {}
            }
            let mebibytes = |bytes: u64| u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
            (watcher.progress)(Stage::Load, mebibytes(done), mebibytes(total));
            if watcher.cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let snapshot = hub::resolve(&self.config.hub, model, &hub::diffusers_files, &mut on_event)?;
        Ok(Found {
            folder: snapshot.folder,
            record: ModelRecord {
                pipeline: pipeline.class_name().to_owned(),
                id: snapshot.id,
                revision: snapshot.revision,
                default: matches!(model, ModelRef::Small { .. }),
            },
        })
    }
}

pub fn model_error(model: &str, device: &str, error: ModelError) -> JobError {
    let model = model.to_owned();
    match error {
        ModelError::NotFound { .. } => JobError::ModelNotFound { model, reason: error.to_string() },
        ModelError::Device(error) => device_error(device, &error),
        ModelError::Cancelled => JobError::Cancelled,
        ModelError::Invalid { .. }
        | ModelError::MissingTensor { .. }
        | ModelError::WrongShape { .. }
        | ModelError::UnexpectedTensor { .. } => JobError::ModelInvalid { model, reason: error.to_string() },
    }
}

/// candle has no kind for "out of memory"; the driver's words are all there is.
pub fn device_error(device: &str, error: &candle_core::Error) -> JobError {
    let reason = first_line(error);
    let device = device.to_owned();
    if reason.to_ascii_lowercase().contains("out of memory") || reason.contains("OUT_OF_MEMORY") {
        JobError::OutOfMemory { device, reason }
    } else {
        JobError::Device { device, reason }
    }
}

/// The message without the backtrace that candle appends to it.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
