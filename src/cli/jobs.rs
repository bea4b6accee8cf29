//! `acetate jobs`: what was asked for, and what became of it.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    Failure,
    global::{GlobalArgs, block_on},
    output,
    view::{JobView, progress_text},
};
use crate::{
    app,
    config::Loaded,
    job::{JobError, JobId, JobKind, JobState},
    status::{CancelOutcome, Filter, JobRow},
    store::FolderStore,
    worker::WorkerName,
};

#[derive(Debug, Args)]
pub struct JobsArgs {
    #[command(subcommand)]
    command: JobsCommand,
}

#[derive(Debug, Subcommand)]
enum JobsCommand {
    /// List jobs, the newest first
    List(ListArgs),
    /// Show one job: state, progress, outputs, the history of its attempts
    Show(OneArgs),
    /// Ask a job to stop; a running one stops within one denoise step
    Cancel(OneArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only jobs in this state: queued, running, succeeded, failed or cancelled
    #[arg(long)]
    state: Option<JobState>,
    /// Only jobs of this kind: decompose, edit, composite or workflow
    #[arg(long)]
    kind: Option<JobKind>,
    /// At most this many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Go on after this job: the `next` of the page before
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

impl JobsArgs {
    pub fn json(&self) -> bool {
        match &self.command {
            JobsCommand::List(args) => args.json,
            JobsCommand::Show(args) | JobsCommand::Cancel(args) => args.json,
        }
    }

    pub fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let loaded = global.load(Vec::new())?;
        block_on(async {
            match self.command {
                JobsCommand::List(args) => list(&loaded, args).await,
                JobsCommand::Show(args) => show(&loaded, args).await,
                JobsCommand::Cancel(args) => cancel(&loaded, args).await,
            }
        })
    }
}

async fn list(loaded: &Loaded, args: ListArgs) -> Result<(), Failure> {
    let status = app::open_status(&loaded.config).await?;
    let filter = Filter { state: args.state, kind: args.kind, batch: None, limit: args.limit, after: args.after };
    let page = status.list(&filter).await?;
    if args.json {
        let store = store(loaded)?;
        let jobs = page.jobs.into_iter().map(|row| JobView::new(row, &store)).collect::<Result<Vec<_>, _>>()?;
        return output::json(&json!({ "jobs": jobs, "next": page.next }));
    }
    if page.jobs.is_empty() {
        return output::line("no jobs");
    }
    let rows: Vec<Vec<String>> = page.jobs.iter().map(table_row).collect();
    output::table(&["ID", "KIND", "STATE", "TRIES", "SUBMITTED", ""], &rows)?;
    if let Some(next) = page.next {
        output::error(&format!("there are more: acetate jobs list --after {next}"));
    }
    Ok(())
}

fn table_row(row: &JobRow) -> Vec<String> {
    let remark = match (row.state, &row.error, &row.progress) {
        (JobState::Running, _, Some(progress)) => progress_text(progress),
        (JobState::Failed | JobState::Queued, Some(error), _) => error.message.clone(),
        _ => String::new(),
    };
    vec![
        row.id().to_string(),
        row.request.task.kind().to_string(),
        row.state.to_string(),
        row.attempts.to_string(),
        row.created_at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        remark,
    ]
}

async fn show(loaded: &Loaded, args: OneArgs) -> Result<(), Failure> {
    let status = app::open_status(&loaded.config).await?;
    let row = status.get(args.id).await?.ok_or_else(|| no_such_job(args.id))?;
    let inputs: Vec<String> = row.request.inputs.iter().map(ToString::to_string).collect();
    let mut view = JobView::new(row, &store(loaded)?)?;
    view.history = status.attempts(args.id).await?;
    if args.json {
        return output::json(&view);
    }
    let line = |name: &str, value: &str| output::line(&format!("{name:<10} {value}"));
    line("id", &view.id.to_string())?;
    line("kind", &view.kind.to_string())?;
    line("state", &view.state.to_string())?;
    for input in inputs {
        line("input", &input)?;
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
            &format!("{end}, {} on {}{why}", attempt.started_at, attempt.worker),
        )?;
    }
    Ok(())
}

async fn cancel(loaded: &Loaded, args: OneArgs) -> Result<(), Failure> {
    let status = app::open_status(&loaded.config).await?;
    let me = WorkerName::of_this_process();
    let outcome = status.cancel(args.id, &|worker| me.knows_dead(worker)).await?;
    let text = match outcome {
        CancelOutcome::Cancelled => "cancelled".to_owned(),
        CancelOutcome::Requested => "asked to stop; it does so within one denoise step".to_owned(),
        CancelOutcome::AlreadyEnded(state) => format!("had already {}", ended(state)),
        CancelOutcome::Unknown => return Err(no_such_job(args.id).into()),
    };
    if args.json {
        let row = status.get(args.id).await?.ok_or_else(|| no_such_job(args.id))?;
        return output::json(&JobView::new(row, &store(loaded)?)?);
    }
    output::line(&format!("job {} {text}", args.id))
}

fn ended(state: JobState) -> &'static str {
    match state {
        JobState::Cancelled => "been cancelled",
        JobState::Failed => "failed",
        JobState::Queued | JobState::Running | JobState::Succeeded => "succeeded",
    }
}

fn store(loaded: &Loaded) -> Result<FolderStore, JobError> {
    FolderStore::at(&app::store_url(&loaded.config))
}

fn no_such_job(id: JobId) -> JobError {
    JobError::invalid("id", format!("there is no job {id} here; `acetate jobs list` shows those there are"))
}
