//! The heartbeat of one attempt, on its own task: renews the lease, writes progress, brings back a cancel.

use std::time::Duration;

use tokio::{sync::oneshot, task::JoinHandle, time::MissedTickBehavior};
use tracing::warn;

use super::{Reporter, Worker};
use crate::{
    engine::CancelToken,
    job::{Epoch, JobId},
    status::{Fenced, JobRow, Status},
};

/// Held while an attempt runs. Dropping it without [`Lease::release`] stops the heartbeat too.
pub(super) struct Lease {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Lease {
    pub(super) fn hold(worker: &Worker, row: &JobRow, cancel: CancelToken, reporter: Reporter) -> Self {
        let (stop, stopped) = oneshot::channel();
        reporter.continue_after(row.progress.map_or(0, |progress| progress.sequence));
        let heart = Heart {
            status: worker.status.clone(),
            job: row.id(),
            epoch: row.epoch,
            lease: worker.options.lease,
            // Two beats may be missed before the lease is over.
            interval: worker.options.heartbeat.min(worker.options.lease / 3).max(Duration::from_millis(10)),
            cancel,
            reporter,
        };
        Self { stop, task: tokio::spawn(heart.beat_until(stopped)) }
    }

    /// Writes the last progress and stops.
    pub(super) async fn release(self) {
        drop(self.stop);
        if let Err(error) = self.task.await {
            warn!(%error, "the heartbeat ended badly");
        }
    }
}

struct Heart {
    status: Status,
    job: JobId,
    epoch: Epoch,
    lease: Duration,
    interval: Duration,
    cancel: CancelToken,
    reporter: Reporter,
}

impl Heart {
    async fn beat_until(self, mut stopped: oneshot::Receiver<()>) {
        let mut tick = tokio::time::interval(self.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Only the waiting is raced; a write that has begun is never dropped.
            let last = tokio::select! { _ = tick.tick() => false, _ = &mut stopped => true };
            let held = self.beat().await;
            if last || !held {
                return;
            }
        }
    }

    /// False once the lease is lost. A database that cannot be reached is tried again at the next beat; should it
    /// stay away for longer than the lease, the epoch keeps this attempt from publishing.
    async fn beat(&self) -> bool {
        let progress = self.reporter.latest();
        match self.status.heartbeat(self.job, self.epoch, self.lease, progress.as_ref()).await {
            Ok(Fenced::Held(beat)) => {
                if beat.cancel_requested {
                    self.cancel.cancel();
                }
                true
            }
            Ok(Fenced::Lost) => {
                self.cancel.cancel();
                false
            }
            Err(error) => {
                warn!(job = %self.job, %error, "heartbeat not written");
                true
            }
        }
    }
}
