//! The flags for model parameters, the same for `run` and `submit`.

use std::ops::RangeInclusive;

use clap::{Args, ValueEnum};
use qwen_image::pipeline::{LAYERS, NUM_INFERENCE_STEPS};

use crate::{
    config::QwenImage,
    job::{DecomposeParams, EditParams, LayerEdit, MAX_SEED, OutputSize, Sampling, WorkflowParams},
};

#[derive(Debug, Args)]
#[command(next_help_heading = "Parameters")]
pub struct DecomposeFlags {
    /// What the whole picture shows [default: the model writes a caption]
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = parse_whole, help = format!("Number of layers, {} [default: 4]", from_to(LAYERS)))]
    layers: Option<u32>,
    /// Working resolution, the side of a square with the same area: 640 or 1024 for the full model [default: what the
    /// checkpoint was made for, 640 for the full model]
    #[arg(long, value_name = "PIXELS", allow_negative_numbers = true, value_parser = parse_whole)]
    resolution: Option<u32>,
    /// Scale each guided prediction to the norm of the unguided one [default: true]
    #[arg(long, value_name = "BOOL")]
    cfg_normalize: Option<bool>,
}

impl DecomposeFlags {
    pub fn over(&self, sampling: &SamplingFlags, settings: &QwenImage) -> DecomposeParams {
        let reference = DecomposeParams::default();
        let sampling = sampling.over(settings);
        DecomposeParams {
            prompt: self.prompt.clone().unwrap_or(reference.prompt),
            layers: self.layers.unwrap_or(settings.layer_num),
            resolution: self.resolution.or(Some(settings.resolution).filter(|&side| side != 0)),
            cfg_normalize: self.cfg_normalize.unwrap_or(reference.cfg_normalize),
            steps: sampling.steps,
            cfg_scale: sampling.cfg_scale,
            seed: sampling.seed,
            negative_prompt: sampling.negative_prompt,
        }
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Parameters")]
pub struct EditFlags {
    /// Size of the result: that of the last picture, with its exact alpha, or the size that the model works at
    #[arg(long, value_name = "SIZE", default_value = "source")]
    output_size: Size,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Size {
    Source,
    Model,
}

impl EditFlags {
    pub fn over(&self, instruction: String, sampling: &SamplingFlags, settings: &QwenImage) -> EditParams {
        let Sampling { steps, cfg_scale, seed, negative_prompt } = sampling.over(settings);
        let output_size = match self.output_size {
            Size::Source => OutputSize::Source,
            Size::Model => OutputSize::Model,
        };
        EditParams { instruction, output_size, steps, cfg_scale, seed, negative_prompt }
    }
}

#[derive(Debug, Args)]
pub struct WorkflowFlags {
    /// Edit a layer by its number (1 is the rearmost), for instance --edit 2="Make it red"; may be repeated
    #[arg(long = "edit", value_name = "N=INSTRUCTION", value_parser = parse_edit)]
    edits: Vec<(u32, String)>,
    #[command(flatten)]
    decompose: DecomposeFlags,
}

impl WorkflowFlags {
    pub fn over(&self, sampling: &SamplingFlags, settings: &QwenImage) -> WorkflowParams {
        let Sampling { steps, cfg_scale, seed, negative_prompt } = sampling.over(settings);
        let edit = |(layer, instruction): &(u32, String)| LayerEdit {
            layer: *layer,
            instruction: instruction.clone(),
            steps,
            cfg_scale,
            seed,
            negative_prompt: negative_prompt.clone(),
        };
        WorkflowParams {
            decompose: self.decompose.over(sampling, settings),
            edits: self.edits.iter().map(edit).collect(),
        }
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Parameters")]
pub struct SamplingFlags {
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = parse_whole, help = format!("Denoise steps, {} [default: 50]", from_to(NUM_INFERENCE_STEPS)))]
    pub steps: Option<u32>,
    /// Guidance; 1 turns it off and halves the time [default: 4.0]
    #[arg(long, value_name = "F", allow_negative_numbers = true, value_parser = parse_number)]
    pub cfg_scale: Option<f64>,
    /// Seed of the noise, the same as in torch on the CPU [default: from the job's id]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = parse_seed)]
    pub seed: Option<u64>,
    /// What the picture should not show [default: " "]
    #[arg(long, value_name = "TEXT")]
    pub negative_prompt: Option<String>,
}

impl SamplingFlags {
    /// The flags over the configured defaults.
    pub fn over(&self, settings: &QwenImage) -> Sampling {
        let reference = Sampling::default();
        Sampling {
            steps: self.steps.unwrap_or(settings.num_inference_steps),
            cfg_scale: self.cfg_scale.unwrap_or(settings.cfg_scale),
            seed: self.seed,
            negative_prompt: self.negative_prompt.clone().unwrap_or(reference.negative_prompt),
        }
    }
}

/// `2 to 10`.
fn from_to(range: RangeInclusive<u32>) -> String {
    format!("{} to {}", range.start(), range.end())
}

pub fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, for instance dataset=posters".to_owned()),
    }
}

fn parse_whole(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "not a whole number".to_owned())
}

fn parse_number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "not a number".to_owned())
}

fn parse_seed(text: &str) -> Result<u64, String> {
    text.parse()
        .ok()
        .filter(|seed| *seed <= MAX_SEED)
        .ok_or_else(|| format!("a seed is a whole number between 0 and {MAX_SEED}"))
}

fn parse_edit(text: &str) -> Result<(u32, String), String> {
    text.split_once('=')
        .and_then(|(layer, instruction)| Some((layer.trim().parse().ok()?, instruction.to_owned())))
        .ok_or_else(|| "write N=INSTRUCTION, for instance 2=\"Make it red\"".to_owned())
}
