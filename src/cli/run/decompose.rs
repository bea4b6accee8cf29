//! `acetate run decompose`.

use clap::Args;

use super::{
    drive::{Plan, drive},
    flags::{DeviceFlags, JobFlags, input, text_flag},
};
use crate::{
    cli::{
        Failure,
        global::GlobalArgs,
        params::{DecomposeFlags, SamplingFlags},
    },
    job::{Inputs, JobKind, Task},
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

/// The checkpoint for decompose, and its device.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelFlags {
    /// Checkpoint of Qwen-Image-Layered: a folder, or a hub id such as Qwen/Qwen-Image-Layered, downloaded on
    /// first use [default: the small one that comes with acetate, models/layered-nano]
    #[arg(long, value_name = "DIR|ID")]
    pub model: Option<String>,
    #[command(flatten)]
    pub device: DeviceFlags,
}

impl DecomposeArgs {
    pub fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let mut flags = self.model.device.settings();
        flags.extend(text_flag("--model", "qwen_image.model_path", self.model.model.as_ref()));
        let loaded = global.load(flags)?;
        let params = self.params.over(&self.sampling, &loaded.config.qwen_image);
        let inputs = Inputs::named(JobKind::Decompose, vec![input(&self.image)?]);
        drive(global, loaded, Plan { task: Task::Decompose(params), inputs, flags: self.job })
    }
}
