//! `acetate models check FILE` and `acetate models convert`.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle as Style};
use qwen_image::{
    human_memory,
    models::{self, Component, ConvertTo, ModelError, PartSize},
};
use serde_json::{Value, json};

use super::{
    Failure,
    global::{GlobalArgs, ProgressStyle},
    output,
};
use crate::job::JobError;

/// Where a model may come from, for a folder or file that is not there.
pub const NOTHING_THERE: &str =
    "there is no such file or folder; `acetate models pull ID` downloads a model from the hub";

/// How long there is no line about progress where there is no terminal.
const LOG_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  acetate models convert Qwen-Image-Layered --to q4_k_m --out layered-Q4_K_M.gguf
  acetate models convert Qwen-Image-Layered --part text-encoder --to fp8 \\
    --out text-encoder-fp8.safetensors")]
pub struct ConvertArgs {
    /// The dense checkpoint: its folder, the folder of the part, or a file of the part
    #[arg(value_name = "DIR|FILE")]
    source: PathBuf,
    /// The form: fp8 (safetensors, as ComfyUI has it), or for GGUF q8_0, q6_k, q5_k_m, q4_k_m, q4_0 or bf16
    #[arg(long, value_name = "FORM")]
    to: ConvertTo,
    /// The file to write; it must not exist
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
    /// The part of the checkpoint; a text encoder can be written as fp8
    #[arg(long, value_name = "PART", default_value = "transformer")]
    part: ComponentArg,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ComponentArg {
    Transformer,
    TextEncoder,
}

impl ConvertArgs {
    pub fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let component = match self.part {
            ComponentArg::Transformer => Component::Transformer,
            ComponentArg::TextEncoder => Component::TextEncoder,
        };
        let bar = (global.progress_style() == ProgressStyle::Bar).then(new_bar);
        let mut told = Instant::now();
        let mut on_written = |done: u64, total: u64| {
            match &bar {
                Some(bar) => {
                    bar.set_length(total);
                    bar.set_position(done);
                }
                None if told.elapsed() >= LOG_EVERY => {
                    told = Instant::now();
                    tracing::info!(bytes = done, of = total, "converting");
                }
                None => {}
            }
            ControlFlow::Continue(())
        };
        let converted = models::convert(&self.source, component, self.to, &self.out, &mut on_written);
        if let Some(bar) = &bar {
            bar.finish_and_clear();
        }
        let converted = converted.map_err(|error| invalid(&self.source, &error))?;
        if self.json {
            return output::json(&json!({
                "file": converted.path, "bytes": converted.bytes, "tensors": converted.tensors,
                "resumed": converted.resumed,
            }));
        }
        let resumed = match converted.resumed {
            0 => String::new(),
            count => format!("; {count} of them were there from an interrupted conversion"),
        };
        output::line(&format!(
            "{}: {}, {} tensors{resumed}",
            converted.path.display(),
            output::size(converted.bytes),
            converted.tensors
        ))
    }
}

fn new_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let template = "{bytes:>10} of {total_bytes} {wide_bar} {bytes_per_sec}, {eta} left";
    Style::with_template(template).map(|style| bar.set_style(style)).ok();
    bar
}

/// Describes a file with weights.
pub fn check(path: &Path, as_json: bool) -> Result<(), Failure> {
    let report = models::check_file(path).map_err(|error| invalid(path, &error))?;
    let memory = report.memory.map(memory);
    let types: Vec<String> = report.types.iter().map(|(name, count)| format!("{count} {name}")).collect();
    if as_json {
        output::json(&json!({
            "file": path, "format": report.format, "what": report.what, "architecture": report.architecture,
            "bytes": report.bytes, "tensors": report.tensors, "parameters": report.parameters, "types": report.types,
            "ranks": report.ranks, "fits": report.fits, "refused": report.refused,
            "memory": memory.as_ref().map(|modes| {
                modes.iter().map(|(name, bytes)| ((*name).to_owned(), Value::from(*bytes))).collect::<serde_json::Map<_, _>>()
            }),
        }))?;
    } else {
        let mut lines = vec![format!("{}: {}, {}", path.display(), report.what, report.format)];
        let mut line = |name: &str, text: String| lines.push(format!("{name:<11} {text}"));
        if let Some(architecture) = &report.architecture {
            line("named", architecture.clone());
        }
        line("tensors", format!("{} ({})", report.tensors, types.join(", ")));
        line("size", format!("{}, {} parameters", output::size(report.bytes), report.parameters));
        if !report.ranks.is_empty() {
            let ranks: Vec<String> = report.ranks.iter().map(usize::to_string).collect();
            line("rank", ranks.join(", "));
        }
        if let Some(fits) = &report.fits {
            line("fits", fits.clone());
        }
        for (name, bytes) in memory.iter().flatten() {
            line(name, human_memory(*bytes));
        }
        if let Some(refused) = &report.refused {
            line("refused", refused.clone());
        }
        lines.iter().try_for_each(|line| output::line(line))?;
    }
    if report.refused.is_none() { Ok(()) } else { Err(Failure::Silent(1)) }
}

/// The memory of the weights: all of them on the device, or a pair of blocks.
fn memory(size: PartSize) -> Vec<(&'static str, u64)> {
    let mut modes = vec![("resident", size.weights())];
    if size.blocks > 2 {
        modes.push(("streamed", size.ends + 2 * size.room));
    }
    modes
}

fn invalid(path: &Path, error: &ModelError) -> JobError {
    let model = path.display().to_string();
    let reason = error.to_string();
    let reason = reason.strip_prefix(&format!("{model}: ")).unwrap_or(&reason).to_owned();
    match error {
        ModelError::NotFound { .. } => JobError::ModelNotFound { model, reason: NOTHING_THERE.to_owned() },
        ModelError::Output { .. } => JobError::invalid("--out", error.to_string()),
        ModelError::Write { path, reason } => JobError::storage(path.display().to_string(), reason.clone()),
        _ => JobError::ModelInvalid { model, reason },
    }
}
