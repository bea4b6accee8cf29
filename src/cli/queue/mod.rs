//! `acetate queue`: shows, pauses, resumes and drains the queue as a whole.

mod drain;
mod status;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Failure, global::GlobalArgs, jobs::open_to_read, output, runtime::block_on};
use crate::{
    app::Submitter,
    database::Scope,
    job::{BatchId, JobKind},
};

#[derive(Debug, Args)]
pub struct QueueArgs {
    #[command(subcommand)]
    command: QueueCommand,
}

#[derive(Debug, Subcommand)]
enum QueueCommand {
    /// Show what waits, what runs and what is paused
    #[command(after_help = "Examples:\n  acetate queue status\n  acetate queue status --json")]
    Status(StatusArgs),
    /// Keep queued jobs from starting; running ones go on
    ///
    /// All workers obey within a second, and the pause lasts until it is resumed, also across restarts. Jobs can still
    /// be submitted.
    #[command(
        after_help = "Examples:\n  acetate queue pause\n  acetate queue pause decompose\n  acetate queue pause --batch posters"
    )]
    Pause(ScopeArgs),
    /// End the pause of the same kind or batch
    #[command(after_help = "Examples:\n  acetate queue resume\n  acetate queue resume --batch posters")]
    Resume(ScopeArgs),
    /// Pause, and wait until the running jobs have ended
    ///
    /// Ctrl-C only ends the waiting: the pause stays.
    #[command(
        after_help = "Examples:\n  acetate queue drain && systemctl stop acetate-worker\n  acetate queue drain edit"
    )]
    Drain(ScopeArgs),
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ScopeArgs {
    /// Only jobs of this kind: decompose, edit, composite or workflow [default: all jobs]
    kind: Option<JobKind>,
    /// Only jobs of this batch
    #[arg(long, value_name = "NAME", conflicts_with = "kind")]
    batch: Option<BatchId>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl ScopeArgs {
    fn scope(&self) -> Scope {
        match (self.kind, &self.batch) {
            (Some(kind), _) => Scope::Kind(kind),
            (None, Some(batch)) => Scope::Batch(batch.clone()),
            (None, None) => Scope::All,
        }
    }
}

impl QueueArgs {
    pub fn json(&self) -> bool {
        match &self.command {
            QueueCommand::Status(args) => args.json,
            QueueCommand::Pause(args) | QueueCommand::Resume(args) | QueueCommand::Drain(args) => args.json,
        }
    }

    pub fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let loaded = global.load(Vec::new())?;
        block_on(async {
            let submitter = match &self.command {
                QueueCommand::Status(_) => open_to_read(global, &loaded).await?,
                QueueCommand::Pause(_) | QueueCommand::Resume(_) | QueueCommand::Drain(_) => {
                    Submitter::open(&loaded).await?
                }
            };
            let done = match &self.command {
                QueueCommand::Status(args) => status::show(&submitter, args.json).await,
                QueueCommand::Pause(args) => pause(&submitter, args).await,
                QueueCommand::Resume(args) => resume(global, &submitter, args).await,
                QueueCommand::Drain(args) => drain::drain(global, &submitter, args).await,
            };
            submitter.close().await;
            done
        })
    }
}

async fn pause(submitter: &Submitter, args: &ScopeArgs) -> Result<(), Failure> {
    let scope = args.scope();
    let new = submitter.jobs.pause(&scope).await?;
    let remark = submitter.jobs.remark_on(&scope).await?;
    if args.json {
        let mut shown = json!({ "paused": scope.to_string(), "new": new });
        if let Some(remark) = remark {
            shown["remark"] = remark.into();
        }
        return output::json(&shown);
    }
    let was = if new { "paused" } else { "already paused" };
    let remark = remark.map(|remark| format!(" ({remark})")).unwrap_or_default();
    output::line(&format!("{scope}: {was}{remark}; resume with: {}", resume_command(&scope)))
}

async fn resume(global: &GlobalArgs, submitter: &Submitter, args: &ScopeArgs) -> Result<(), Failure> {
    let scope = args.scope();
    let was = submitter.jobs.resume(&scope).await?;
    submitter.dispatch().await;
    let left = submitter.jobs.pauses().await?;
    if args.json {
        let left: Vec<_> = left.iter().map(|pause| pause.scope.to_string()).collect();
        return output::json(&json!({ "resumed": scope.to_string(), "was_paused": was, "still_paused": left }));
    }
    output::line(&format!("{scope}: {}", if was { "resumed" } else { "was not paused" }))?;
    for pause in left {
        global.say(&format!("still paused: {} ({})", pause.scope, resume_command(&pause.scope)));
    }
    Ok(())
}

/// The command that ends a pause.
fn resume_command(scope: &Scope) -> String {
    match scope {
        Scope::All => "acetate queue resume".to_owned(),
        Scope::Kind(kind) => format!("acetate queue resume {kind}"),
        Scope::Batch(batch) => format!("acetate queue resume --batch {batch}"),
    }
}
