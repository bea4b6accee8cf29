//! `acetate submit`: submits one or many jobs for workers, and waits for them only with `--wait`.

mod bulk;
mod flags;
mod row;
mod single;
mod source;
mod template;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{
    Failure,
    global::GlobalArgs,
    params::{DecomposeFlags, EditFlags, SamplingFlags, WorkflowFlags},
};
use crate::{config::QwenImage, job::JobKind};

use flags::SubmitFlags;

#[derive(Debug, Args)]
pub struct SubmitArgs {
    #[command(subcommand)]
    kind: KindCommand,
}

#[derive(Debug, Subcommand)]
enum KindCommand {
    /// Split pictures into layers
    Decompose {
        #[command(flatten)]
        submit: Box<SubmitFlags>,
        #[command(flatten)]
        params: DecomposeFlags,
        #[command(flatten)]
        sampling: SamplingFlags,
    },
    /// Change pictures or layers by an instruction
    Edit {
        #[command(flatten)]
        submit: Box<SubmitFlags>,
        /// What to change, for instance "Change the color to blue"
        #[arg(long, value_name = "TEXT")]
        instruction: Option<String>,
        #[command(flatten)]
        params: EditFlags,
        #[command(flatten)]
        sampling: SamplingFlags,
    },
    /// Composite layers, back to front, into a picture
    Composite {
        #[command(flatten)]
        submit: Box<SubmitFlags>,
    },
    /// Split pictures into layers, edit some of them, and composite them
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
        let (kind, params) = self.kind.params(&loaded.config.qwen_image);
        let (KindCommand::Decompose { submit, .. }
        | KindCommand::Edit { submit, .. }
        | KindCommand::Composite { submit }
        | KindCommand::Workflow { submit, .. }) = self.kind;
        match &submit.from {
            Some(_) => bulk::submit(global, &loaded, kind, params, &submit),
            None => single::submit(global, &loaded, kind, params, &submit),
        }
    }
}

impl KindCommand {
    /// The parameters from the flags and the configuration; a row of a manifest may override them.
    fn params(&self, settings: &QwenImage) -> (JobKind, Value) {
        let (kind, params) = match self {
            Self::Decompose { params, sampling, .. } => {
                (JobKind::Decompose, serde_json::to_value(params.over(sampling, settings)))
            }
            Self::Edit { instruction, params, sampling, .. } => {
                let instruction = instruction.clone().unwrap_or_default();
                (JobKind::Edit, serde_json::to_value(params.over(instruction, sampling, settings)))
            }
            Self::Composite { .. } => (JobKind::Composite, Ok(serde_json::json!({}))),
            Self::Workflow { params, sampling, .. } => {
                (JobKind::Workflow, serde_json::to_value(params.over(sampling, settings)))
            }
        };
        (kind, params.unwrap_or_else(|error| unreachable!("plain data: {error}")))
    }
}
