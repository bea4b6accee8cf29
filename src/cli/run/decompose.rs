//! `acetate run decompose`.

use clap::Args;

use super::{
    drive::{Plan, drive},
    flags::{DeviceFlags, JobFlags, SamplingFlags, input, text_flag},
};
use crate::{
    cli::{Failure, global::GlobalArgs},
    config::QwenImage,
    job::{DecomposeParams, Task},
};

#[derive(Debug, Args)]
pub struct DecomposeArgs {
    /// The picture: a file (PNG, JPEG, WebP, GIF, BMP, TIFF), or job:ID:LAYER for a layer of an earlier job
    image: String,
    #[command(flatten)]
    pub job: JobFlags,
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    params: DecomposeFlags,
    #[command(flatten)]
    sampling: SamplingFlags,
}

/// The checkpoint that takes pictures apart, and what it runs on.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelFlags {
    /// Checkpoint of Qwen-Image-Layered: a folder, or a hub id such as Qwen/Qwen-Image-Layered, downloaded at its
    /// first use [default: the small one that comes with acetate, models/layered-nano]
    #[arg(long, value_name = "DIR|ID")]
    pub model: Option<String>,
    #[command(flatten)]
    pub device: DeviceFlags,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Parameters")]
pub struct DecomposeFlags {
    /// What the whole picture shows [default: the model describes it itself]
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Number of layers, 2 to 10 [default: 4]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    layers: Option<u32>,
    /// Side of the square whose area the model works at: 640 or 1024 for the full model [default: what the checkpoint
    /// was made for, 640 for the full model]
    #[arg(long, value_name = "PIXELS", allow_negative_numbers = true)]
    resolution: Option<u32>,
    /// Keep the length of each guided prediction at that of the unguided one [default: true]
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

impl DecomposeArgs {
    pub fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let mut flags = self.model.device.settings();
        flags.extend(text_flag("--model", "qwen_image.model_path", self.model.model.as_ref()));
        let loaded = global.load(flags)?;
        let params = self.params.over(&self.sampling, &loaded.config.qwen_image);
        let inputs = vec![input(&self.image)?];
        drive(global, loaded, Plan { task: Task::Decompose(params), inputs, flags: self.job })
    }
}
