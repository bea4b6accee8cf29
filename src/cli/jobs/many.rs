//! `acetate jobs watch|cancel|retry`: one job, or all of a batch.

use std::io::IsTerminal;

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::json;

use super::{ended, job, no_such_job, sweep::Sweep};
use crate::{
    app::Submitter,
    cli::{
        Failure,
        global::GlobalArgs,
        job_name::JobName,
        output,
        view::JobJson,
        watch::{self, no_such_batch},
    },
    database::{BatchSummary, CancelId, CancelOutcome, JobRow, RetryOutcome, RetryRules},
    job::{BatchId, JobError, JobId, JobState},
};

/// A worker that lives is heard from more often.
const SILENT: SignedDuration = SignedDuration::from_secs(5);

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct JobChoice {
    /// The job: its id, the beginning of the id, or `last`
    #[arg(value_name = "ID")]
    pub id: Option<JobName>,
    /// All jobs of this batch
    #[arg(long, value_name = "NAME")]
    pub batch: Option<BatchId>,
}

#[derive(Debug, Args)]
pub struct ManyArgs {
    #[command(flatten)]
    which: JobChoice,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

enum Chosen {
    One(JobId),
    Batch(BatchId),
}

impl ManyArgs {
    async fn chosen(&self, submitter: &Submitter) -> Result<Chosen, Failure> {
        match (&self.which.id, &self.which.batch) {
            (Some(name), _) => Ok(Chosen::One(name.id(submitter).await?)),
            (None, Some(batch)) => Ok(Chosen::Batch(batch.clone())),
            (None, None) => Err(Failure::Usage("give the id of a job, or --batch NAME".to_owned())),
        }
    }
}

/// Exits with 1 if a job failed, so that scripts notice.
pub async fn watch(global: &GlobalArgs, submitter: &Submitter, args: ManyArgs) -> Result<(), Failure> {
    let batch = match args.chosen(submitter).await? {
        Chosen::One(id) => return watch::report(submitter, watch::job(global, submitter, id).await?, args.json),
        Chosen::Batch(batch) => batch,
    };
    let summary = watch::batch(global, submitter, &batch).await?;
    let states: serde_json::Map<_, _> =
        summary.states.iter().map(|(state, jobs)| (state.to_string(), json!(jobs))).collect();
    if args.json {
        output::json(&json!({
            "batch": batch, "jobs": summary.total(), "states": states, "mean_seconds": summary.mean_seconds,
            "first_created": summary.first_created, "last_finished": summary.last_finished,
        }))?;
    } else {
        let states: Vec<_> = summary.states.iter().map(|(state, jobs)| format!("{jobs} {state}")).collect();
        let mean = summary.mean_seconds.map_or(String::new(), |mean| format!(", {} each", output::duration(mean)));
        output::line(&format!("batch {batch}: {}{mean}", states.join(", ")))?;
    }
    watch::verdict(&batch, &summary)
}

#[derive(Debug, Args)]
pub struct CancelArgs {
    #[command(flatten)]
    many: ManyArgs,
    /// With --batch: do not ask. Without a terminal, nothing is asked
    #[arg(long, short, requires = "batch")]
    yes: bool,
}

impl CancelArgs {
    pub fn json(&self) -> bool {
        self.many.json
    }
}

pub async fn cancel(global: &GlobalArgs, submitter: &Submitter, args: CancelArgs) -> Result<(), Failure> {
    let id = match args.many.chosen(submitter).await? {
        Chosen::One(id) => id,
        Chosen::Batch(batch) => return cancel_batch(global, submitter, &batch, &args).await,
    };
    let liveness = submitter.liveness();
    let text = match submitter.jobs.cancel(id, &|worker| liveness.is_dead(worker)).await? {
        CancelOutcome::Cancelled => "cancelled".to_owned(),
        CancelOutcome::Requested => match silent_worker(submitter, &job(submitter, id).await?) {
            Some(why) => format!("asked to stop; {why}"),
            None => "asked to stop; it stops within one denoise step".to_owned(),
        },
        CancelOutcome::AlreadyEnded(state) => format!("had already {}", ended(state)),
        CancelOutcome::Unknown => return Err(no_such_job(submitter, id).await.into()),
    };
    submitter.dispatch().await;
    if args.json() {
        let row = job(submitter, id).await?;
        return output::json(&JobJson::new(row, &submitter.stores)?);
    }
    output::line(&format!("job {id} {text}"))
}

/// What becomes of a running job that is to be cancelled and whose worker may be gone.
pub fn silent_worker(submitter: &Submitter, row: &JobRow) -> Option<String> {
    let (until, now) = (row.lease_until?, Timestamp::now());
    let silent = now.duration_since(row.heard_from(submitter.lease)?);
    (row.cancel_requested && silent > SILENT).then(|| {
        format!(
            "its worker was last heard from {} s ago; any running worker cancels the job when its lease ends at {until:.0}",
            silent.as_secs()
        )
    })
}

async fn cancel_batch(
    global: &GlobalArgs,
    submitter: &Submitter,
    batch: &BatchId,
    args: &CancelArgs,
) -> Result<(), Failure> {
    let summary = submitter.jobs.batch_summary(batch).await?.ok_or_else(|| no_such_batch(batch))?;
    let unfinished = summary.total() - summary.ended();
    let id = CancelId::new();
    let undo = format!("acetate jobs retry --batch {batch} --undo {id}");
    // Scripts that cancel did so without a question before there was one.
    if unfinished > 0 && !args.yes && std::io::stdin().is_terminal() {
        let running = summary.in_state(JobState::Running);
        let running = if running > 0 { format!(", {running} of them running") } else { String::new() };
        global.say(&format!("acetate queue pause --batch {batch} would only keep them from starting"));
        let question = format!("cancel {} of batch {batch}{running}?", output::count(unfinished, "job"));
        if !output::confirmed(&question) {
            return Err(Failure::Cancelled("nothing was cancelled".to_owned()));
        }
    }
    let mut sweep = Sweep::start(global, "cancelling", unfinished);
    let jobs = submitter.jobs.cancel_batch_in_steps(batch, id, |jobs| sweep.add(jobs)).await?;
    let stopped = sweep.is_stopped();
    drop(sweep);
    publish(global, submitter, jobs, stopped).await;
    if args.json() {
        output::json(&json!({ "batch": batch, "cancelled": jobs, "undo": undo }))?;
    } else if jobs == 0 && unfinished == 0 {
        let total = summary.total();
        let all = if total == 1 { "its job has ended".to_owned() } else { format!("all {total} jobs have ended") };
        output::line(&format!("nothing to cancel in batch {batch}: {all}"))?;
    } else {
        output::line(&format!("{} cancelled or asked to stop", output::count(jobs, "job")))?;
        if jobs > 0 {
            global.say(&format!("{undo} takes it back"));
        }
    }
    match stopped && jobs < unfinished {
        true => Err(stopped_after(jobs, unfinished)),
        false => Ok(()),
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  acetate jobs retry last
  acetate jobs retry --batch posters --state failed --state cancelled")]
pub struct RetryArgs {
    #[command(flatten)]
    many: ManyArgs,
    /// With --batch: jobs in this state, failed or cancelled; may be repeated [default: failed]
    #[arg(long)]
    state: Vec<JobState>,
    /// With --batch: only jobs whose error has this code, such as storage; may be repeated
    #[arg(long)]
    code: Vec<String>,
    /// With --batch: only the jobs that one cancellation of the batch cancelled; `acetate jobs cancel --batch` shows
    /// its id
    #[arg(long, value_name = "ID", requires = "batch", conflicts_with_all = ["state", "code"])]
    undo: Option<CancelId>,
}

impl RetryArgs {
    pub fn json(&self) -> bool {
        self.many.json
    }
}

pub async fn retry(global: &GlobalArgs, submitter: &Submitter, args: RetryArgs) -> Result<(), Failure> {
    let id = match args.many.chosen(submitter).await? {
        Chosen::One(_) if !args.state.is_empty() || !args.code.is_empty() => {
            let text = "--state and --code choose jobs of a batch; give --batch NAME instead of an id";
            return Err(Failure::Usage(text.to_owned()));
        }
        Chosen::One(id) => id,
        Chosen::Batch(batch) => return retry_batch(global, submitter, batch, args).await,
    };
    match submitter.jobs.retry(id).await? {
        RetryOutcome::Queued(_) => {}
        RetryOutcome::Unknown => return Err(no_such_job(submitter, id).await.into()),
        RetryOutcome::Refused(state) => {
            let text = format!("job {id} {}; only failed or cancelled jobs can be retried", state.predicate());
            return Err(Failure::Job(text));
        }
    }
    submitter.dispatch().await;
    if args.json() {
        let row = job(submitter, id).await?;
        return output::json(&Requeued { job: JobJson::new(row, &submitter.stores)?, queued: [id] });
    }
    output::line("1 job queued again")
}

/// The job, and its id as in the answer for a batch.
#[derive(Serialize)]
struct Requeued {
    #[serde(flatten)]
    job: JobJson,
    queued: [JobId; 1],
}

async fn retry_batch(
    global: &GlobalArgs,
    submitter: &Submitter,
    batch: BatchId,
    args: RetryArgs,
) -> Result<(), Failure> {
    if let Some(state) = args.state.iter().find(|state| !matches!(state, JobState::Failed | JobState::Cancelled)) {
        let reason = format!("{state} jobs are not retried; the states are failed and cancelled");
        return Err(JobError::invalid("--state", reason).into());
    }
    let states = match (args.undo, args.state.is_empty()) {
        (Some(_), _) => vec![JobState::Cancelled],
        (None, true) => vec![JobState::Failed],
        (None, false) => args.state.clone(),
    };
    let summary = submitter.jobs.batch_summary(&batch).await?.ok_or_else(|| no_such_batch(&batch))?;
    let total = states.iter().map(|state| summary.in_state(*state)).sum();
    let rules = RetryRules { batch, states, codes: args.code.clone(), cancel: args.undo };
    rules.check_codes("--code", &submitter.jobs).await?;
    let mut sweep = Sweep::start(global, "queueing", total);
    let queued = submitter.jobs.retry_batch(&rules, |jobs| sweep.add(jobs)).await?;
    let stopped = sweep.is_stopped();
    drop(sweep);
    let jobs = queued.len() as u64;
    publish(global, submitter, jobs, stopped).await;
    let left = left_out(submitter, &rules, &summary, jobs).await?;
    if args.json() {
        output::json(&json!({ "batch": rules.batch, "queued": queued, "left_out": left }))?;
    } else {
        let text = format!("{} queued again", output::count(jobs, "job"));
        output::line(&if left.is_empty() { text } else { format!("{text}; {}", left.join("; ")) })?;
    }
    match stopped && jobs < total {
        true => Err(stopped_after(jobs, total)),
        false => Ok(()),
    }
}

/// The jobs of the batch that were not queued again, and what would do it: `100000 are cancelled (add --state
/// cancelled)`. `before`: the batch before `queued` jobs were queued again; others have started since then.
async fn left_out(
    submitter: &Submitter,
    rules: &RetryRules,
    before: &BatchSummary,
    queued: u64,
) -> Result<Vec<String>, Failure> {
    let summary = submitter.jobs.batch_summary(&rules.batch).await?.ok_or_else(|| no_such_batch(&rules.batch))?;
    let are = |jobs: u64| if jobs == 1 { "1 is".to_owned() } else { format!("{jobs} are") };
    let mut left = Vec::new();
    for state in [JobState::Failed, JobState::Cancelled] {
        let jobs = summary.in_state(state);
        if jobs == 0 {
            continue;
        }
        if !rules.states.contains(&state) {
            left.push(format!("{} {state} (add --state {state})", are(jobs)));
        } else if !rules.codes.is_empty() {
            let codes = submitter.jobs.error_counts(&rules.batch).await?;
            let codes = codes.iter().filter(|count| count.state == state);
            let codes: Vec<_> = codes.map(|count| format!("{} with --code {}", count.jobs, count.code)).collect();
            left.push(format!("{} {state} ({})", are(jobs), codes.join(", ")));
        }
    }
    let running = summary.in_state(JobState::Running).min(before.in_state(JobState::Running));
    if running > 0 && rules.states.contains(&JobState::Cancelled) {
        left.push(format!("{} still running", are(running)));
    }
    if left.is_empty() {
        let states = summary.states.iter().filter(|(state, _)| *state != JobState::Queued);
        left.extend(states.map(|(state, jobs)| match (state, *jobs) {
            (JobState::Succeeded, 1) => "1 has succeeded".to_owned(),
            (JobState::Succeeded, jobs) => format!("{jobs} have succeeded"),
            (state, jobs) => format!("{} {state}", are(jobs)),
        }));
    }
    let waiting = before.in_state(JobState::Queued);
    if queued == 0 && waiting > 0 {
        left.push(format!("{} queued already", are(waiting)));
    }
    Ok(left)
}

/// Sends what the changes wrote to the outbox. A worker's relay does the same, so this may be stopped.
async fn publish(global: &GlobalArgs, submitter: &Submitter, jobs: u64, stopped: bool) {
    if stopped {
        return;
    }
    let mut sweep = Sweep::start(global, "publishing", jobs);
    submitter.dispatch_in_steps(|sent| sweep.add(sent)).await;
}

fn stopped_after(jobs: u64, of: u64) -> Failure {
    Failure::Cancelled(format!("stopped after {jobs} of {of} jobs; run the same command to continue"))
}
