//! `acetate run edit`.

use std::path::PathBuf;

use clap::Args;

use super::{
    drive::{LocalJob, drive},
    flags::{DeviceFlags, JobFlags, input, path_flag, text_flag, with_whole_ids},
};
use crate::{
    cli::{
        Failure,
        global::GlobalArgs,
        params::{EditFlags, SamplingFlags, VariantFlags},
    },
    job::{Inputs, JobKind, Task},
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  acetate run edit out/scene/layer-02.png --instruction \"Make it green\" --out green
  acetate run edit scene.png --instruction \"Open the window\" --region 420,180,160,200 \\
    --out out/window
  acetate run edit scene.png --instruction \"Make it ink\" --lora ink.safetensors=0.8 \\
    --out out/ink")]
pub struct EditArgs {
    /// One to three pictures: the last one is edited, the others are references. A file, or job:ID:LAYER for a layer
    /// of an earlier job
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// What to change, for instance "Change the color to blue"
    #[arg(long, value_name = "TEXT")]
    instruction: String,
    #[command(flatten)]
    pub job: JobFlags,
    /// Checkpoint of Qwen-Image-Edit-2509: a folder, or a hub id such as Qwen/Qwen-Image-Edit-2509, downloaded on
    /// first use [default: the small one that comes with acetate, models/edit-nano; if qwen_image.model_path is set,
    /// Qwen/Qwen-Image-Edit-2509]
    #[arg(long, value_name = "DIR|ID", help_heading = "Model")]
    model: Option<String>,
    /// File with the transformer's weights instead of the model's own: GGUF (.gguf), fp8, or one of ComfyUI's files
    /// (.safetensors); the model's folder gives everything else
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    transformer: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceFlags,
    #[command(flatten)]
    params: EditFlags,
    #[command(flatten)]
    variants: VariantFlags,
    #[command(flatten)]
    sampling: SamplingFlags,
}

impl EditArgs {
    pub fn run(mut self, global: &GlobalArgs) -> Result<(), Failure> {
        let mut flags = self.device.settings();
        flags.extend(text_flag("--model", "qwen_image.edit_model_path", self.model.as_ref()));
        let transformer = self.transformer.as_deref();
        flags.extend(path_flag("--transformer", "qwen_image.edit_transformer_path", transformer));
        let mut loaded = global.load(flags)?;
        self.sampling.allow_loras(&mut loaded.config.qwen_image)?;
        with_whole_ids(&loaded, self.images.iter_mut().chain(self.params.mask_mut()))?;
        let mask = self.params.mask().map(input).transpose()?;
        let params = self.params.over(self.instruction, &self.sampling, &loaded.config.qwen_image);
        let params = self.variants.of_edit(params);
        let pictures = self.images.iter().map(|image| input(image)).collect::<Result<_, _>>()?;
        let inputs = Inputs { mask, ..Inputs::named(JobKind::Edit, pictures) };
        drive(global, loaded, LocalJob { task: Task::Edit(params), inputs, flags: self.job })
    }
}
