//! Finds jobs without a worker: those of dead workers, and those whose message was lost.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Worker, metrics, restored};
use crate::{
    database::{Filter, LeaseState},
    job::{JobError, JobState},
    queue::Queue,
};

/// How many jobs of dead processes are looked at.
const DEAD: u32 = 64;
/// How often the worker says that it is alive.
const LIVES_EVERY: Duration = Duration::from_secs(10);
/// How often the broker's queues are compared with the rows.
const COMPARE_EVERY: Duration = Duration::from_secs(5);
/// A queued job whose queue is empty is dispatched again this long after its last message. Messages that a busy worker
/// holds count as well, and another worker may then run the job.
const LOST_AFTER: Duration = Duration::from_secs(10);
/// How often the worker's own metrics are updated.
const TICK: Duration = Duration::from_secs(1);
/// How often the ids of jobs that were deleted long ago are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(3600);
/// How often the counts for `/metrics` are read.
const COUNT_EVERY: Duration = Duration::from_secs(10);

pub(super) async fn keep(worker: Worker, stop: CancellationToken) {
    let every = match worker.queue {
        Queue::Embedded(_) => worker.options.poll,
        Queue::Rabbit(_) => (worker.options.lease / 3).clamp(Duration::from_millis(200), Duration::from_secs(10)),
    };
    if let Err(error) = take_over(&worker).await {
        warn!(%error, "could not release jobs of dead workers on this machine; they wait for their leases to end");
    }
    let due = |last: Option<Instant>, every| last.is_none_or(|at| at.elapsed() >= every);
    let (mut looked, mut counted, mut forgot, mut compared) = (None, None, None, Some(Instant::now()));
    let (mut lived, mut remembered) = (Some(Instant::now()), Some(Instant::now()));
    while !stop.is_cancelled() {
        if due(lived, LIVES_EVERY) {
            lived = Some(Instant::now());
            sign_of_life(&worker).await;
        }
        if due(remembered, restored::EVERY) {
            remembered = Some(Instant::now());
            restored::pause_if_restored(&worker).await;
        }
        // Before jobs are dispatched again.
        if let Err(error) = restored::guard(&worker).await {
            debug!(%error, "could not check the age of the database");
        }
        if due(looked, every) {
            looked = Some(Instant::now());
            if let Err(error) = reap(&worker).await {
                warn!(%error, "could not look for jobs of dead workers");
            }
        }
        if due(compared, COMPARE_EVERY) {
            compared = Some(Instant::now());
            if let Err(error) = find_lost_messages(&worker).await {
                debug!(%error, "could not compare the queues with the rows");
            }
        }
        if due(counted, COUNT_EVERY) {
            counted = Some(Instant::now());
            match worker.jobs.queue_depth().await {
                Ok(depth) => metrics::depth(&depth),
                Err(error) => warn!(%error, "could not count the queued jobs"),
            }
            match worker.jobs.pauses().await {
                Ok(pauses) => metrics::paused(&pauses),
                Err(error) => warn!(%error, "could not read what is paused"),
            }
        }
        if due(forgot, FORGET_EVERY) {
            forgot = Some(Instant::now());
            if let Err(error) = worker.jobs.forget_tombstones(worker.options.remember_deleted).await {
                warn!(%error, "could not forget jobs that were deleted long ago");
            }
            if let Err(error) = worker.jobs.forget_actions(worker.options.keep_actions).await {
                warn!(%error, "could not delete old entries of the audit log");
            }
        }
        metrics::engine(&worker.engine, &worker.queue);
        tokio::select! {
            () = tokio::time::sleep(every.min(TICK)) => {}
            () = stop.cancelled() => {}
        }
    }
    if let Err(error) = worker.jobs.remove_worker(&worker.options.name.to_string()).await {
        debug!(%error, "could not report that this worker is stopping; others notice within 30 seconds");
    }
}

/// Says that this worker is alive, and how many jobs it holds.
pub(super) async fn sign_of_life(worker: &Worker) {
    let slots = u32::try_from(worker.options.slots).unwrap_or(u32::MAX);
    if let Err(error) = worker.jobs.record_worker(&worker.options.name.to_string(), slots).await {
        warn!(%error, "could not say that this worker is alive; fewer jobs are dispatched meanwhile");
    }
}

/// Without a broker, jobs of a process on this machine that died need not wait for their leases.
async fn take_over(worker: &Worker) -> Result<(), JobError> {
    let Queue::Embedded(queue) = &worker.queue else { return Ok(()) };
    let running = Filter { state: Some(JobState::Running), limit: DEAD, ..Filter::default() };
    for row in worker.jobs.list(&running).await?.jobs {
        if row.lease(Timestamp::now(), |name| worker.is_dead(name)) != LeaseState::Held {
            queue.push(row.id(), row.request.priority, Timestamp::now());
        }
    }
    Ok(())
}

/// A message may be gone although its job is queued: expired or removed by a policy, purged, or lost with its queue.
/// When a queue has no messages, jobs that wait in it have lost theirs.
async fn find_lost_messages(worker: &Worker) -> Result<(), JobError> {
    if matches!(worker.queue, Queue::Embedded(_)) {
        return Ok(());
    }
    let empty = worker.queue.empty().await?;
    let found = worker.jobs.redispatch(&empty, LOST_AFTER.min(worker.options.redispatch)).await?;
    if found > 0 {
        info!(jobs = found, "dispatched again, because their queue has no messages");
        worker.wake.notify_one();
    }
    Ok(())
}

async fn reap(worker: &Worker) -> Result<(), JobError> {
    let mended = worker.jobs.mend_due_times().await?;
    if mended > 0 {
        warn!(
            jobs = mended,
            "the database's clock was set back; jobs that were submitted later than now are due again"
        );
        worker.wake.notify_one();
    }
    let found = worker.jobs.reap(worker.options.redispatch).await?;
    if found > 0 {
        info!(jobs = found, "dispatched again, because their workers died or their messages were lost");
        worker.wake.notify_one();
    }
    Ok(())
}
