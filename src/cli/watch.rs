//! Waits for jobs that workers run: one job with its stages, or a batch with its rate.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::watch;

use super::{Failure, global::GlobalArgs, jobs, output, progress, view::JobJson};
use crate::{
    app::Submitter,
    database::{BatchSummary, JobRow, Scope},
    job::{BatchId, ErrorRecord, JobError, JobId, JobState},
};

/// When it is said why a job still waits.
const EXPLAIN_AFTER: Duration = Duration::from_secs(10);
/// The most workers that are named.
const MOST_NAMED: u32 = 5;

/// Waits for a job to end and returns its row. Ctrl-C stops watching, not the job.
pub async fn job(global: &GlobalArgs, submitter: &Submitter, id: JobId) -> Result<JobRow, Failure> {
    let (tell, told) = watch::channel(None);
    let shown = progress::show(told, global.progress_style());
    let mut changes = submitter.jobs.changes();
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    let mut last = None;
    let mut explain_later = std::pin::pin!(tokio::time::sleep(EXPLAIN_AFTER));
    let mut explained = false;
    let ended = loop {
        let row = jobs::job(submitter, id).await?;
        if row.state.is_terminal() {
            break Ok(row);
        }
        if last != Some(row.state) {
            last = Some(row.state);
            if row.state == JobState::Queued {
                global.say(&match &row.error {
                    Some(error) => format!("waiting for the next attempt: {}", error.message),
                    None if submitter.jobs.workers().await?.workers == 0 => {
                        "waiting for a worker (start one: acetate worker)".to_owned()
                    }
                    None => "waiting for a worker".to_owned(),
                });
            }
        }
        if row.state == JobState::Queued && explain_later.is_elapsed() && !explained {
            explained = true;
            global.say(&why_it_waits(submitter, &row).await?);
        }
        if row.state == JobState::Running {
            tell.send_replace(row.progress);
        }
        tokio::select! {
            () = changes.wait_for_change() => {}
            () = &mut explain_later, if !explained && !explain_later.is_elapsed() => {}
            _ = &mut stop => {
                let text = format!("stopped watching; the job continues (stop it: acetate jobs cancel {id})");
                break Err(Failure::Cancelled(text));
            }
        }
    };
    shown.finish().await;
    ended
}

/// What is known about a job that no worker has taken.
async fn why_it_waits(submitter: &Submitter, row: &JobRow) -> Result<String, JobError> {
    let kind = row.request.task.kind();
    let wait = EXPLAIN_AFTER.as_secs();
    if row.available_at > submitter.jobs.now().await? {
        return Ok(format!("it starts at {} at the earliest", row.available_at));
    }
    if let Some(pause) = submitter.jobs.pauses().await?.iter().find(|pause| pause.scope.concerns(row)) {
        let scope = match &pause.scope {
            Scope::All => String::new(),
            Scope::Kind(kind) => format!(" {kind}"),
            Scope::Batch(batch) => format!(" --batch {batch}"),
        };
        return Ok(format!("it does not start: {} is paused (acetate queue resume{scope})", pause.scope));
    }
    let workers = submitter.jobs.live_workers(MOST_NAMED).await?;
    if workers.is_empty() {
        return Ok(format!(
            "no worker took it in {wait} s, and none is running on this database (start one: acetate worker)"
        ));
    }
    let counts = submitter.jobs.kind_counts().await?;
    let of_kind = counts.iter().find(|counts| counts.kind == kind);
    let (queued, running) = of_kind.map_or((1, 0), |counts| (counts.waiting + counts.dispatched, counts.running));
    let named: Vec<_> = workers
        .iter()
        .map(|worker| match &worker.version {
            Some(version) => format!("{} (version {version})", worker.name),
            None => format!("{} (an older version)", worker.name),
        })
        .collect();
    let mixed = workers.iter().any(|worker| worker.version.as_deref() != Some(env!("CARGO_PKG_VERSION")));
    let hint = if mixed { "; a worker leaves jobs that its version does not know to newer ones" } else { "" };
    Ok(format!(
        "no worker took it in {wait} s: {queued} {kind} queued, {running} running; workers seen: {}{hint}",
        named.join(", ")
    ))
}

