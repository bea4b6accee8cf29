//! Which models are in memory. A checkpoint is found, measured and loaded at its first use, then kept.

use std::{ops::ControlFlow, path::PathBuf};

use candle_core::{DType, Device, Tensor};
use tokio::sync::watch;

use super::{CancelToken, DTypeChoice, DeviceChoice, EngineConfig, ProgressFn, Resident, memory};
use crate::{
    hub::{self, DownloadEvent, ModelRef},
    job::{JobError, ModelRecord, Stage},
    models::ModelError,
    nn,
    pipeline::{DecomposePipeline, EditPipeline, Pipeline},
};

pub struct Models {
    config: EngineConfig,
    device: Option<(Device, DType)>,
    decompose: Option<Loaded<DecomposePipeline>>,
    edit: Option<Loaded<EditPipeline>>,
    /// Weights of the models above.
    resident_bytes: u64,
    tell: watch::Sender<Resident>,
}

pub struct Loaded<P> {
    pub pipeline: P,
    pub record: ModelRecord,
}

/// A checkpoint on this machine.
struct Found {
    /// Of its weights in memory.
    bytes: u64,
    folder: PathBuf,
    record: ModelRecord,
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

fn device_name(device: DeviceChoice) -> String {
    match device {
        DeviceChoice::Cpu => "cpu".to_owned(),
        DeviceChoice::Cuda(index) => format!("cuda:{index}"),
    }
}

impl Models {
    pub fn new(config: EngineConfig, tell: watch::Sender<Resident>) -> Self {
        Self { config, device: None, decompose: None, edit: None, resident_bytes: 0, tell }
    }

    pub fn decompose(&mut self, watcher: &mut Watcher<'_>) -> Result<&Loaded<DecomposePipeline>, JobError> {
        if self.decompose.is_none() {
            let (device, dtype) = self.device()?;
            let found = self.find(&self.config.model, Pipeline::Layered, dtype, watcher)?;
            let pipeline = DecomposePipeline::load(&found.folder, &device, dtype, loading(&found.record, watcher))
                .and_then(|pipeline| if self.fp8() { Ok(pipeline.into_fp8()?) } else { Ok(pipeline) })
                .map_err(|error| model_error(&found.record.id, &self.device_name(), error))?;
            self.tell.send_modify(|resident| resident.decompose = Some(found.record.id.clone()));
            self.resident_bytes += found.bytes;
            self.decompose = Some(Loaded { pipeline, record: found.record });
        }
        self.decompose.as_ref().ok_or_else(unreachable_model)
    }

    pub fn edit(&mut self, watcher: &mut Watcher<'_>) -> Result<&Loaded<EditPipeline>, JobError> {
        if self.edit.is_none() {
            let (device, dtype) = self.device()?;
            let found = self.find(&self.config.edit_model, Pipeline::EditPlus, dtype, watcher)?;
            let pipeline = EditPipeline::load(&found.folder, &device, dtype, loading(&found.record, watcher))
                .and_then(|pipeline| if self.fp8() { Ok(pipeline.into_fp8()?) } else { Ok(pipeline) })
                .map_err(|error| model_error(&found.record.id, &self.device_name(), error))?;
            self.tell.send_modify(|resident| resident.edit = Some(found.record.id.clone()));
            self.resident_bytes += found.bytes;
            self.edit = Some(Loaded { pipeline, record: found.record });
        }
        self.edit.as_ref().ok_or_else(unreachable_model)
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

    /// `cpu f32 cpu-blocked`: device, number format and attention kernel, for the manifest.
    pub fn description(&self) -> String {
        match &self.device {
            Some((device, dtype)) => {
                let attention = nn::attention_kernel(device, *dtype);
                format!("{} {} {attention}", self.device_name(), self.config.dtype.as_str())
            }
            None => self.device_name(),
        }
    }

    fn fp8(&self) -> bool {
        self.config.dtype == DTypeChoice::Fp8
    }

    pub fn device_name(&self) -> String {
        device_name(self.config.device)
    }

    fn device(&mut self) -> Result<(Device, DType), JobError> {
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

    fn find(
        &self,
        model: &ModelRef,
        pipeline: Pipeline,
        dtype: DType,
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
        // A budget is for all models; free memory is what the resident ones have left.
        let budget = self.config.memory_budget.map(|budget| budget.saturating_sub(self.resident_bytes));
        let bytes = memory::check(&snapshot.id, &snapshot.folder, dtype, budget)?;
        Ok(Found {
            bytes,
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

fn loading<'a>(record: &'a ModelRecord, watcher: &'a mut Watcher<'_>) -> impl FnMut(&str) -> ControlFlow<()> + 'a {
    let mut parts = 0;
    move |part| {
        parts += 1;
        tracing::info!(model = record.id, part, "loaded");
        (watcher.progress)(Stage::Load, parts, 3);
        if watcher.cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
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

fn unreachable_model() -> JobError {
    JobError::Device { device: "engine".to_owned(), reason: "the model was not kept".to_owned() }
}
