//! The path of a job: claim -> fetch -> decode -> engine -> PNG -> store -> manifest -> row -> ack.

use tracing::{info, warn};

use super::{
    Worker,
    execute::execute,
    inputs,
    lease::Lease,
    progress::{Reporter, Timings},
    publish,
    retry::{Next, next_step},
};
use crate::{
    engine::CancelToken,
    job::{ErrorRecord, JobError, Stage},
    queue::Delivery,
    status::{Claim, ClaimRules, Fenced, JobRow, Published},
};

/// How a delivery ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// One attempt was made; the row's state says how it ended (`queued`: it will be tried again).
    Settled(Box<JobRow>),
    /// The lease was lost on the way: another worker has the job, and nothing of ours was published.
    Lost,
    /// There was nothing to do, or not yet.
    NotTaken(Claim),
}

/// Works on one delivery. An error here is about the database; a job's own failure stands in its row.
pub async fn run(
    worker: &Worker,
    delivery: Delivery,
    cancel: &CancelToken,
    reporter: &Reporter,
) -> Result<Verdict, JobError> {
    let rules = ClaimRules {
        worker: &worker.options.name.to_string(),
        lease: worker.options.lease,
        max_attempts: worker.options.max_attempts,
        is_dead: &|name| worker.options.name.knows_dead(name),
        fingerprint: None,
    };
    let row = match worker.status.claim(delivery.job, &rules).await? {
        Claim::Taken(row) => row,
        Claim::NotBefore(at) => {
            delivery.again_at(at);
            return Ok(Verdict::NotTaken(Claim::NotBefore(at)));
        }
        Claim::Held { worker, until } => {
            delivery.again_at(until);
            return Ok(Verdict::NotTaken(Claim::Held { worker, until }));
        }
        other @ (Claim::Ended(_) | Claim::Conflict(_) | Claim::Unknown) => {
            delivery.ack();
            return Ok(Verdict::NotTaken(other));
        }
    };
    info!(job = %row.id(), kind = %row.request.task.kind(), attempt = row.attempts, "claimed");

    let lease = Lease::hold(worker, &row, cancel.clone(), reporter.clone());
    let made = attempt(worker, &row, cancel, reporter).await;
    lease.release().await;
    let settled = settle(worker, &row, made).await?;

    match settled {
        Fenced::Held(row) => {
            if row.state.is_terminal() {
                delivery.ack()
            } else {
                delivery.again_at(row.available_at)
            }
            Ok(Verdict::Settled(Box::new(row)))
        }
        Fenced::Lost => {
            warn!(job = %delivery.job, "the lease was lost; another worker has the job");
            delivery.ack();
            Ok(Verdict::Lost)
        }
    }
}

/// From the request to a published manifest. What it leaves behind on failure lies under its own epoch and is never
/// named by a row.
async fn attempt(
    worker: &Worker,
    row: &JobRow,
    cancel: &CancelToken,
    reporter: &Reporter,
) -> Result<Published, JobError> {
    let mut timings = Timings::default();
    let files = timings.measure(Stage::Fetch, inputs::fetch(worker, &row.request, reporter)).await?;
    let pictures = timings.measure(Stage::Decode, inputs::decode(worker, files, reporter)).await?;
    check(cancel)?;
    let mut made = execute(worker, &row.request, pictures, cancel, reporter).await?;
    check(cancel)?;
    timings.merge(std::mem::take(&mut made.timings));
    let pngs = timings.measure(Stage::EncodePng, publish::encode(&mut made, reporter)).await?;
    let files = timings.measure(Stage::Store, publish::store(worker, row, pngs, reporter)).await?;
    // The last moment at which a cancel counts.
    check(cancel)?;
    publish::manifest(worker, row, made, files, timings).await
}

/// Moves the row on: published, failed, back to the queue, or cancelled.
async fn settle(worker: &Worker, row: &JobRow, made: Result<Published, JobError>) -> Result<Fenced<JobRow>, JobError> {
    let (status, id, epoch) = (&worker.status, row.id(), row.epoch);
    let error = match made {
        Ok(result) => {
            info!(job = %id, files = result.files.len(), "succeeded");
            return status.succeed(id, epoch, &result).await;
        }
        Err(error) => error,
    };
    let record = ErrorRecord::from(&error);
    match next_step(&error, row.attempts, worker.options.max_attempts, &worker.options.backoff) {
        Next::Cancel => {
            info!(job = %id, "cancelled");
            status.cancelled(id, epoch).await
        }
        Next::Fail => {
            info!(job = %id, code = record.code, "failed");
            status.fail(id, epoch, &record).await
        }
        Next::Quarantine => {
            let exhausted = JobError::AttemptsExhausted { attempts: row.attempts, last: record.message };
            warn!(job = %id, code = record.code, "quarantined");
            status.fail(id, epoch, &ErrorRecord::from(&exhausted)).await
        }
        Next::Retry(delay) => {
            info!(job = %id, code = record.code, delay_s = delay.as_secs_f64(), "goes back to the queue");
            status.requeue(id, epoch, &record, delay).await
        }
    }
}

fn check(cancel: &CancelToken) -> Result<(), JobError> {
    if cancel.is_cancelled() { Err(JobError::Cancelled) } else { Ok(()) }
}
