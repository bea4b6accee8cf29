//! `acetate jobs`: lists and manages jobs.

mod delete;
mod export;
mod list;
mod many;
mod prune;
mod rerun;
mod results;
pub mod sweep;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::{
    Failure,
    audit::{self, HistoryArgs},
    global::GlobalArgs,
    job_name::JobName,
    output,
    runtime::block_on,
    view::{JobJson, progress_text},
};
use crate::{
    app::Submitter,
    config::LoadedConfig,
    database::{JobRow, Rejection},
    job::{JobError, JobId, JobState},
    worker::WorkerName,
};
use many::{CancelArgs, ManyArgs, RetryArgs};
pub use prune::parse_age;
pub use sweep::Sweep;

/// How much of a refused message is shown, and of the reason.
const LONGEST_BODY: usize = 500;
const LONGEST_REASON: usize = 1000;

const CANCEL_EXAMPLES: &str = "\
Examples:
  acetate jobs cancel last
  acetate jobs cancel --batch posters --yes
  acetate jobs retry --batch posters --state cancelled   # takes it back";

const RETRY_EXAMPLES: &str = "\
Examples:
  acetate jobs retry last
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
    List(list::ListArgs),
    /// Show one job: state, progress, outputs and attempts
    Show(OneArgs),
    /// Show what happened to a job, in order: who submitted, cancelled or retried it, and its attempts
    ///
    /// Works for deleted jobs, too, as long as audit.keep_days.
    History(HistoryArgs),
    /// Wait for a job or a batch to end, and show the progress; for a batch also the rate and the time left
    #[command(after_help = "Examples:\n  acetate jobs watch last\n  acetate jobs watch --batch posters")]
    Watch(ManyArgs),
    /// Cancel a job or a batch; a running job stops within one denoise step
    ///
    /// `acetate queue pause --batch NAME` only keeps the jobs of a batch from starting, and
    /// `acetate queue resume --batch NAME` lets them go on.
    #[command(after_help = CANCEL_EXAMPLES)]
    Cancel(CancelArgs),
    /// Retry a failed or cancelled job, or the failed or cancelled jobs of a batch
    #[command(after_help = RETRY_EXAMPLES)]
    Retry(RetryArgs),
    /// Submit a job again as a new one, with another seed or other parameters
    Rerun(rerun::RerunArgs),
    /// Copy the result of a job into a folder on this machine
    Fetch(FetchArgs),
    /// Print the results of a batch, one JSON object per line, in the order of its dataset
    #[command(after_help = "Example:\n  acetate jobs results --batch posters > results.jsonl")]
    Results(results::ResultsArgs),
    /// Write the results of a batch as a dataset: imagefolder, WebDataset, Parquet or JSON lines
    Export(export::ExportArgs),
    /// Delete jobs that have ended, and their files
    Delete(delete::DeleteArgs),
    /// Delete old jobs and their files
    Prune(prune::PruneArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  acetate jobs show last
  acetate jobs show 018f2b6e --json")]
struct OneArgs {
    /// The job: its id, the beginning of the id, or `last`
    #[arg(value_name = "ID")]
    id: JobName,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  acetate jobs fetch last --out scene
  acetate jobs fetch 018f2b6e --out scene")]
struct FetchArgs {
    /// The job: its id, the beginning of the id, or `last`
    #[arg(value_name = "ID")]
    id: JobName,
    /// Folder for the files: a new or empty one, or one with an earlier result, which is replaced
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Print the manifest as JSON
    #[arg(long)]
    json: bool,
}

impl JobsCommand {
    /// Whether it needs no tables where there are none.
    fn only_reads(&self) -> bool {
        match self {
            Self::List(_)
            | Self::Show(_)
            | Self::History(_)
            | Self::Watch(_)
            | Self::Fetch(_)
            | Self::Results(_)
            | Self::Export(_) => true,
            Self::Cancel(_) | Self::Retry(_) | Self::Rerun(_) | Self::Delete(_) | Self::Prune(_) => false,
        }
    }
}

/// The parts for a command that only reads, and a remark on stderr if there is nothing to read yet.
pub async fn open_to_read(global: &GlobalArgs, loaded: &LoadedConfig) -> Result<Submitter, Failure> {
    let (submitter, remark) = Submitter::to_read(loaded).await?;
    if let Some(remark) = remark {
        global.say(&remark);
    }
    Ok(submitter)
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
            JobsCommand::Rerun(args) => args.json,
            JobsCommand::Fetch(args) => args.json,
            JobsCommand::Results(_) => false,
            JobsCommand::Export(args) => args.json,
            JobsCommand::Delete(args) => args.json,
            JobsCommand::Prune(args) => args.json,
        }
    }

    pub fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let loaded = global.load(Vec::new())?;
        block_on(async {
            let submitter = match self.command.only_reads() {
                true => open_to_read(global, &loaded).await?,
                false => Submitter::open(&loaded).await?,
            };
            let done = match self.command {
                JobsCommand::List(args) => list::list(&submitter, args).await,
                JobsCommand::Show(args) => show(&submitter, args).await,
                JobsCommand::History(args) => audit::history(&submitter, args).await,
                JobsCommand::Watch(args) => many::watch(global, &submitter, args).await,
                JobsCommand::Cancel(args) => many::cancel(global, &submitter, args).await,
                JobsCommand::Retry(args) => many::retry(global, &submitter, args).await,
                JobsCommand::Rerun(args) => rerun::rerun(global, &submitter, args).await,
                JobsCommand::Fetch(args) => fetch(&submitter, args).await,
                JobsCommand::Results(args) => results::results(global, &submitter, args).await,
                JobsCommand::Export(args) => export::export(global, &submitter, args).await,
                JobsCommand::Delete(args) => delete::delete(&submitter, args).await,
                JobsCommand::Prune(args) => prune::prune(global, &loaded, &submitter, args).await,
            };
            submitter.close().await;
            done
        })
    }
}

