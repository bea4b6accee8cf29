//! Times the parts of a checkpoint on a device, beside what the device can do at best.
//!
//! Weights decide nothing about speed, so a checkpoint with random ones will do (`scripts/bench/gpu_checkpoint.py`).
//! Every time is the median of several runs after one that is not counted, with the device waited for before and
//! after.

mod forward;
mod memory;
mod parts;
mod pieces;

use std::{path::PathBuf, time::Instant};

use candle_core::{DType, Device, Tensor};
use clap::ValueEnum;
use qwen_image::{ComputeDType, DeviceChoice, StageTiming, compute_pool, nn, open_device};
use serde::Serialize;

pub use self::forward::Tensors;

/// What to measure, and how often.
#[derive(Debug, Clone)]
pub struct BenchConfig {
    pub folder: PathBuf,
    pub device: DeviceChoice,
    pub dtype: ComputeDType,
    pub parts: Vec<BenchPart>,
    pub repeats: usize,
    /// Denoise steps of whole pipelines.
    pub steps: u32,
    /// For [`BenchPart::Forward`].
    pub tensors: Option<Tensors>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchPart {
    /// What the device does at best: a large matrix product, a large copy.
    Ceilings,
    Text,
    Transformer,
    /// The kernels of a transformer's block, each for itself.
    Pieces,
    Vae,
    /// The whole layered pipeline at 640, 4 layers.
    Decompose,
    /// The whole edit pipeline, one reference.
    Edit,
    /// One pass on given tensors.
    Forward,
    /// LoadContext, swapping and streaming of the transformer.
    Memory,
    /// The layered pipeline in each mode: peaks, times, and whether all give the same bytes.
    Modes,
}

/// One line of the result.
#[derive(Debug, Clone, Serialize)]
pub struct BenchLine {
    pub name: String,
    pub milliseconds: f64,
    /// Of all counted runs, fastest first.
    pub runs: Vec<f64>,
    /// Floating-point operations that the work needs, where they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operations: Option<f64>,
    /// Bytes that the work must move, where that is what limits it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<f64>,
    /// Milliseconds at the measured ceiling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor_milliseconds: Option<f64>,
    /// Most memory that was in use on the device, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
    /// Seconds of each stage of a whole pipeline.
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
    /// Of the matrix product, in operations a second, and of the copy, in bytes read and written a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy_rate: Option<f64>,
    pub lines: Vec<BenchLine>,
    /// What was found beside times.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

type Failed = Box<dyn std::error::Error>;

/// A shape of the transformer's input.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// Of a frame, in patches.
    side: usize,
    frames: usize,
    /// Those that are wanted; the rest is the condition.
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

/// Measures, telling `progress` each line as it comes.
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
            BenchPart::Memory => bench.memory()?,
            BenchPart::Modes => bench.modes()?,
            BenchPart::Forward => {
                let Some(tensors) = &config.tensors else {
                    return Err("--parts forward needs --tensors and --out".into());
                };
                forward::forward(
                    &config.folder,
                    tensors,
                    &bench.device,
                    bench.dtype,
                    config.dtype == ComputeDType::Fp8,
                )?;
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

    fn fp8(&self) -> bool {
        self.config.dtype == ComputeDType::Fp8
    }

    fn random(&self, shape: impl Into<candle_core::Shape>) -> Result<Tensor, Failed> {
        Ok(Tensor::randn(0.0_f32, 1.0, shape, &self.device)?.to_dtype(self.dtype)?)
    }
}
