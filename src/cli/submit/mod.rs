//! `acetate submit`: submits one or many jobs for workers, and waits for them only with `--wait`.

mod bulk;
mod earlier;
mod estimate;
mod flags;
mod pass;
mod prepare;
mod rejects;
mod row;
mod seen;
mod short_names;
mod single;
mod sources;
mod template;

use clap::{Args, Subcommand};

use super::{
    Failure,
    global::GlobalArgs,
    params::{DecomposeFlags, EditFlags, SamplingFlags, VariantFlags, WorkflowFlags},
};
use crate::{
    config::QwenImage,
    job::{CompositeParams, Task},
};

use flags::SubmitFlags;

const DECOMPOSE: &str = "Examples:
  acetate submit decompose --input s3://in/scene.png --output s3://out/ --layers 4
  acetate submit decompose --from posters/ --batch posters --output layers --wait";
const EDIT: &str = "Example:
  acetate submit edit --input job:018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21:2 \\
    --instruction \"Make it green\" --output s3://out/";
const COMPOSITE: &str = "Example:
  acetate submit composite --input s3://in/back.png --input s3://in/front.png --output s3://out/";
const WORKFLOW: &str = "Example:
  acetate submit workflow --input s3://in/scene.png --edit \"2=Make it green\" --output s3://out/";

#[derive(Debug, Args)]
pub struct SubmitArgs {
    #[command(subcommand)]
    kind: KindCommand,
}

#[derive(Debug, Subcommand)]
enum KindCommand {
    /// Split pictures into layers
    #[command(after_help = DECOMPOSE)]
    Decompose {
        #[command(flatten)]
        submit: Box<SubmitFlags>,
        #[command(flatten)]
        params: DecomposeFlags,
        #[command(flatten)]
        variants: VariantFlags,
        #[command(flatten)]
        sampling: SamplingFlags,
    },
    /// Change pictures or layers by an instruction
    #[command(after_help = EDIT)]
    Edit {
        #[command(flatten)]
        submit: Box<SubmitFlags>,
        /// What to change, for instance "Change the color to blue"
        #[arg(long, value_name = "TEXT")]
        instruction: Option<String>,
        #[command(flatten)]
        params: EditFlags,
        #[command(flatten)]
        variants: VariantFlags,
        #[command(flatten)]
        sampling: SamplingFlags,
    },
    /// Composite layers, back to front, into a picture
    #[command(after_help = COMPOSITE)]
    Composite {
        #[command(flatten)]
        submit: Box<SubmitFlags>,
    },
    /// Split pictures into layers, edit some of them, and composite them
    #[command(after_help = WORKFLOW)]
    Workflow {
        #[command(flatten)]
        submit: Box<SubmitFlags>,
        #[command(flatten)]
        params: WorkflowFlags,
        #[command(flatten)]
        sampling: SamplingFlags,
    },
}

impl SubmitArgs {
    pub fn json(&self) -> bool {
        let (KindCommand::Decompose { submit, .. }
        | KindCommand::Edit { submit, .. }
        | KindCommand::Composite { submit }
        | KindCommand::Workflow { submit, .. }) = &self.kind;
        submit.json
    }

    pub fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let loaded = global.load(Vec::new())?;
        let task = self.kind.task(&loaded.config.qwen_image);
        let mask = match &self.kind {
            KindCommand::Edit { params, .. } => params.mask().map(str::to_owned),
            KindCommand::Workflow { params, .. } => params.mask().map(str::to_owned),
            KindCommand::Decompose { .. } | KindCommand::Composite { .. } => None,
        };
        let (KindCommand::Decompose { submit, .. }
        | KindCommand::Edit { submit, .. }
        | KindCommand::Composite { submit }
        | KindCommand::Workflow { submit, .. }) = self.kind;
        match &submit.from {
            Some(_) if mask.is_some() => Err(Failure::Usage(
                "--mask is for one job; give the rows of --from a column `mask`, or use --region".to_owned(),
            )),
            Some(_) => bulk::submit(global, &loaded, &task, &submit),
            None => single::submit(global, &loaded, task, mask.as_deref(), &submit),
        }
    }
}

impl KindCommand {
    /// The parameters from the flags and the configuration; a row of a manifest may override them.
    fn task(&self, settings: &QwenImage) -> Task {
        match self {
            Self::Decompose { params, variants, sampling, .. } => {
                Task::Decompose(variants.of_decompose(params.over(sampling, settings)))
            }
            Self::Edit { instruction, params, variants, sampling, .. } => {
                let params = params.over(instruction.clone().unwrap_or_default(), sampling, settings);
                Task::Edit(variants.of_edit(params))
            }
            Self::Composite { .. } => Task::Composite(CompositeParams::default()),
            Self::Workflow { params, sampling, .. } => Task::Workflow(params.over(sampling, settings)),
        }
    }
}
