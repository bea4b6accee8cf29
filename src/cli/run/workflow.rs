//! `acetate run workflow`.

use clap::Args;

use super::{
    decompose::{DecomposeFlags, ModelFlags},
    drive::{Plan, drive},
    flags::{JobFlags, SamplingFlags, input, text_flag},
};
use crate::{
    cli::{Failure, global::GlobalArgs},
    job::{LayerEdit, Sampling, Task, WorkflowParams},
};

#[derive(Debug, Args)]
pub struct WorkflowArgs {
    /// The picture: a file, or job:ID:LAYER for a layer of an earlier job
    image: String,
    /// Edit of a layer by its number (1 is the rearmost), for instance --edit 2="Make it red"; may be given several
    /// times
    #[arg(long = "edit", value_name = "N=INSTRUCTION", value_parser = parse_edit)]
    edits: Vec<(u32, String)>,
    #[command(flatten)]
    pub job: JobFlags,
    #[command(flatten)]
    model: ModelFlags,
    /// Checkpoint of Qwen-Image-Edit-2509: a folder, or a hub id, downloaded at its first use [default: the small one
    /// that comes with acetate, models/edit-nano; with --model, Qwen/Qwen-Image-Edit-2509]
    #[arg(long, value_name = "DIR|ID", help_heading = "Model")]
    edit_model: Option<String>,
    #[command(flatten)]
    params: DecomposeFlags,
    #[command(flatten)]
    sampling: SamplingFlags,
}

impl WorkflowArgs {
    pub fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let mut flags = self.model.device.settings();
        flags.extend(text_flag("--model", "qwen_image.model_path", self.model.model.as_ref()));
        flags.extend(text_flag("--edit-model", "qwen_image.edit_model_path", self.edit_model.as_ref()));
        let loaded = global.load(flags)?;
        let settings = &loaded.config.qwen_image;
        let Sampling { steps, cfg_scale, seed, negative_prompt } = self.sampling.over(settings);
        let edit = |(layer, instruction): (u32, String)| LayerEdit {
            layer,
            instruction,
            steps,
            cfg_scale,
            seed,
            negative_prompt: negative_prompt.clone(),
        };
        let params = WorkflowParams {
            decompose: self.params.over(&self.sampling, settings),
            edits: self.edits.into_iter().map(edit).collect(),
        };
        let inputs = vec![input(&self.image)?];
        drive(global, loaded, Plan { task: Task::Workflow(params), inputs, flags: self.job })
    }
}

fn parse_edit(text: &str) -> Result<(u32, String), String> {
    text.split_once('=')
        .and_then(|(layer, instruction)| Some((layer.trim().parse().ok()?, instruction.to_owned())))
        .ok_or_else(|| "write N=INSTRUCTION, for instance 2=\"Make it red\"".to_owned())
}
