//! `acetate run decompose`.

use std::path::PathBuf;

use clap::Args;

use super::{
    drive::{LocalJob, drive},
    flags::{DeviceFlags, JobFlags, input, path_flag, text_flag, with_whole_ids},
    many::{Many, are_many, drive_many},
};
use crate::{
    cli::{
        Failure,
        global::GlobalArgs,
        params::{DecomposeFlags, SamplingFlags, VariantFlags},
    },
    config::Flag,
    image::ExportFormat,
    job::{Inputs, JobKind, Task},
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  acetate run decompose scene.png --out out/scene
  acetate run decompose pictures/ --out layers --export psd
  acetate run decompose scene.png --out out/scene --device cuda --model Qwen/Qwen-Image-Layered \\
      --transformer Qwen_Image_Layered-Q4_K_M.gguf")]
pub struct DecomposeArgs {
    /// The picture: a file (PNG, JPEG, WebP, GIF, BMP, TIFF, JPEG XL, AVIF, HEIC), or job:ID:LAYER for a layer of
    /// an earlier job.
    /// Several pictures, or a folder: each gets a folder of its own in --out; run again, it continues where it stopped
    #[arg(required = true, value_name = "IMAGE|DIR")]
    images: Vec<String>,
    #[command(flatten)]
    pub job: JobFlags,
    /// Also write the layers of each picture as one file: zip, ora (OpenRaster: Krita), psd (Photoshop, GIMP) or pptx
    /// (PowerPoint); or their composite: webp or jpg (on white where it is transparent). Each picture then gets a
    /// folder of its own in --out
    #[arg(long, value_name = "FORMAT")]
    export: Option<ExportFormat>,
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    params: DecomposeFlags,
    #[command(flatten)]
    variants: VariantFlags,
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
    /// File with the transformer's weights instead of the model's own: GGUF (.gguf), fp8, or one of ComfyUI's files
    /// (.safetensors); the model's folder gives everything else
    #[arg(long, value_name = "FILE")]
    pub transformer: Option<PathBuf>,
    #[command(flatten)]
    pub device: DeviceFlags,
}

impl ModelFlags {
    pub fn settings(&self) -> Vec<Flag> {
        let mut flags = self.device.settings();
        flags.extend(text_flag("--model", "qwen_image.model_path", self.model.as_ref()));
        flags.extend(path_flag("--transformer", "qwen_image.transformer_path", self.transformer.as_deref()));
        flags
    }
}

impl DecomposeArgs {
    pub fn run(mut self, global: &GlobalArgs) -> Result<(), Failure> {
        let mut loaded = global.load(self.model.settings())?;
        self.sampling.allow_loras(&mut loaded.config.qwen_image)?;
        with_whole_ids(&loaded, &mut self.images)?;
        let params = self.variants.of_decompose(self.params.over(&self.sampling, &loaded.config.qwen_image));
        if are_many(&self.images) || self.export.is_some() {
            let Self { images, job: flags, export, .. } = self;
            return drive_many(global, &loaded, Many { task: Task::Decompose(params), images, flags, export });
        }
        let inputs = self.images.iter().map(|image| input(image)).collect::<Result<_, _>>()?;
        let inputs = Inputs::named(JobKind::Decompose, inputs);
        drive(global, loaded, LocalJob { task: Task::Decompose(params), inputs, flags: self.job })
    }
}
