//! The flags for model parameters, the same for `run` and `submit`.

use std::{collections::BTreeMap, ops::RangeInclusive, str::FromStr};

use clap::{Args, ValueEnum};
use qwen_image::{
    Preset, Sampler,
    hub::{self, HubError, LoraSource},
    models::lora::{LoraError, LoraFile},
    pipeline::{FEATHER, NUM_INFERENCE_STEPS},
};

use crate::{
    config::QwenImage,
    engine::AllowedLoras,
    job::{
        AlphaMode, DecomposeParams, EditParams, JobError, KeepRest, LayerCount, LayerEdit, LoraParam, MAX_SEED,
        OutputSize, Sampling, VARIANTS, WorkflowParams,
    },
};

#[derive(Debug, Args)]
#[command(next_help_heading = "Parameters")]
pub struct DecomposeFlags {
    /// What the whole picture shows [default: the model writes a caption]
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = parse_count, help = "Number of layers, 2 to 10, or auto: as many as the picture has. 0 lifts the part out of the picture that --prompt names, with a Layered-Control checkpoint [default: 4]")]
    layers: Option<LayerCount>,
    /// Working resolution, the side of a square with the same area: 640 or 1024 for the full model [default: what the
    /// checkpoint was made for, 640 for the full model]
    #[arg(long, value_name = "PIXELS", allow_negative_numbers = true, value_parser = parse_whole)]
    resolution: Option<u32>,
    /// Scale each guided prediction to the norm of the unguided one [default: true]
    #[arg(long, value_name = "BOOL")]
    cfg_normalize: Option<bool>,
    /// Size of the layers: that of the picture, so that their composite is exactly the picture, or the size that the
    /// model works at [default: source for pictures that are larger than the model's, or of another shape]
    #[arg(long, value_name = "SIZE")]
    output_size: Option<SizeArg>,
    /// Mark the result with quality: low if the composited layers are less true to the picture than this
    /// peak signal-to-noise ratio, 0 to 100
    #[arg(long, value_name = "DB", allow_negative_numbers = true, value_parser = parse_number)]
    min_psnr: Option<f64>,
    /// Cut each layer's file to its visible part; `placement` in the manifest says where that is
    #[arg(long)]
    trim: bool,
}

