//! `acetate jobs`: lists and manages jobs.

mod export;
mod many;
mod prune;
mod results;
pub mod sweep;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::json;

use super::{
    Failure,
    audit::{self, HistoryArgs},
    global::GlobalArgs,
    output,
    runtime::block_on,
    view::{JobView, progress_text},
};
use crate::{
    app::Submitter,
    database::{Filter, JobRow, Pause},
    job::{BatchId, JobError, JobId, JobKind, JobState},
    worker::WorkerName,
};
use many::{CancelArgs, ManyArgs, RetryArgs};
pub use prune::parse_age;
pub use sweep::Sweep;

const CANCEL_EXAMPLES: &str = "\
Examples:
  acetate jobs cancel 018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21
  acetate jobs cancel --batch posters --yes
  acetate jobs retry --batch posters --state cancelled   # takes it back";

const RETRY_EXAMPLES: &str = "\
Examples:
  acetate jobs retry --batch posters
  acetate jobs retry --batch posters --code storage
  acetate jobs retry --batch posters --state cancelled";

#[derive(Debug, Args)]
pub struct JobsArgs {
    #[command(subcommand)]
    command: JobsCommand,
}

#[derive(Debug, Subcommand)]
enum JobsCommand {
    /// List jobs, newest first
    List(ListArgs),
    /// Show one job: state, progress, outputs and attempts
    Show(OneArgs),
    /// Show what happened to a job, in order: who submitted, cancelled or retried it, and its attempts
    ///
    /// Also of a job that was deleted, for audit.keep_days.
    History(HistoryArgs),
    /// Wait for a job or a batch to end, with progress: of a batch, the rate and the time that is left
    Watch(ManyArgs),
    /// Cancel a job or a batch; a running job stops within one denoise step
    ///
    /// `acetate queue pause --batch NAME` only keeps the jobs of a batch from starting, and `acetate queue resume --batch
    /// NAME` lets them go on.
    #[command(after_help = CANCEL_EXAMPLES)]
    Cancel(CancelArgs),
    /// Retry a failed or cancelled job, or the failed or cancelled jobs of a batch
    #[command(after_help = RETRY_EXAMPLES)]
    Retry(RetryArgs),
    /// Copy the result of a job into a folder on this machine
    Fetch(FetchArgs),
    /// Print the results of a batch, one JSON object per line, in the order of its dataset
    Results(results::ResultsArgs),
    /// Write the results of a batch as a dataset: imagefolder, WebDataset, Parquet or JSON lines
    Export(export::ExportArgs),
    /// Delete old jobs and their files
    Prune(prune::PruneArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only jobs in this state: queued, running, succeeded, failed or cancelled
    #[arg(long)]
    state: Option<JobState>,
    /// Only jobs of this kind: decompose, edit, composite or workflow
    #[arg(long)]
    kind: Option<JobKind>,
    /// Only jobs of this batch
    #[arg(long, value_name = "NAME")]
    batch: Option<BatchId>,
    /// The maximum number of jobs to list
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Continue after this job: the previous page's `next`
    #[arg(long, value_name = "ID")]
    after: Option<JobId>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct OneArgs {
    /// The job's id
    id: JobId,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct FetchArgs {
    /// The job's id
    id: JobId,
    /// Folder for the files: a new or empty one, or one with an earlier result, which is replaced
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Print the manifest as JSON
    #[arg(long)]
    json: bool,
}

impl JobsArgs {
    pub fn json(&self) -> bool {
        match &self.command {
            JobsCommand::List(args) => args.json,
            JobsCommand::Show(args) => args.json,
            JobsCommand::History(args) => args.json,
            JobsCommand::Watch(args) => args.json,
            JobsCommand::Cancel(args) => args.json(),
            JobsCommand::Retry(args) => args.json(),
            JobsCommand::Fetch(args) => args.json,
            JobsCommand::Results(_) => false,
            JobsCommand::Export(args) => args.json,
            JobsCommand::Prune(args) => args.json,
        }
    }

    pub fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let loaded = global.load(Vec::new())?;
        block_on(async {
            let front = Submitter::open(&loaded).await?;
            let done = match self.command {
                JobsCommand::List(args) => list(&front, args).await,
                JobsCommand::Show(args) => show(&front, args).await,
                JobsCommand::History(args) => audit::history(&front, args).await,
                JobsCommand::Watch(args) => many::watch(global, &front, args).await,
                JobsCommand::Cancel(args) => many::cancel(global, &front, args).await,
                JobsCommand::Retry(args) => many::retry(global, &front, args).await,
                JobsCommand::Fetch(args) => fetch(&front, args).await,
                JobsCommand::Results(args) => results::results(global, &front, args).await,
                JobsCommand::Export(args) => export::export(global, &front, args).await,
                JobsCommand::Prune(args) => prune::prune(global, &loaded, &front, args).await,
            };
            front.close().await;
            done
        })
    }
}

async fn list(front: &Submitter, args: ListArgs) -> Result<(), Failure> {
    let filter = Filter {
        state: args.state,
        kind: args.kind,
        batch: args.batch,
        limit: args.limit,
        after: args.after,
        ..Filter::default()
    };
    let page = front.jobs.list(&filter).await?;
    if args.json {
        let jobs = page.jobs.into_iter().map(|row| JobView::new(row, &front.stores)).collect::<Result<Vec<_>, _>>()?;
        return output::json(&json!({ "jobs": jobs, "next": page.next }));
    }
    if page.jobs.is_empty() {
        return output::line("no jobs");
    }
    let pauses = front.jobs.pauses().await?;
    let rows: Vec<Vec<String>> = page.jobs.iter().map(|row| table_row(row, &pauses)).collect();
    output::table(&["ID", "KIND", "STATE", "TRIES", "SUBMITTED", ""], &rows)?;
    if let Some(next) = page.next {
        output::error(&format!("more jobs: acetate jobs list --after {next}"));
    }
    Ok(())
}

fn table_row(row: &JobRow, pauses: &[Pause]) -> Vec<String> {
    let is_paused = pauses.iter().any(|pause| pause.scope.concerns(row));
    let remark = match (row.state, &row.error, &row.progress) {
        (JobState::Queued, ..) if is_paused => "paused".to_owned(),
        (JobState::Queued, None, _) if row.not_before().is_some_and(|at| at > Timestamp::now()) => {
            format!("not before {}", row.available_at.strftime("%Y-%m-%d %H:%M:%SZ"))
        }
        (JobState::Running, _, Some(progress)) => progress_text(progress),
        (JobState::Failed | JobState::Queued, Some(error), _) => error.message.clone(),
        _ => String::new(),
    };
    vec![
        row.id().to_string(),
        row.request.task.kind().to_string(),
        row.state.to_string(),
        row.attempts.to_string(),
        row.created_at.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        remark,
    ]
}

async fn show(front: &Submitter, args: OneArgs) -> Result<(), Failure> {
    let Some((row, attempts)) = front.jobs.get_with_attempts(args.id).await? else {
        return rejected(front, args).await;
    };
    let mut view = JobView::new(row, &front.stores)?;
    view.history = attempts;
    if args.json {
        return output::json(&view);
    }
    let line = |name: &str, value: &str| output::line(&format!("{name:<10} {value}"));
    line("id", &view.id.to_string())?;
    line("kind", &view.kind.to_string())?;
    line("state", &view.state.to_string())?;
    if let Some(at) = view.not_before.filter(|at| *at > Timestamp::now()) {
        line("not before", &at.to_string())?;
    }
    for input in view.request.inputs.iter() {
        line("input", &input.to_string())?;
    }
    let request = serde_json::to_value(&view.request).unwrap_or_default();
    for (name, value) in request["params"].as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        line("param", &format!("{name}={value}"))?;
    }
    if let Some(caption) = &view.caption {
        line("caption", caption)?;
    }
    if let Some(progress) = view.progress.filter(|_| view.state == JobState::Running) {
        line("progress", &progress_text(&progress))?;
    }
    if let Some(error) = &view.error {
        line("error", &format!("{} ({})", error.message, error.code))?;
    }
    for (name, value) in &view.labels {
        line("label", &format!("{name}={value}"))?;
    }
    if let Some(trace) = &view.trace_id {
        line("trace", trace)?;
    }
    for file in &view.outputs {
        line("output", &format!("{} ({})", file.url, output::size(file.size)))?;
    }
    if let Some(manifest) = &view.manifest {
        line("manifest", manifest)?;
    }
    for attempt in &view.history {
        let end = attempt.outcome.as_deref().unwrap_or("running");
        let why = attempt.error.as_ref().map_or(String::new(), |error| format!(": {}", error.message));
        line(
            &format!("attempt {}", attempt.attempt),
            &format!("{end}, {} on {}{why}", attempt.started_at, WorkerName::in_words(&attempt.worker)),
        )?;
    }
    Ok(())
}

/// A message that was not a valid job, but had an id.
async fn rejected(front: &Submitter, args: OneArgs) -> Result<(), Failure> {
    let Some(rejection) = front.jobs.rejection(args.id).await? else { return Err(no_such_job(args.id).into()) };
    let (time, error) = (rejection.received_at, &rejection.error);
    if args.json {
        return output::json(&json!({
            "id": args.id, "state": "failed", "attempts": 0, "error": error, "outputs": [], "created_at": time,
            "message": rejection.body,
        }));
    }
    let line = |name: &str, value: &str| output::line(&format!("{name:<10} {value}"));
    line("id", &args.id.to_string())?;
    line("state", "failed: the message was refused")?;
    line("received", &time.to_string())?;
    line("error", &format!("{} ({})", error.message, error.code))?;
    line("message", &rejection.body)
}

async fn fetch(front: &Submitter, args: FetchArgs) -> Result<(), Failure> {
    let row = front.jobs.get(args.id).await?.ok_or_else(|| no_such_job(args.id))?;
    let manifest = super::fetch::into(front, &row, &args.out).await?;
    if args.json {
        return output::json(&manifest);
    }
    for file in &manifest.files {
        output::line(&args.out.join(&file.name).display().to_string())?;
    }
    Ok(())
}

fn ended(state: JobState) -> &'static str {
    match state {
        JobState::Cancelled => "been cancelled",
        JobState::Failed => "failed",
        JobState::Queued | JobState::Running | JobState::Succeeded => "succeeded",
    }
}

pub fn no_such_job(id: JobId) -> JobError {
    JobError::invalid("id", format!("there is no job {id}; `acetate jobs list` shows all jobs"))
}
