//! `acetate submit`: jobs for workers, one or many, and no waiting unless asked for.

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
    /// Take pictures apart into layers
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
    /// Put layers, back to front, together into a picture
    Composite {
        #[command(flatten)]
        submit: Box<SubmitFlags>,
    },
    /// Take pictures apart, edit some of the layers, and put them together again
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
    /// The parameters as the flags and the configuration have them; a row of a manifest may say otherwise.
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
