//! Times the parts of a checkpoint on a device: `cargo run --release --example bench -- --model DIR`.
//! `scripts/bench-gpu` compares the result with diffusers.

mod runner;

use std::{error::Error, path::PathBuf};

use clap::Parser;
use qwen_image::{ComputeDType, DeviceChoice, Preset, WeightOptions};

use runner::{BenchConfig, BenchLine, BenchPart, Tensors, bench};

// The program's allocator: with the system's, page faults take a quarter of the time on the CPU.
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
    /// The second device of `--parts guidance,throughput`, such as cuda:1
    #[arg(long, value_name = "DEVICE", value_parser = str::parse::<DeviceChoice>)]
    second_device: Option<DeviceChoice>,
    /// The number of jobs of `--parts throughput`
    #[arg(long, default_value_t = 40)]
    jobs: usize,
    /// f32, bf16 or fp8
    #[arg(long, default_value = "bf16", value_parser = str::parse::<ComputeDType>)]
    dtype: ComputeDType,
    /// What to time
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ceilings,text,transformer,vae")]
    parts: Vec<BenchPart>,
    /// The number of measured runs of each part; the median is reported
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// Denoise steps of whole pipelines
    #[arg(long, default_value_t = 50)]
    steps: u32,
    /// The transformer's weights in one file: GGUF or fp8
    #[arg(long, value_name = "FILE")]
    transformer: Option<PathBuf>,
    /// Round the text encoder's layers to fp8
    #[arg(long)]
    text_encoder_fp8: bool,
    /// LoRAs; after the jobs without any, `decompose` and `edit` run one with each
    #[arg(long = "lora", value_name = "FILE")]
    loras: Vec<PathBuf>,
    /// Sampler, steps and guidance of whole pipelines: exact, balanced, fast or lightning; `--steps` has no effect then
    #[arg(long, value_parser = str::parse::<Preset>)]
    preset: Option<Preset>,
    /// Run whole pipelines (`--parts decompose` or `edit`) with each preset, for pictures an hour
    #[arg(long, conflicts_with = "preset")]
    plan: bool,
    /// The memory that whole pipelines may take on the GPU, in GiB
    #[arg(long, value_name = "GIB")]
    vram_budget: Option<u64>,
    /// The inputs of `--parts forward`, as safetensors
    #[arg(long, value_name = "FILE", requires = "out")]
    tensors: Option<PathBuf>,
    /// The file for the results of `--parts forward`
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
        second_device: args.second_device,
        jobs: args.jobs,
        dtype: args.dtype,
        parts: args.parts,
        repeats: args.repeats,
        steps: args.steps,
        weights: WeightOptions {
            transformer: args.transformer,
            text_encoder: None,
            text_encoder_fp8: args.text_encoder_fp8,
        },
        loras: args.loras,
        preset: args.preset,
        plan: args.plan,
        vram_budget: args.vram_budget.map(|gib| gib << 30),
        tensors: args.tensors.zip(args.out).map(|(given, out)| Tensors { given, out }),
    };
    let report = bench(&config, &mut |line| eprintln!("{}", text(line)))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    println!("{}, {}, {}", report.device, report.dtype, report.attention);
    report.lines.iter().for_each(|line| println!("{}", text(line)));
    report.notes.iter().for_each(|note| println!("{note}"));
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
    if !line.stages.is_empty() {
        text += &format!("  {:.0} an hour", 3_600_000.0 / line.milliseconds);
    }
    for stage in &line.stages {
        let share = 100_000.0 * stage.seconds / line.milliseconds;
        text += &format!("\n    {}: {:.3} s, {share:.0} %", stage.stage, stage.seconds);
    }
    text
}
