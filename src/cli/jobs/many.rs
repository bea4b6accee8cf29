//! `acetate jobs watch|cancel|retry`: one job, or all of a batch.

use clap::Args;
use serde_json::json;

use super::{ended, no_such_job};
use crate::{
    app::Submitter,
    cli::{Failure, global::GlobalArgs, output, view::JobView, watch},
    database::{CancelOutcome, Filter, RetryOutcome},
    job::{BatchId, JobId, JobState},
    worker::WorkerName,
};

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Which {
    /// The job's id
    pub id: Option<JobId>,
    /// All jobs of this batch
    #[arg(long, value_name = "NAME")]
    pub batch: Option<BatchId>,
}

#[derive(Debug, Args)]
pub struct ManyArgs {
    #[command(flatten)]
    which: Which,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

enum Chosen {
    One(JobId),
    Batch(BatchId),
}

impl ManyArgs {
    fn chosen(&self) -> Result<Chosen, Failure> {
        match (&self.which.id, &self.which.batch) {
            (Some(id), _) => Ok(Chosen::One(*id)),
            (None, Some(batch)) => Ok(Chosen::Batch(batch.clone())),
            (None, None) => Err(Failure::Usage("give the id of a job, or --batch NAME".to_owned())),
        }
    }
}

/// Exits with 1 if a job failed, so that scripts notice.
pub async fn watch(global: &GlobalArgs, front: &Submitter, args: ManyArgs) -> Result<(), Failure> {
    let batch = match args.chosen()? {
        Chosen::One(id) => return watch::report(front, watch::job(global, front, id).await?, args.json),
        Chosen::Batch(batch) => batch,
    };
    let summary = watch::batch(global, front, &batch).await?;
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

pub async fn cancel(front: &Submitter, args: ManyArgs) -> Result<(), Failure> {
    let id = match args.chosen()? {
        Chosen::One(id) => id,
        Chosen::Batch(batch) => {
            if front.jobs.batch_summary(&batch).await?.is_none() {
                return Err(watch::no_such_batch(&batch).into());
            }
            let jobs = front.jobs.cancel_batch(&batch).await?;
            front.dispatch().await;
            if args.json {
                return output::json(&json!({ "batch": batch, "cancelled": jobs }));
            }
            return output::line(&format!("{} cancelled or asked to stop", output::count(jobs, "job")));
        }
    };
    let me = WorkerName::of_this_process();
    let text = match front.jobs.cancel(id, &|worker| me.knows_dead(worker)).await? {
        CancelOutcome::Cancelled => "cancelled".to_owned(),
        CancelOutcome::Requested => "asked to stop; it stops within one denoise step".to_owned(),
        CancelOutcome::AlreadyEnded(state) => format!("had already {}", ended(state)),
        CancelOutcome::Unknown => return Err(no_such_job(id).into()),
    };
    front.dispatch().await;
    if args.json {
        let row = front.jobs.get(id).await?.ok_or_else(|| no_such_job(id))?;
        return output::json(&JobView::new(row, &front.stores)?);
    }
    output::line(&format!("job {id} {text}"))
}

pub async fn retry(front: &Submitter, args: ManyArgs) -> Result<(), Failure> {
    let ids = match args.chosen()? {
        Chosen::One(id) => vec![id],
        Chosen::Batch(batch) => failed_of(front, &batch).await?,
    };
    let one = ids.len() == 1;
    let mut queued = Vec::new();
    for id in ids {
        match front.jobs.retry(id).await? {
            RetryOutcome::Queued(_) => queued.push(id),
            // In a batch, another client may have retried some jobs in the meantime.
            RetryOutcome::Refused(_) | RetryOutcome::Unknown if !one => {}
            RetryOutcome::Unknown => return Err(no_such_job(id).into()),
            RetryOutcome::Refused(state) => {
                let text = format!("job {id} {}; only failed or cancelled jobs can be retried", state.predicate());
                return Err(Failure::Job(text));
            }
        }
    }
    front.dispatch().await;
    if args.json {
        return output::json(&json!({ "queued": queued }));
    }
    output::line(&format!("{} queued again", output::count(queued.len() as u64, "job")))
}

/// The failed jobs of a batch; cancelled ones stay cancelled.
async fn failed_of(front: &Submitter, batch: &BatchId) -> Result<Vec<JobId>, Failure> {
    let mut filter =
        Filter { state: Some(JobState::Failed), batch: Some(batch.clone()), limit: 1000, ..Filter::default() };
    let mut ids = Vec::new();
    loop {
        let page = front.jobs.list(&filter).await?;
        ids.extend(page.jobs.iter().map(|row| row.id()));
        match page.next {
            Some(next) => filter.after = Some(next),
            None => return Ok(ids),
        }
    }
}