/// Prints a job that has ended; a job without a result is a failure.
pub fn report(submitter: &Submitter, row: JobRow, json: bool) -> Result<(), Failure> {
    let (id, state, error) = (row.id(), row.state, row.error.clone());
    let view = JobJson::new(row, &submitter.stores)?;
    if json {
        output::json(&view)?;
    } else {
        for file in &view.outputs {
            output::line(&file.url)?;
        }
        if let Some(manifest) = &view.manifest {
            output::line(manifest)?;
        }
    }
    let error = error.unwrap_or_else(|| ErrorRecord::from(&JobError::Cancelled));
    match state {
        JobState::Succeeded | JobState::Queued | JobState::Running => Ok(()),
        JobState::Cancelled => Err(Failure::Cancelled(format!("job {id} was cancelled"))),
        JobState::Failed => Err(Failure::Job(format!("{} (job {id}, {})", error.message, error.code))),
    }
}

/// Waits until every job of a batch has ended.
pub async fn batch(global: &GlobalArgs, submitter: &Submitter, batch: &BatchId) -> Result<BatchSummary, Failure> {
    let terminal = std::io::stderr().is_terminal() && !global.is_quiet();
    let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(None, target);
    if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:32} {pos}/{len}  {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(batch.to_string());
    let mut changes = submitter.jobs.changes();
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    let (start, mut at_start, mut said) = (Instant::now(), None, None::<Instant>);
    loop {
        let summary = submitter.jobs.batch_summary(batch).await?.ok_or_else(|| no_such_batch(batch))?;
        let (ended, total) = (summary.ended(), summary.total());
        let before = *at_start.get_or_insert(ended);
        let text = pace(&summary, ended.saturating_sub(before), start.elapsed());
        bar.set_length(total);
        bar.set_position(ended);
        bar.set_message(text.clone());
        if !terminal && said.is_none_or(|at| at.elapsed().as_secs() >= 10) {
            said = Some(Instant::now());
            global.say(&format!("{ended}/{total}  {text}"));
        }
        if ended == total {
            bar.finish_and_clear();
            return Ok(summary);
        }
        // Otherwise a batch of quick jobs would be counted hundreds of times per second.
        let change = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            changes.wait_for_change().await;
        };
        tokio::select! {
            () = change => {}
            _ = &mut stop => {
                bar.finish_and_clear();
                let text =
                    format!("stopped watching; the jobs continue (stop them: acetate jobs cancel --batch {batch})");
                return Err(Failure::Cancelled(text));
            }
        }
    }
}

/// A batch with failed jobs is a failure, so that scripts notice.
pub fn verdict(batch: &BatchId, summary: &BatchSummary) -> Result<(), Failure> {
    match summary.in_state(JobState::Failed) {
        0 => Ok(()),
        failed => Err(Failure::Job(format!(
            "{} failed; list them with acetate jobs list --batch {batch} --state failed, retry them with acetate jobs \
             retry --batch {batch}",
            output::count(failed, "job")
        ))),
    }
}

pub fn no_such_batch(batch: &BatchId) -> JobError {
    JobError::invalid("--batch", format!("there is no batch `{batch}`"))
}

/// `2 running, 1 failed, 12.3/min, 4 minutes left`.
fn pace(summary: &BatchSummary, ended_meanwhile: u64, elapsed: Duration) -> String {
    let mut parts = Vec::new();
    for state in [JobState::Running, JobState::Failed, JobState::Cancelled] {
        let jobs = summary.in_state(state);
        if jobs > 0 {
            parts.push(format!("{jobs} {state}"));
        }
    }
    if ended_meanwhile > 0 {
        let per_second = ended_meanwhile as f64 / elapsed.as_secs_f64();
        let left = (summary.total() - summary.ended()) as f64 / per_second;
        let left = Duration::try_from_secs_f64(left).unwrap_or_default();
        parts.push(format!("{:.1}/min, {} left", per_second * 60.0, HumanDuration(left)));
    }
    parts.join(", ")
}
