//! The path of a job: claim -> fetch -> decode -> engine -> PNG -> store -> manifest -> row -> ack.

use std::time::Duration;

use jiff::Timestamp;
use tracing::{Instrument, debug, error, info, info_span, warn};

use super::{
    JobControl, ResultPlacement, StopReason, Worker, adopt,
    adopt::Known,
    backoff::{RetryDecision, next_step},
    claim::{Accepted, Stale, accept, tell_sender},
    execute::execute,
    failpoint::Point,
    inputs,
    lease::{Lease, still_held},
    metrics, newer,
    own_store::waiting_for_store,
    progress::Timings,
    publish,
    retry::with_deadline,
    reuse::{self, ContentKey},
    spans,
};
use crate::{
    database::{Claim, Fenced, JobRow, Published, exhausted_by},
    job::{ErrorClass, ErrorRecord, JobError, JobState, Stage, lacks_open_files},
    queue::{Delivery, Queue},
    trace,
};

/// How long a job is kept that cannot go on because there are no file descriptors left.
const WITHOUT_DESCRIPTORS: Duration = Duration::from_secs(2);

/// How long the attempts of a job do not count if the servers of its inputs ask it to wait.
const WAITS_FOR: Duration = Duration::from_secs(24 * 3600);
/// How many attempts do not count after that, with those that were given back.
const WAITS: i64 = 100;

/// The outcome of a delivery.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// One attempt was made; the row's state says how it ended (`queued`: it will be retried, or was given back).
    Settled(Box<JobRow>),
    /// The lease was lost: another worker has the job, and this one published nothing.
    Lost,
    /// There was nothing to do, or not yet.
    NotTaken(Claim),
    /// The message is not a valid job and was dead-lettered.
    Refused(ErrorRecord),
}

/// Processes one delivery. An error here concerns the database; a job's failure is in its row.
pub async fn run(worker: &Worker, delivery: Delivery, control: &JobControl) -> Result<Verdict, JobError> {
    let span = info_span!(
        "job",
        id = delivery.job().map(display),
        trace_id = delivery.trace.as_ref().map(|trace| display(trace.trace_id())),
    );
    let trace = delivery.trace.clone();
    // On the heap, because each wrapper of a future this large would copy it on the stack.
    trace::within(trace.as_ref(), Box::pin(in_order(worker, delivery, control))).instrument(span).await
}

async fn in_order(worker: &Worker, delivery: Delivery, control: &JobControl) -> Result<Verdict, JobError> {
    if control.why() == Some(StopReason::GiveBack) {
        delivery.give_back().await;
        return Ok(Verdict::NotTaken(Claim::Unknown));
    }
    worker.options.failpoint.at(Point::Received, delivery.job());
    let row = match accept(worker, &delivery, control).await? {
        Accepted::Row(row) => row,
        Accepted::Refused(reason) => {
            let delivery = delivery.dead_letter(&reason).await?;
            metrics::dead_letter(&reason);
            tell_sender(worker, &delivery, &reason).await;
            delivery.ack().await;
            return Ok(Verdict::Refused(reason));
        }
        Accepted::Left { id, error } => {
            newer::leave(worker, delivery, id, &error, control).await?;
            return Ok(Verdict::NotTaken(Claim::Unknown));
        }
        Accepted::Stale(stale) => {
            match stale {
                Stale::Deleted(at) => info!(deleted_at = %at, "dropped a message: its job has ended and was deleted"),
                Stale::Replaced => info!("dropped a message: it was sent for a deleted job whose id another job has"),
            }
            metrics::dropped(stale);
            delivery.ack().await;
            return Ok(Verdict::NotTaken(Claim::Unknown));
        }
        Accepted::Not(claim) => {
            match &claim {
                Claim::NotBefore(at) => delivery.again_at(*at).await,
                Claim::Held { until, .. } => delivery.again_at(*until).await,
                Claim::OnHold(hold) => {
                    debug!(?hold, "a job must wait; it waits in the database");
                    delivery.ack().await;
                }
                Claim::Taken(_) | Claim::Ended(_) | Claim::Unknown | Claim::Conflict(_) => delivery.ack().await,
            }
            return Ok(Verdict::NotTaken(claim));
        }
    };
    worker.options.failpoint.at(Point::Claimed, Some(row.id()));
    if let Some(trace) = row.trace.as_ref().filter(|_| delivery.trace.is_none()) {
        tracing::Span::current().record("trace_id", trace.trace_id());
    }
    let span = spans::begin(worker, &row, &delivery);
    let verdict = span.within(Box::pin(claimed(worker, &row, delivery, control, &span))).await;
    spans::end(span, &verdict, control);
    verdict
}

