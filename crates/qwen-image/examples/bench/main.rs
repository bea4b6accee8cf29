//! Times the parts of a checkpoint on a device: `cargo run --release --example bench -- --model DIR`.
//! `scripts/bench-gpu` puts the result beside diffusers'.

mod runner;

use std::{error::Error, path::PathBuf};

use clap::Parser;
use qwen_image::{ComputeDType, DeviceChoice};

use runner::{BenchConfig, BenchLine, BenchPart, Tensors, bench};

// As the program has it: on the CPU page faults are a quarter of the time otherwise.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(name = "bench", about = "Times the parts of a checkpoint on a device")]
struct Args {
    /// A checkpoint folder in the diffusers layout; random weights will do
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// cpu or cuda[:N]
    #[arg(long, default_value = "cuda", value_parser = str::parse::<DeviceChoice>)]
    device: DeviceChoice,
    /// f32, bf16 or fp8
    #[arg(long, default_value = "bf16", value_parser = str::parse::<ComputeDType>)]
    dtype: ComputeDType,
    /// What to time
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ceilings,text,transformer,vae")]
    parts: Vec<BenchPart>,
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
    json: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let config = BenchConfig {
        folder: args.model,
        device: args.device,
        dtype: args.dtype,
        parts: args.parts,
        repeats: args.repeats,
        steps: args.steps,
        tensors: args.tensors.zip(args.out).map(|(given, out)| Tensors { given, out }),
    };
    let report = bench(&config, &mut |line| eprintln!("{}", text(line)))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    println!("{}, {}, {}", report.device, report.dtype, report.attention);
    report.lines.iter().for_each(|line| println!("{}", text(line)));
    Ok(())
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
        text += &format!("\n    {}: {:.3} s", stage.stage, stage.seconds);
    }
    text
}
