//! Times the parts of a checkpoint on a device, and compares them with the device's limits.
//!
//! Weights do not affect the speed, so a checkpoint with random ones is enough (`scripts/bench/gpu_checkpoint.py`).
//! Every time is the median of several runs after one warm-up, with the device synchronized before and after.

mod forward;
mod memory;
mod parts;
mod pieces;
mod two_devices;
mod whole;

use std::{path::PathBuf, time::Instant};

use candle_core::{DType, Device, Tensor};
use clap::ValueEnum;
use qwen_image::{
    ComputeDType, DeviceChoice, Preset, StageTiming, WeightOptions, compute_pool, models::LoadContext, nn, open_device,
};
use serde::Serialize;

pub use self::forward::Tensors;

/// What to measure, and how often.
#[derive(Debug, Clone)]
pub struct BenchConfig {
    pub folder: PathBuf,
    pub device: DeviceChoice,
    /// The second device of [`BenchPart::Guidance`] and [`BenchPart::Throughput`].
    pub second_device: Option<DeviceChoice>,
    /// The number of jobs of [`BenchPart::Throughput`].
    pub jobs: usize,
    pub dtype: ComputeDType,
    pub parts: Vec<BenchPart>,
    pub repeats: usize,
    /// Denoise steps of whole pipelines.
    pub steps: u32,
    /// Files and forms of weights that replace the folder's.
    pub weights: WeightOptions,
    /// Whole pipelines run once with each, after the runs without.
    pub loras: Vec<PathBuf>,
    /// Replaces `steps`.
    pub preset: Option<Preset>,
    /// Whole pipelines run with each preset.
    pub plan: bool,
    /// The memory of whole pipelines on the GPU, in bytes. None: all that is free.
    pub vram_budget: Option<u64>,
    /// The tensors for [`BenchPart::Forward`].
    pub tensors: Option<Tensors>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchPart {
    /// The device's limits: a large matrix product and a large copy.
    Ceilings,
    Text,
    Transformer,
    /// The kernels of a transformer block, each on its own.
    Pieces,
    Vae,
    /// The whole layered pipeline at 640, 4 layers.
    Decompose,
    /// The whole edit pipeline, one reference.
    Edit,
    /// The whole layered pipeline with guidance on one device, then on two, and whether both produce the same bytes.
    Guidance,
    /// Many jobs of the whole layered pipeline, on one device, then on two with a pipeline each.
    Throughput,
    /// One pass on given tensors.
    Forward,
    /// Loading, offloading and streaming the transformer.
    Memory,
    /// The layered pipeline in each mode: peak memory, times, and whether all produce the same bytes.
    Modes,
}

/// One line of the result.
#[derive(Debug, Clone, Serialize)]
pub struct BenchLine {
    pub name: String,
    pub milliseconds: f64,
    /// The times of all measured runs, fastest first.
    pub runs: Vec<f64>,
    /// The floating-point operations of the work, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operations: Option<f64>,
    /// The bytes that the work must move, if memory limits it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<f64>,
    /// The time at the measured limit, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor_milliseconds: Option<f64>,
    /// The peak memory on the device, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
    /// The seconds of each stage of a whole pipeline.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageSeconds>,
}

/// A stage of a pipeline by its name in manifests.
#[derive(Debug, Clone, Serialize)]
pub struct StageSeconds {
    pub stage: String,
    pub seconds: f64,
}

#[derive(Debug, Clone, Serialize)]
pub struct BenchReport {
    pub device: String,
    pub attention: String,
    pub dtype: String,
    /// The rates of the matrix product, in operations per second, and of the copy, in bytes read and written per
    /// second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy_rate: Option<f64>,
    pub lines: Vec<BenchLine>,
    /// Findings other than times.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

type Failed = Box<dyn std::error::Error>;

/// A shape of the transformer's input.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// The side of a frame, in patches.
    side: usize,
    frames: usize,
    /// The number of noisy frames, whose velocity is predicted; the others are the condition.
    noisy: usize,
    text_tokens: usize,
}

const CASES: [Case; 3] = [
    Case { name: "edit 1024, one reference", side: 64, frames: 2, noisy: 1, text_tokens: 256 },
    Case { name: "layered 640, 4 layers", side: 40, frames: 6, noisy: 5, text_tokens: 300 },
    Case { name: "layered 1024, 4 layers", side: 64, frames: 6, noisy: 5, text_tokens: 300 },
];

struct Bench<'a> {
    config: &'a BenchConfig,
    device: Device,
    dtype: DType,
    report: BenchReport,
    progress: &'a mut dyn FnMut(&BenchLine),
}