async fn show(submitter: &Submitter, args: OneArgs) -> Result<(), Failure> {
    let id = args.id.id(submitter).await?;
    let Some((row, attempts)) = submitter.jobs.get_with_attempts(id).await? else {
        return rejected(submitter, id, args.json).await;
    };
    let stopping = (row.state == JobState::Running && row.cancel_requested).then(|| {
        let silent = many::silent_worker(submitter, &row);
        silent.unwrap_or_else(|| "its worker was asked, and stops within one denoise step".to_owned())
    });
    let mut view = JobJson::new(row, &submitter.stores)?;
    view.history = attempts;
    if args.json {
        return output::json(&view);
    }
    let line = |name: &str, value: &str| output::line(&format!("{name:<10} {value}"));
    line("id", &view.id.to_string())?;
    line("kind", &view.kind.to_string())?;
    line("state", &view.state.to_string())?;
    if let Some(stopping) = stopping {
        line("cancelling", &stopping)?;
    }
    if let Some(at) = view.not_before.filter(|at| *at > Timestamp::now()) {
        line("not before", &at.to_string())?;
    }
    for input in view.request.inputs.iter() {
        line("input", &input.to_string())?;
    }
    if let Some(mask) = &view.request.inputs.mask {
        line("mask", &mask.to_string())?;
    }
    let request = serde_json::to_value(&view.request).unwrap_or_default();
    for (name, value) in request["params"].as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        line("param", &format!("{name}={value}"))?;
    }
    if let Some(caption) = &view.caption {
        line("caption", caption)?;
    }
    if let Some(fidelity) = &view.fidelity {
        line("fidelity", &fidelity.to_string())?;
    }
    if let Some(from) = view.reused_from {
        line("reused", &format!("the result of job {from}"))?;
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
async fn rejected(submitter: &Submitter, id: JobId, json: bool) -> Result<(), Failure> {
    let Some(rejection) = submitter.jobs.rejection(id).await? else {
        return Err(no_such_job(submitter, id).await.into());
    };
    let (time, error) = (rejection.received_at, &rejection.error);
    if json {
        return output::json(&serde_json::json!({
            "id": id, "state": "failed", "attempts": 0, "error": error, "outputs": [], "created_at": time,
            "message": rejection.body,
        }));
    }
    let line = |name: &str, value: &str| output::line(&format!("{name:<10} {value}"));
    line("id", &id.to_string())?;
    line("state", "failed: the message was refused")?;
    line("received", &time.to_string())?;
    line("error", &format!("{} ({})", output::excerpt(&error.message, LONGEST_REASON), error.code))?;
    line("message", &beginning(&rejection.body))?;
    line("whole", &format!("acetate dead-letters show {id}, while RabbitMQ keeps it; --json has its first 64 KiB"))
}

/// The beginning of a refused message, if it is text.
fn beginning(body: &str) -> String {
    let is_text = |c: char| c != char::REPLACEMENT_CHARACTER && (!c.is_control() || c.is_whitespace());
    let start = output::excerpt(body, LONGEST_BODY);
    if body.chars().take(LONGEST_BODY).all(is_text) { start } else { "not text".to_owned() }
}

async fn fetch(submitter: &Submitter, args: FetchArgs) -> Result<(), Failure> {
    let id = args.id.id(submitter).await?;
    let row = job(submitter, id).await?;
    let manifest = super::fetch::into(submitter, &row, &args.out).await?;
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

/// A job that the user has named.
pub async fn job(submitter: &Submitter, id: JobId) -> Result<JobRow, JobError> {
    match submitter.jobs.get(id).await? {
        Some(row) => Ok(row),
        None => Err(no_such_job(submitter, id).await),
    }
}

/// The error for a job without a row: its message may have been refused.
pub async fn no_such_job(submitter: &Submitter, id: JobId) -> JobError {
    let reason = match submitter.jobs.rejection(id).await {
        Ok(Some(Rejection { received_at, error, .. })) => format!(
            "{id} is not a job, because its message was refused at {received_at}: {}; `acetate jobs show {id}` shows \
             the message, and `acetate dead-letters list` those that RabbitMQ keeps",
            output::excerpt(&error.message, LONGEST_REASON)
        ),
        Ok(None) => format!("there is no job {id}; `acetate jobs list` shows all jobs"),
        Err(error) => return error,
    };
    JobError::invalid("id", reason)
}
