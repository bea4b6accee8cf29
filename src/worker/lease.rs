//! The heartbeat of one attempt, in its own task: renews the lease, writes progress, and checks for cancellation.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::{sync::oneshot, task::JoinHandle, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::{JobControl, StopReason, Worker, retry::with_deadline};
use crate::{
    database::{Fence, Fenced, JobRow, JobStore},
    job::{JobError, JobEvent, JobId, Progress},
    queue::{Event, Queue},
    trace,
};

const TELL_EVERY: Duration = Duration::from_secs(1);
/// How long a cancelled job may take to stop; a denoise step never takes longer.
const LAST_STEP: Duration = Duration::from_secs(300);

/// Held while an attempt runs. Dropping it without [`Lease::release`] also stops the heartbeat.
pub(super) struct Lease {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Lease {
    pub(super) fn hold(worker: &Worker, row: &JobRow, control: JobControl) -> Self {
        let (stop, stopped) = oneshot::channel();
        control.reporter.continue_after(row.progress.map_or(0, |progress| progress.sequence));
        let heart = Heartbeat {
            jobs: worker.jobs.clone(),
            job: row.id(),
            fence: row.fence(),
            lease: worker.options.lease,
            // Two beats may be missed before the lease ends.
            interval: worker.options.heartbeat.min(worker.options.lease / 3).max(Duration::from_millis(10)),
            until: Instant::now() + worker.options.job_timeout,
            told: None,
            telling: None,
            broken: worker.broken.clone(),
            queue: worker.queue.clone(),
            row: row.clone(),
            control,
        };
        Self { stop, task: tokio::spawn(trace::with_current(heart.beat_until(stopped))) }
    }

    /// Writes the last progress and stops.
    pub(super) async fn release(self) {
        drop(self.stop);
        if let Err(error) = self.task.await {
            warn!(%error, "the heartbeat task failed");
        }
    }
}

struct Heartbeat {
    jobs: JobStore,
    queue: Queue,
    row: JobRow,
    job: JobId,
    fence: Fence,
    lease: Duration,
    interval: Duration,
    /// The maximum duration of a job.
    until: Instant,
    /// When the last `job.progress` was published, and its sequence.
    told: Option<(Instant, u64)>,
    telling: Option<JoinHandle<()>>,
    /// See [`Worker::broken`].
    broken: CancellationToken,
    control: JobControl,
}

impl Heartbeat {
    async fn beat_until(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut tick = tokio::time::interval(self.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Only the wait can be interrupted; a write that has started is never dropped.
            let last = tokio::select! { _ = tick.tick() => false, _ = &mut stopped => true };
            let held = self.beat().await;
            if Instant::now() >= self.until {
                self.control.stop(StopReason::TimeIsUp);
            }
            if Instant::now() >= self.until + LAST_STEP {
                // The device does not respond. Another worker should take the job, and this process should restart.
                error!(
                    job = %self.job,
                    "the job ignored cancellation for {} s; shutting this worker down",
                    LAST_STEP.as_secs()
                );
                self.broken.cancel();
                return;
            }
            // What another worker has is for that worker to tell.
            if !held {
                return;
            }
            self.tell();
            if last {
                return;
            }
        }
    }

    /// Returns false once the lease is lost. An unreachable database is retried at the next beat; if it stays
    /// unreachable for longer than the lease, the fence prevents this attempt from publishing.
    async fn beat(&self) -> bool {
        let progress = self.control.reporter.latest();
        match self.jobs.heartbeat(self.job, self.fence, self.lease, progress.as_ref()).await {
            Ok(Fenced::Held(beat)) => {
                if beat.cancel_requested {
                    self.control.stop(StopReason::Cancel);
                }
                true
            }
            Ok(Fenced::Lost) => {
                self.control.stop(StopReason::Lost);
                false
            }
            Err(error) => {
                warn!(job = %self.job, %error, "could not write the heartbeat");
                true
            }
        }
    }

    /// Publishes `job.progress`, at most once per second. Nothing waits for it, and a lost event is followed by the
    /// next.
    fn tell(&mut self) {
        let Some(progress) = self.control.reporter.latest() else { return };
        let due = self.told.is_none_or(|(at, sequence)| at.elapsed() >= TELL_EVERY && sequence != progress.sequence);
        // One at a time, so that they do not accumulate while the broker is unreachable.
        if !due || self.telling.as_ref().is_some_and(|telling| !telling.is_finished()) {
            return;
        }
        self.told = Some((Instant::now(), progress.sequence));
        let (queue, event) = (self.queue.clone(), event(&self.row, progress));
        self.telling = Some(tokio::spawn(async move {
            if let Err(error) = queue.publish_events(vec![event]).await.remove(0) {
                debug!(%error, "could not send a progress event");
            }
        }));
    }
}

/// Asks the database whether this attempt still has its job, before something is written that others can see. Waits
/// for an unreachable database.
pub(super) async fn still_held(worker: &Worker, row: &JobRow, control: &JobControl) -> Result<(), JobError> {
    let beat = || async {
        control.check()?;
        worker.jobs.heartbeat(row.id(), row.fence(), worker.options.lease, None).await
    };
    match with_deadline("the heartbeat before the result", worker.options.database_retry, control, beat).await? {
        Fenced::Held(beat) if beat.cancel_requested => control.stop(StopReason::Cancel),
        Fenced::Held(_) => {}
        Fenced::Lost => control.stop(StopReason::Lost),
    }
    control.check()
}

fn event(row: &JobRow, progress: Progress) -> Event {
    let event = JobEvent {
        version: JobEvent::VERSION,
        event: JobEvent::PROGRESS.to_owned(),
        id: row.id(),
        kind: row.request.task.kind(),
        state: row.state,
        attempts: row.attempts,
        epoch: row.epoch,
        batch: row.batch.clone(),
        labels: row.request.labels.clone(),
        progress: Some(progress),
        error: None,
        manifest: None,
        outputs: Vec::new(),
        reused_from: None,
        time: Timestamp::now(),
    };
    // There may be thousands of them, so they have no spans of their own.
    Event { name: JobEvent::PROGRESS.to_owned(), body: event.to_json(), trace: row.trace.clone() }
}