/// One attempt, in its span.
async fn claimed(
    worker: &Worker,
    row: &JobRow,
    delivery: Delivery,
    control: &JobControl,
    span: &trace::Span,
) -> Result<Verdict, JobError> {
    info!(kind = %row.request.task.kind(), attempt = row.attempts, "claimed");
    metrics::claimed(row);
    // There is room for the next one.
    worker.wake.notify_one();

    let lease = Lease::hold(worker, row, control.clone());
    spans::keep(worker, row, span).await;
    let mut made = attempt(worker, row, control).await;
    if let Err(error) = &made
        && lacks_open_files(error)
    {
        // The job is not at fault, so this attempt does not count. The pause is for whatever holds the descriptors.
        warn!(%error, "no file descriptors left; giving the job back. Raise the limit (ulimit -n, LimitNOFILE)");
        tokio::time::sleep(WITHOUT_DESCRIPTORS).await;
        control.stop(StopReason::GiveBack);
        made = Err(JobError::Cancelled);
    }
    if let Err(error) = &made {
        // In a service, an unusable model concerns only this worker: others may have it, and the job waits for them.
        // With an in-process queue, this is the only worker.
        let others = worker.options.results == ResultPlacement::AsAsked && matches!(worker.queue, Queue::Rabbit(_));
        let unfit = others && is_unfit(worker, row, error);
        let lost = error.class() == ErrorClass::Device;
        if lost && worker.engine.has_others() {
            warn!(%error, devices = worker.engine.usable(), "a device of this worker failed; the others go on");
        } else if unfit {
            let kind = row.request.task.kind();
            let pause = worker.unfit.fails(kind, error, &worker.options.backoff);
            for kind in [Some(kind), delivery.kind().filter(|lane| *lane != kind)].into_iter().flatten() {
                worker.queue.hold(kind, pause);
            }
            // This attempt does not count, because the job is not at fault.
            control.stop(StopReason::GiveBack);
            made = Err(JobError::Cancelled);
        } else if lost {
            let beside = worker.broken.is_cancelled();
            error!(%error, "this worker is no longer usable; shutting down");
            worker.broken.cancel();
            if beside {
                // Nor is another job on a failed device.
                control.stop(StopReason::GiveBack);
                made = Err(JobError::Cancelled);
            }
        }
    } else {
        worker.unfit.works(row.request.task.kind());
    }
    lease.release().await;
    let settling = trace::settle(&delivery.destination(row.request.task.kind()));
    let verdict = settling.within(Box::pin(finish(worker, row, delivery, made, control))).await;
    settling.end_with(&verdict);
    verdict
}

/// Whether this worker cannot use the model of a job, so that every job of its kind fails here. A LoRA that only this
/// job names is its own.
fn is_unfit(worker: &Worker, row: &JobRow, error: &JobError) -> bool {
    let (JobError::ModelNotFound { model, .. }
    | JobError::ModelInvalid { model, .. }
    | JobError::ModelTooLarge { model, .. }) = error
    else {
        return false;
    };
    !row.request.task.names_loras() || worker.engine.has_configured(model)
}

/// Writes the end of an attempt, then acknowledges its message.
async fn finish(
    worker: &Worker,
    row: &JobRow,
    delivery: Delivery,
    made: Result<AttemptResult, JobError>,
    control: &JobControl,
) -> Result<Verdict, JobError> {
    let last = row.epoch;
    let settled = settle(worker, row, made, control).await?;
    worker.options.failpoint.at(Point::Committed, Some(row.id()));
    worker.wake.notify_one();

    match settled {
        Fenced::Held(row) => {
            metrics::settled(&row);
            if row.state == JobState::Succeeded && last.0 > 1 {
                publish::clear_up(worker, &row, last).await;
            }
            if row.state.is_terminal() {
                delivery.ack().await;
            } else {
                delivery.again_at(row.available_at).await;
            }
            Ok(Verdict::Settled(Box::new(row)))
        }
        Fenced::Lost => {
            warn!("the lease was lost; another worker has the job");
            delivery.ack().await;
            Ok(Verdict::Lost)
        }
    }
}

/// From the request to a published manifest. Files that it leaves after a failure are under its own epoch, and no row
/// refers to them.
async fn attempt(worker: &Worker, row: &JobRow, control: &JobControl) -> Result<AttemptResult, JobError> {
    let reporter = &control.reporter;
    let mut timings = Timings::default();
    let results = worker.results_of(row)?;
    let fetch =
        timings.measure(Stage::Fetch, waiting_for_store(worker, control, || inputs::fetch(worker, row, reporter)));
    let (files, known) = tokio::join!(fetch, adopt::find(&results, row));
    if let Some(known) = known {
        return Ok(AttemptResult::Known(known));
    }
    let (files, digests) = files?;
    worker.options.failpoint.at(Point::Fetched, Some(row.id()));
    let key = ContentKey::of(worker, row, &digests).await;
    if row.reuse
        && let Some(key) = &key
        && let Some(copied) = reuse::take(worker, &results, row, key, control, &mut timings).await
    {
        control.check()?;
        return Ok(AttemptResult::New(copied));
    }
    let pictures = timings.measure(Stage::Decode, inputs::decode(worker, files, reporter)).await?;
    control.check()?;
    let mut made = execute(worker, &row.request, pictures, control).await?;
    control.check()?;
    timings.merge(std::mem::take(&mut made.timings));
    let pngs = timings.measure(Stage::EncodePng, publish::encode(&mut made, reporter)).await?;
    still_held(worker, row, control).await?;
    let target = publish::ResultTarget { worker, results: &results, row, control };
    let files = timings.measure(Stage::Store, publish::store(&target, pngs)).await?;
    // The job can be cancelled up to here.
    still_held(worker, row, control).await?;
    let key = key.filter(|key| key.is_of(&made.weights)).map(|key| key.text);
    let published = publish::manifest(&target, made, key, files, timings).await?;
    worker.options.failpoint.at(Point::Manifest, Some(row.id()));
    Ok(AttemptResult::New(published))
}

