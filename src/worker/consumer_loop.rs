//! The worker as a service: takes deliveries continuously, holds several, and runs one on the device.
//!
//! While one job is on the device, the next is fetched and decoded, and the previous one's files are written. This is
//! all that more than one slot is for; the engine's channel keeps the order.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    sync::{RwLock, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{JobControl, StopReason, Verdict, Worker, fill, metrics, reaper, relay, replies, restored, run};
use crate::{
    database::LeaseState,
    job::{JobError, JobId, JobKind, JobState},
    queue::{ConsumeOptions, Delivery},
};

/// After the deadline, jobs are told to stop; within this time they finish their step and are given back.
const LAST_STEP: Duration = Duration::from_secs(60);
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// The signals that stop a service.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Drain: no new jobs; running ones may finish.
    pub drain: CancellationToken,
    /// Stop now: give jobs back.
    pub now: CancellationToken,
}

/// The device can no longer be trusted, or a model cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this worker cannot use its device, or one of its models (see above); its jobs are back in the queue: start it again"
)]
pub struct Unusable;

/// Runs until it is stopped.
///
/// # Errors
/// [`Unusable`]: the process must be restarted. Its jobs are back in the queue by then.
pub async fn serve(worker: &Worker, shutdown: &Shutdown) -> Result<(), Unusable> {
    // Before anything is dispatched or claimed.
    restored::begin(worker, shutdown).await;
    // Before anything is dispatched, because the slots of all workers decide how much.
    reaper::sign_of_life(worker).await;
    let service = Arc::new(Service::new(worker.clone()));
    let consumer = worker.queue.consume(ConsumeOptions {
        kinds: JobKind::ALL.to_vec(),
        prefetch: u16::try_from(worker.options.slots).unwrap_or(u16::MAX),
        affinity: worker.options.affinity,
    });
    let helpers = CancellationToken::new();
    let mut helping = JoinSet::new();
    let (store, queue, poll) = (worker.jobs.clone(), worker.queue.clone(), worker.options.poll);
    helping.spawn(relay::relay(store, queue, poll, worker.wake.clone(), helpers.clone()));
    helping.spawn(fill::fill(worker.clone(), helpers.clone()));
    helping.spawn(replies::send(worker.clone(), helpers.clone()));
    helping.spawn(reaper::keep(worker.clone(), helpers.clone()));
    info!(worker = %worker.options.name, slots = worker.options.slots, "ready for jobs");

    let mut jobs = JoinSet::new();
    loop {
        while let Some(done) = jobs.try_join_next() {
            if let Err(error) = done {
                error!(%error, "a job's task failed unexpectedly; the job is retried when its lease ends");
            }
        }
        let delivery = tokio::select! {
            biased;
            () = shutdown.drain.cancelled() => break,
            () = shutdown.now.cancelled() => break,
            () = worker.broken.cancelled() => break,
            // First wait for a slot, then choose the next job.
            delivery = async {
                let slot = service.slots.clone().acquire_owned().await.ok()?;
                consumer.next(service.preferred()).await.map(|delivery| (slot, delivery))
            } => delivery,
        };
        let Some((slot, delivery)) = delivery else { break };
        let service = service.clone();
        jobs.spawn(async move {
            service.handle(delivery).await;
            drop(slot);
        });
    }
    consumer.close().await;
    service.drain(jobs, shutdown).await;
    // Publish what the last jobs left in the outbox.
    helpers.cancel();
    while helping.join_next().await.is_some() {}
    if worker.broken.is_cancelled() { Err(Unusable) } else { Ok(()) }
}

struct Service {
    worker: Worker,
    slots: Arc<Semaphore>,
    /// Jobs hold it for reading. A job that has killed a worker before holds it for writing: it runs alone, so that it
    /// cannot take other jobs with it.
    isolation: RwLock<()>,
    in_hand: Mutex<HashMap<u64, JobControl>>,
}

impl Service {
    fn new(worker: Worker) -> Self {
        let slots = Arc::new(Semaphore::new(worker.options.slots));
        Self { worker, slots, isolation: RwLock::default(), in_hand: Mutex::default() }
    }

    /// The kind whose model is loaded, if only one is.
    fn preferred(&self) -> Option<JobKind> {
        let resident = self.worker.engine.resident();
        let resident = resident.borrow();
        match (&resident.decompose, &resident.edit) {
            (Some(_), None) => Some(JobKind::Decompose),
            (None, Some(_)) => Some(JobKind::Edit),
            _ => None,
        }
    }

    async fn handle(&self, delivery: Delivery) {
        if let Err(error) = self.run_with_isolation(delivery).await {
            warn!(%error, "returning the delivery to the queue");
            tokio::time::sleep(PAUSE_AFTER_ERROR).await;
        }
    }

    async fn run_with_isolation(&self, delivery: Delivery) -> Result<Verdict, JobError> {
        let control = JobControl::default();
        let _in_hand = self.register(&control);
        let alone = match delivery.job() {
            Some(id) => self.has_killed(id).await,
            None => false,
        };
        if alone {
            warn!(
                job = delivery.job().map(tracing::field::display),
                "a worker died while it held this job: running it alone"
            );
            let _alone = self.isolation.write().await;
            run(&self.worker, delivery, &control).await
        } else {
            let _shared = self.isolation.read().await;
            run(&self.worker, delivery, &control).await
        }
    }

    /// Whether a worker died while it held this job: the row still names one, but its lease has ended.
    async fn has_killed(&self, id: JobId) -> bool {
        match self.worker.jobs.get(id).await {
            Ok(Some(row)) if row.state == JobState::Running => {
                row.lease(Timestamp::now(), |name| self.worker.is_dead(name)) != LeaseState::Held
            }
            // If the database failed, the claim fails too and handles it.
            Ok(Some(_) | None) | Err(_) => false,
        }
    }

    /// Registers a running job until the returned value is dropped, which a panic does too.
    fn register(&self, control: &JobControl) -> RunningJob<'_> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let key = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut in_hand = self.lock();
        in_hand.insert(key, control.clone());
        metrics::in_hand(in_hand.len());
        RunningJob { service: self, key }
    }

    /// A poisoned lock can be used: no code under it can leave the map inconsistent.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, JobControl>> {
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets running jobs finish until the deadline, then gives them back.
    async fn drain(&self, mut jobs: JoinSet<()>, shutdown: &Shutdown) {
        while jobs.try_join_next().is_some() {}
        if jobs.is_empty() {
            return;
        }
        // A failed device will not finish anything.
        let limit = if self.worker.broken.is_cancelled() { Duration::ZERO } else { self.worker.options.drain };
        info!(jobs = jobs.len(), deadline_s = limit.as_secs_f64(), "draining: running jobs may finish");
        let ended = tokio::select! {
            () = async { while jobs.join_next().await.is_some() {} } => true,
            () = tokio::time::sleep(limit) => false,
            () = shutdown.now.cancelled() => false,
        };
        if ended {
            return;
        }
        info!(jobs = jobs.len(), "the drain deadline has passed: giving jobs back");
        for control in self.lock().values() {
            control.stop(StopReason::GiveBack);
        }
        let all = async { while jobs.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_STEP, all).await.is_err() {
            warn!("some jobs did not stop; they are retried when their leases end");
        }
    }
}

struct RunningJob<'a> {
    service: &'a Service,
    key: u64,
}

impl Drop for RunningJob<'_> {
    fn drop(&mut self) {
        let mut in_hand = self.service.lock();
        in_hand.remove(&self.key);
        metrics::in_hand(in_hand.len());
    }
}