impl DecomposeFlags {
    pub fn over(&self, sampling: &SamplingFlags, settings: &QwenImage) -> DecomposeParams {
        let reference = DecomposeParams::sampled(sampling.over(settings));
        DecomposeParams {
            prompt: self.prompt.clone().unwrap_or_default(),
            layers: self.layers.unwrap_or(LayerCount::Exactly(settings.layer_num)),
            resolution: self.resolution.or(Some(settings.resolution).filter(|&side| side != 0)),
            cfg_normalize: self.cfg_normalize.unwrap_or(reference.cfg_normalize),
            output_size: self.output_size.map(OutputSize::from),
            min_psnr: self.min_psnr,
            trim: self.trim,
            ..reference
        }
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Parameters")]
pub struct EditFlags {
    /// Size of the result: that of the last picture, with its exact alpha, or the size that the model works at
    #[arg(long, value_name = "SIZE", default_value = "source")]
    output_size: SizeArg,
    /// Whether the outline may change: `keep` leaves the picture's alpha exactly as it is; `grow` finds a new one, for
    /// "Add a shadow", "Make it bigger" or "Remove the background", and takes twice the time
    #[arg(long, value_name = "MODE", default_value = "keep")]
    alpha: AlphaArg,
    #[command(flatten)]
    place: PlaceFlags,
}

/// Where edits may change their picture.
#[derive(Debug, Args)]
#[command(next_help_heading = "Parameters")]
struct PlaceFlags {
    /// Where an edit may change its picture: a picture whose white may change and whose black stays, exactly; or
    /// job:ID:LAYER, whose alpha is the mask. Another size is scaled
    #[arg(long, value_name = "IMAGE", conflicts_with = "region")]
    mask: Option<String>,
    /// The rectangle that may change, instead of a mask, in pixels from the upper left corner
    #[arg(long, value_name = "X,Y,W,H", allow_hyphen_values = true, value_parser = parse_region)]
    region: Option<[u32; 4]>,
    #[arg(long, value_name = "PIXELS", allow_negative_numbers = true, value_parser = parse_whole, help = format!("Over how many pixels the edit fades in at the edge of its mask or region, inside of it, {} [default: 1 % of the shorter side, from 1 to 16]", from_to(FEATHER)))]
    feather: Option<u32>,
    /// Without a mask: `auto` finds what changed, and puts the picture's own pixels back everywhere else
    #[arg(long, value_name = "MODE", default_value = "off")]
    keep_rest: KeepRestArg,
    /// Measure how far the edited picture moved, and undo up to 3 % of shift and zoom [default: true]
    #[arg(long, value_name = "BOOL")]
    drift_guard: Option<bool>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum AlphaArg {
    Keep,
    Grow,
}

impl From<AlphaArg> for AlphaMode {
    fn from(alpha: AlphaArg) -> Self {
        match alpha {
            AlphaArg::Keep => Self::Keep,
            AlphaArg::Grow => Self::Grow,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum KeepRestArg {
    Off,
    Auto,
}

impl From<KeepRestArg> for KeepRest {
    fn from(keep: KeepRestArg) -> Self {
        match keep {
            KeepRestArg::Off => Self::Off,
            KeepRestArg::Auto => Self::Auto,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SizeArg {
    Source,
    Model,
}

impl From<SizeArg> for OutputSize {
    fn from(size: SizeArg) -> Self {
        match size {
            SizeArg::Source => Self::Source,
            SizeArg::Model => Self::Model,
        }
    }
}

impl EditFlags {
    pub fn over(&self, instruction: String, sampling: &SamplingFlags, settings: &QwenImage) -> EditParams {
        EditParams {
            output_size: self.output_size.into(),
            alpha: self.alpha.into(),
            region: self.place.region,
            feather: self.place.feather,
            keep_rest: self.place.keep_rest.into(),
            drift_guard: self.place.drift_guard.unwrap_or(true),
            ..EditParams::of(instruction, sampling.over(settings))
        }
    }

    /// The mask, by its name on the command line.
    pub fn mask(&self) -> Option<&str> {
        self.place.mask.as_deref()
    }

    /// The same, to write the whole id of its job.
    pub fn mask_mut(&mut self) -> Option<&mut String> {
        self.place.mask.as_mut()
    }
}

#[derive(Debug, Args)]
pub struct WorkflowFlags {
    /// Edit a layer by its number (1 is the rearmost), for instance --edit 2="Make it red"; may be repeated
    #[arg(long = "edit", value_name = "N=INSTRUCTION", value_parser = parse_edit)]
    edits: Vec<(u32, String)>,
    /// Whether edits may change the outlines of their layers, as in `acetate run edit`
    #[arg(long, value_name = "MODE", default_value = "keep")]
    alpha: AlphaArg,
    #[command(flatten)]
    place: PlaceFlags,
    #[command(flatten)]
    decompose: DecomposeFlags,
}

impl WorkflowFlags {
    pub fn over(&self, sampling: &SamplingFlags, settings: &QwenImage) -> WorkflowParams {
        let edit = |(layer, instruction): &(u32, String)| LayerEdit {
            alpha: self.alpha.into(),
            region: self.place.region,
            feather: self.place.feather,
            keep_rest: self.place.keep_rest.into(),
            drift_guard: self.place.drift_guard.unwrap_or(true),
            ..LayerEdit::of(*layer, instruction.clone(), sampling.over(settings))
        };
        WorkflowParams {
            decompose: self.decompose.over(sampling, settings),
            edits: self.edits.iter().map(edit).collect(),
        }
    }

    /// The mask of all edits, by its name on the command line.
    pub fn mask(&self) -> Option<&str> {
        self.place.mask.as_deref()
    }

    /// The same, to write the whole id of its job.
    pub fn mask_mut(&mut self) -> Option<&mut String> {
        self.place.mask.as_mut()
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Parameters")]
pub struct SamplingFlags {
    /// Defaults for the parameters below: `exact`, as diffusers, 50 steps; `balanced`, the same quality with 40 % of
    /// the passes; `fast`, nearly the same with a quarter; `lightning`, a LoRA for 4 or 8 passes without guidance,
    /// which is loaded if no --lora is one
    #[arg(long, value_name = "NAME", value_parser = parse_name::<Preset>)]
    pub preset: Option<Preset>,
    /// Add a LoRA: a .safetensors file, or ORG/NAME:FILE on the hub, and its strength [default: 1]; may be repeated.
    /// Submitted jobs name LoRAs of the workers' setting qwen_image.allowed_loras
    #[arg(long = "lora", value_name = "FILE|ID[=F]", value_parser = LoraParam::parse)]
    pub loras: Vec<LoraParam>,
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = parse_whole, help = format!("Denoise steps, {} [default: 50]", from_to(NUM_INFERENCE_STEPS)))]
    pub steps: Option<u32>,
    /// Guidance; 1 turns it off and halves the time [default: 4.0]
    #[arg(long, value_name = "F", allow_negative_numbers = true, value_parser = parse_number)]
    pub cfg_scale: Option<f64>,
    /// The solver: `euler`, `abm2` or `unipc` [default: the one that the checkpoint names, euler]
    #[arg(long, value_name = "NAME", value_parser = parse_name::<Sampler>)]
    pub sampler: Option<Sampler>,
    /// Skip at most N steps in a row, where the change from step to step is small [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = parse_whole)]
    pub step_cache: Option<u32>,
    /// The share of the steps that have guidance, 0 to 1 [default: 1]
    #[arg(long, value_name = "F", allow_negative_numbers = true, value_parser = parse_number)]
    pub cfg_until: Option<f64>,
    /// Seed of the noise, the same as in torch on the CPU [default: from the job's id]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = parse_seed)]
    pub seed: Option<u64>,
    /// What the picture should not show [default: " "]
    #[arg(long, value_name = "TEXT")]
    pub negative_prompt: Option<String>,
}

impl SamplingFlags {
    /// The configured defaults, overridden by the flags.
    pub fn over(&self, settings: &QwenImage) -> Sampling {
        let defaults = match self.preset {
            Some(preset) => settings.sampling().preset(preset),
            None => settings.sampling(),
        };
        let defaults = defaults.steps_for(self.loras.iter().map(|lora| lora.name.as_str()));
        Sampling {
            preset: defaults.preset,
            steps: self.steps.unwrap_or(defaults.steps),
            cfg_scale: self.cfg_scale.unwrap_or(defaults.cfg_scale),
            seed: self.seed,
            negative_prompt: self.negative_prompt.clone().unwrap_or(defaults.negative_prompt),
            sampler: self.sampler.or(defaults.sampler),
            sigmas: None,
            step_cache: self.step_cache.unwrap_or(defaults.step_cache),
            cfg_until: self.cfg_until.unwrap_or(defaults.cfg_until),
            loras: Some(self.loras.clone()).filter(|loras| !loras.is_empty()),
        }
    }

    /// Lets the jobs of this process use the LoRAs of the command line.
    ///
    /// # Errors
    /// If one is neither in the settings, nor a file, nor a hub id.
    pub fn allow_loras(&mut self, settings: &mut QwenImage) -> Result<(), JobError> {
        for lora in &mut self.loras {
            if AllowedLoras::parse(&settings.allowed_loras)?.of(Some(std::slice::from_ref(lora))).is_ok() {
                continue;
            }
            let source =
                LoraSource::parse(&lora.name).map_err(|error| JobError::invalid("--lora", error.to_string()))?;
            if let LoraSource::File(path) = source {
                // The job's row must name the same file from everywhere.
                let path = path.canonicalize().map_err(|error| {
                    let reason = format!("{}: {error}; give a .safetensors file, or ORG/NAME:FILE", lora.name);
                    JobError::invalid("--lora", reason)
                })?;
                let file = if path.is_dir() {
                    hub::lora_in_folder(&path).map_err(|error| match error {
                        HubError::LoraReference { reason, .. } => {
                            JobError::invalid("--lora", format!("{}: {reason}", lora.name))
                        }
                        other => JobError::from(other),
                    })?
                } else {
                    path.clone()
                };
                LoraFile::check(&file).map_err(|error| match error {
                    error @ LoraError::Io { .. } => JobError::from(error),
                    wrong => JobError::invalid("--lora", wrong.to_string()),
                })?;
                lora.name = path.display().to_string();
            }
            settings.allowed_loras.push(lora.name.clone());
        }
        Ok(())
    }
}

/// How many results a job makes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Parameters")]
pub struct VariantFlags {
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = parse_whole, help = format!("Make several variants, {}, with the seeds N, N + 1 and so on; `variants.png` shows all of them [default: 1]", from_to(VARIANTS)))]
    count: Option<u32>,
    /// Make a variant with each of these seeds, instead of --seed and --count, for instance 7,11,13
    #[arg(long, value_name = "N,N", value_delimiter = ',', allow_negative_numbers = true, value_parser = parse_seed, conflicts_with = "seed")]
    seeds: Option<Vec<u64>>,
}

impl VariantFlags {
    pub fn of_decompose(&self, params: DecomposeParams) -> DecomposeParams {
        DecomposeParams { count: self.count, seeds: self.seeds.clone(), ..params }
    }

    pub fn of_edit(&self, params: EditParams) -> EditParams {
        EditParams { count: self.count, seeds: self.seeds.clone(), ..params }
    }
}

/// `2 to 10`.
fn from_to(range: RangeInclusive<u32>) -> String {
    format!("{} to {}", range.start(), range.end())
}

/// The labels of a command.
pub fn labels(given: &[(String, String)]) -> Result<BTreeMap<String, String>, JobError> {
    let mut labels = BTreeMap::new();
    for (key, value) in given {
        if let Some(other) = labels.insert(key.clone(), value.clone()) {
            let reason = format!("{key} is given twice, as {key}={other} and {key}={value}; give it once");
            return Err(JobError::invalid("--label", reason));
        }
    }
    Ok(labels)
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

fn parse_count(text: &str) -> Result<LayerCount, String> {
    text.parse()
}

fn parse_region(text: &str) -> Result<[u32; 4], String> {
    let numbers: Option<Vec<u32>> = text.split(',').map(|number| number.trim().parse().ok()).collect();
    let region = numbers.and_then(|numbers| <[u32; 4]>::try_from(numbers).ok());
    region.ok_or_else(|| "write X,Y,WIDTH,HEIGHT in whole pixels, for instance 100,50,200,150".to_owned())
}

fn parse_name<T: FromStr<Err = String>>(text: &str) -> Result<T, String> {
    text.parse()
}

fn parse_number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "not a number".to_owned())
}

pub fn parse_seed(text: &str) -> Result<u64, String> {
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