/// Measures, and passes each line to `progress` as soon as it is known.
pub fn bench(config: &BenchConfig, progress: &mut dyn FnMut(&BenchLine)) -> Result<BenchReport, Failed> {
    let _pool = compute_pool();
    let (device, dtype) = (open_device(config.device)?, config.dtype.candle());
    let report = BenchReport {
        device: match config.device {
            DeviceChoice::Cpu => "cpu".to_owned(),
            DeviceChoice::Cuda(index) => nn::describe_cuda(index)?,
        },
        attention: nn::attention_kernel(&device, dtype),
        dtype: config.dtype.as_str().to_owned(),
        product_rate: None,
        copy_rate: None,
        lines: Vec::new(),
        notes: Vec::new(),
    };
    let mut bench = Bench { config, device, dtype, report, progress };
    for part in &config.parts {
        match part {
            BenchPart::Ceilings => bench.ceilings()?,
            BenchPart::Text => bench.text()?,
            BenchPart::Transformer => bench.transformer()?,
            BenchPart::Pieces => bench.pieces()?,
            BenchPart::Vae => bench.vae()?,
            BenchPart::Decompose => bench.decompose()?,
            BenchPart::Edit => bench.edit()?,
            BenchPart::Guidance => bench.guidance()?,
            BenchPart::Throughput => bench.throughput()?,
            BenchPart::Memory => bench.memory()?,
            BenchPart::Modes => bench.modes()?,
            BenchPart::Forward => {
                let Some(tensors) = &config.tensors else {
                    return Err("--parts forward needs --tensors and --out".into());
                };
                forward::forward(&config.folder, tensors, bench.loading(), bench.fp8())?;
            }
        }
    }
    Ok(bench.report)
}

impl StageSeconds {
    fn of(timing: &StageTiming) -> Self {
        Self { stage: timing.stage.as_str().to_owned(), seconds: timing.seconds }
    }
}

impl Bench<'_> {
    fn time<E>(
        &mut self,
        name: &str,
        operations: Option<f64>,
        work: impl FnMut() -> Result<(), E>,
    ) -> Result<f64, Failed>
    where
        Failed: From<E>,
    {
        let line = self.measure(name, operations, work)?;
        let milliseconds = line.milliseconds;
        self.tell(line);
        Ok(milliseconds)
    }

    fn measure<E>(
        &mut self,
        name: &str,
        operations: Option<f64>,
        mut work: impl FnMut() -> Result<(), E>,
    ) -> Result<BenchLine, Failed>
    where
        Failed: From<E>,
    {
        work()?;
        self.device.synchronize()?;
        nn::reset_peak_memory(&self.device)?;
        let mut runs = Vec::with_capacity(self.config.repeats);
        for _ in 0..self.config.repeats.max(1) {
            let start = Instant::now();
            work()?;
            self.device.synchronize()?;
            runs.push(start.elapsed().as_secs_f64() * 1e3);
        }
        runs.sort_by(f64::total_cmp);
        Ok(BenchLine {
            name: name.to_owned(),
            milliseconds: runs[runs.len() / 2],
            runs,
            operations,
            bytes: None,
            floor_milliseconds: None,
            peak_bytes: nn::peak_memory(&self.device)?,
            stages: Vec::new(),
        })
    }

    fn once(&mut self, name: &str, start: Instant, stages: &[StageTiming]) -> Result<(), Failed> {
        self.device.synchronize()?;
        let milliseconds = start.elapsed().as_secs_f64() * 1e3;
        self.tell(BenchLine {
            name: name.to_owned(),
            milliseconds,
            runs: vec![milliseconds],
            operations: None,
            bytes: None,
            floor_milliseconds: None,
            peak_bytes: nn::peak_memory(&self.device)?,
            stages: stages.iter().map(StageSeconds::of).collect(),
        });
        Ok(())
    }

    fn tell(&mut self, mut line: BenchLine) {
        let floor = |amount: Option<f64>, rate: Option<f64>| Some(amount? / rate? * 1e3);
        line.floor_milliseconds =
            floor(line.operations, self.report.product_rate).or(floor(line.bytes, self.report.copy_rate));
        (self.progress)(&line);
        self.report.lines.push(line);
    }

    /// How the transformer is loaded.
    fn loading(&self) -> LoadContext<'_> {
        LoadContext { file: self.config.weights.transformer.as_deref(), ..LoadContext::new(&self.device, self.dtype) }
    }

    fn fp8(&self) -> bool {
        self.config.dtype == ComputeDType::Fp8
    }

    fn random(&self, shape: impl Into<candle_core::Shape>) -> Result<Tensor, Failed> {
        Ok(Tensor::randn(0.0_f32, 1.0, shape, &self.device)?.to_dtype(self.dtype)?)
    }
}
