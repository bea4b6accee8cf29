//! `acetate bench`: times the parts of a checkpoint on a device. For those who work on acetate; `scripts/bench-gpu`
//! puts the result beside diffusers'.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Failure, output};
use crate::{
    config::{parse_device, parse_dtype},
    engine::{self, BenchConfig, BenchLine, BenchPart, Tensors},
    job::JobError,
};

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// A checkpoint folder in the diffusers layout; random weights will do
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// cpu or cuda[:N]
    #[arg(long, default_value = "cuda")]
    device: String,
    /// f32, bf16 or fp8
    #[arg(long, default_value = "bf16")]
    dtype: String,
    /// What to time
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ceilings,text,transformer,vae")]
    parts: Vec<Part>,
    /// Counted runs of each; the median is reported
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// Denoise steps of whole pipelines
    #[arg(long, default_value_t = 50)]
    steps: u32,
    /// Inputs of `--parts forward`, safetensors
    #[arg(long, value_name = "FILE", requires = "out")]
    tensors: Option<PathBuf>,
    /// Where its results go
    #[arg(long, value_name = "FILE", requires = "tensors")]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Part {
    Ceilings,
    Text,
    Transformer,
    Pieces,
    Vae,
    Decompose,
    Edit,
    Forward,
    Memory,
    Modes,
}

impl BenchArgs {
    pub fn run(self) -> Result<(), Failure> {
        let invalid = |field: &str, reason: String| JobError::invalid(field, reason);
        let parts = self.parts.iter().map(|part| match part {
            Part::Ceilings => BenchPart::Ceilings,
            Part::Text => BenchPart::Text,
            Part::Transformer => BenchPart::Transformer,
            Part::Pieces => BenchPart::Pieces,
            Part::Vae => BenchPart::Vae,
            Part::Decompose => BenchPart::Decompose,
            Part::Edit => BenchPart::Edit,
            Part::Forward => BenchPart::Forward,
            Part::Memory => BenchPart::Memory,
            Part::Modes => BenchPart::Modes,
        });
        let config = BenchConfig {
            folder: self.model,
            device: parse_device(&self.device).map_err(|reason| invalid("device", reason))?,
            dtype: parse_dtype(&self.dtype).map_err(|reason| invalid("dtype", reason))?,
            parts: parts.collect(),
            repeats: self.repeats,
            steps: self.steps,
            tensors: self.tensors.zip(self.out).map(|(given, out)| Tensors { given, out }),
        };
        let report = engine::bench(&config, &mut |line| eprintln!("{}", text(line)))?;
        if self.json {
            return output::json(&report);
        }
        output::line(&format!("{}, {}, {}", report.device, report.dtype, report.attention))?;
        report.lines.iter().try_for_each(|line| output::line(&text(line)))
    }
}

fn text(line: &BenchLine) -> String {
    let mut text = format!("{:<52} {:>10.2} ms", line.name, line.milliseconds);
    if let Some(floor) = line.floor_milliseconds {
        text += &format!("  floor {floor:.2} ms, x{:.3}", line.milliseconds / floor);
    }
    if let Some(peak) = line.peak_bytes {
        text += &format!("  peak {:.2} GiB", peak as f64 / f64::from(1 << 30));
    }
    for stage in &line.stages {
        text += &format!("\n    {:?}: {:.3} s", stage.stage, stage.seconds);
    }
    text
}
