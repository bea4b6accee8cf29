//! `acetate run workflow`.

use std::path::PathBuf;

use clap::Args;

use super::{
    decompose::ModelFlags,
    drive::{LocalJob, drive},
    flags::{JobFlags, input, path_flag, text_flag, with_whole_ids},
};
use crate::{
    cli::{
        Failure,
        global::GlobalArgs,
        params::{SamplingFlags, WorkflowFlags},
    },
    job::{Inputs, JobKind, Task},
};

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  acetate run workflow examples/scene.png --layers 3 --edit \"2=Make it green\" --out out"
)]
pub struct WorkflowArgs {
    /// The picture: a file, or job:ID:LAYER for a layer of an earlier job
    image: String,
    #[command(flatten)]
    pub job: JobFlags,
    #[command(flatten)]
    model: ModelFlags,
    /// Checkpoint of Qwen-Image-Edit-2509: a folder, or a hub id, downloaded on first use [default: the small one
    /// that comes with acetate, models/edit-nano; with --model, Qwen/Qwen-Image-Edit-2509]
    #[arg(long, value_name = "DIR|ID", help_heading = "Model")]
    edit_model: Option<String>,
    /// The same as --transformer, for the edit model
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    edit_transformer: Option<PathBuf>,
    #[command(flatten, next_help_heading = "Edits")]
    params: WorkflowFlags,
    #[command(flatten)]
    sampling: SamplingFlags,
}

impl WorkflowArgs {
    pub fn run(mut self, global: &GlobalArgs) -> Result<(), Failure> {
        let mut flags = self.model.settings();
        flags.extend(text_flag("--edit-model", "qwen_image.edit_model_path", self.edit_model.as_ref()));
        let transformer = self.edit_transformer.as_deref();
        flags.extend(path_flag("--edit-transformer", "qwen_image.edit_transformer_path", transformer));
        let mut loaded = global.load(flags)?;
        self.sampling.allow_loras(&mut loaded.config.qwen_image)?;
        with_whole_ids(&loaded, std::iter::once(&mut self.image).chain(self.params.mask_mut()))?;
        let settings = &loaded.config.qwen_image;
        let mask = self.params.mask().map(input).transpose()?;
        let params = self.params.over(&self.sampling, settings);
        let inputs = Inputs { mask, ..Inputs::named(JobKind::Workflow, vec![input(&self.image)?]) };
        drive(global, loaded, LocalJob { task: Task::Workflow(params), inputs, flags: self.job })
    }
}