/// The result of an attempt.
enum AttemptResult {
    New(Published),
    /// It was in the store already.
    Known(Known),
}

/// Ends the attempt in the row: published, failed, requeued, cancelled, or given back.
async fn settle(
    worker: &Worker,
    row: &JobRow,
    made: Result<AttemptResult, JobError>,
    control: &JobControl,
) -> Result<Fenced<JobRow>, JobError> {
    // Neither an end nor an event: both are for the worker that has the job now.
    if control.why() == Some(StopReason::Lost) {
        return Ok(Fenced::Lost);
    }
    // If the row already has this ending, it is ours: the commit was applied, but the reply was lost.
    let limit = worker.options.database_retry;
    match with_deadline("the job's end", limit, control, || end(worker, row, &made, control)).await {
        // What the job has made cannot be stored, and never will be: that is its end.
        Err(error) if error.class() == ErrorClass::Invalid => {
            let failed = Err(error);
            with_deadline("the job's end", limit, control, || end(worker, row, &failed, control)).await
        }
        settled => settled,
    }
}

async fn end(
    worker: &Worker,
    row: &JobRow,
    made: &Result<AttemptResult, JobError>,
    control: &JobControl,
) -> Result<Fenced<JobRow>, JobError> {
    let (jobs, id, fence) = (&worker.jobs, row.id(), row.fence());
    let error = match (made, control.why()) {
        (Ok(AttemptResult::Known(Known { result, epoch: made_at })), _) => {
            warn!(
                manifest = result.manifest,
                "not run again: its result is already in the store; a worker died before it could say so, or the database was restored"
            );
            return jobs.adopt(id, fence, result, *made_at).await;
        }
        (Ok(AttemptResult::New(result)), _) => {
            let ended = jobs.succeed(id, fence, result).await?;
            // What is not stored may fail, and be tried again.
            if let Fenced::Held(_) = &ended {
                info!(files = result.files.len(), "succeeded");
            }
            return Ok(ended);
        }
        (Err(JobError::Cancelled), Some(StopReason::GiveBack)) => {
            let ended = jobs.give_back(id, fence).await?;
            if let Fenced::Held(_) = &ended {
                info!("given back");
            }
            return Ok(ended);
        }
        (Err(JobError::Cancelled), Some(StopReason::TimeIsUp)) => {
            &JobError::TimedOut { seconds: worker.options.job_timeout.as_secs_f64() }
        }
        (Err(error), _) => error,
    };
    let record = ErrorRecord::from(error);
    // A command of this machine says at once what is wrong.
    let may_wait = worker.options.results == ResultPlacement::AsAsked && may_wait(row, Timestamp::now());
    let step = next_step(error, row.attempts, worker.options.max_attempts, may_wait, &worker.options.backoff);
    let ended = match &step {
        RetryDecision::Cancel => jobs.cancelled(id, fence).await?,
        RetryDecision::Fail => jobs.fail(id, fence, &record).await?,
        RetryDecision::Quarantine => {
            jobs.fail(id, fence, &ErrorRecord::from(&exhausted_by(row.attempts, &record))).await?
        }
        RetryDecision::Postpone(delay) => jobs.postpone(id, fence, &record, *delay).await?,
        RetryDecision::Retry(delay) => jobs.requeue(id, fence, &record, *delay).await?,
    };
    if let Fenced::Held(_) = &ended {
        log(&step, &record);
    }
    Ok(ended)
}

/// Says how an attempt without a result has ended, once that is stored.
fn log(step: &RetryDecision, record: &ErrorRecord) {
    let (code, reason) = (&record.code, &record.message);
    match step {
        RetryDecision::Cancel => info!("cancelled"),
        RetryDecision::Fail => info!(code, reason, "failed"),
        RetryDecision::Quarantine => warn!(code, "quarantined"),
        RetryDecision::Postpone(delay) => {
            info!(code, reason, delay_s = delay.as_secs_f64(), "postponed; the attempt does not count");
            metrics::retry(record);
        }
        RetryDecision::Retry(delay) => {
            info!(code, reason, delay_s = delay.as_secs_f64(), "returned to the queue");
            metrics::retry(record);
        }
    }
}

/// Whether the servers of a job's inputs may still ask it to wait: for a day, and then for so many times more, which a
/// job that was queued for longer needs.
fn may_wait(row: &JobRow, now: Timestamp) -> bool {
    let uncounted = row.epoch.0 - i64::from(row.attempts);
    row.created_at + WAITS_FOR > now || uncounted < WAITS
}
