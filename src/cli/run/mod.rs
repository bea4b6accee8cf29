//! `acetate run`: runs one job in this process, or one for each of several pictures. Its row, files and retries are
//! like those of any other job.

mod checks;
mod composite;
mod decompose;
mod drive;
mod edit;
pub mod flags;
mod many;
mod pictures;
mod sheet;
mod summary;
mod workflow;

use clap::{Args, Subcommand};

use super::{Failure, global::GlobalArgs};

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(subcommand)]
    command: RunCommand,
}

#[derive(Debug, Subcommand)]
enum RunCommand {
    /// Split a picture into RGBA layers
    Decompose(decompose::DecomposeArgs),
    /// Change a picture, or a layer, by an instruction
    Edit(edit::EditArgs),
    /// Composite layers, back to front
    Composite(composite::CompositeArgs),
    /// Split a picture into layers, edit some of them, and composite them
    Workflow(workflow::WorkflowArgs),
}

impl RunArgs {
    pub fn json(&self) -> bool {
        match &self.command {
            RunCommand::Decompose(args) => args.job.json,
            RunCommand::Edit(args) => args.job.json,
            RunCommand::Composite(args) => args.job.json,
            RunCommand::Workflow(args) => args.job.json,
        }
    }

    pub fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        match self.command {
            RunCommand::Decompose(args) => args.run(global),
            RunCommand::Edit(args) => args.run(global),
            RunCommand::Composite(args) => args.run(global),
            RunCommand::Workflow(args) => args.run(global),
        }
    }
}
