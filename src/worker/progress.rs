//! The progress of an attempt, and the time of each stage.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::{
    job::{JobError, Progress, Stage, StageTiming},
    trace,
};

/// Receives progress from the worker and the engine's thread, and provides the latest to the heartbeat and the progress
/// bar. Clones share it.
#[derive(Debug, Clone)]
pub struct Reporter {
    latest: watch::Sender<Option<Progress>>,
    base: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl Default for Reporter {
    fn default() -> Self {
        Self { latest: watch::Sender::new(None), base: Default::default() }
    }
}

impl Reporter {
    pub fn at(&self, stage: Stage, step: u32, steps: u32) {
        let base = self.base.load(std::sync::atomic::Ordering::Relaxed);
        self.latest.send_modify(|latest| {
            let before = latest.map_or(base, |progress| progress.sequence.max(base));
            *latest = Some(Progress { sequence: before + 1, stage, step, steps });
        });
    }

    pub fn latest(&self) -> Option<Progress> {
        *self.latest.borrow()
    }

    pub fn watch(&self) -> watch::Receiver<Option<Progress>> {
        self.latest.subscribe()
    }

    /// The last sequence number of earlier attempts.
    pub(super) fn continue_after(&self, sequence: u64) {
        self.base.store(sequence, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Seconds per stage, in the order of their first run; repeated stages are added up.
#[derive(Debug, Default)]
pub(super) struct Timings(Vec<StageTiming>);

impl Timings {
    /// Also makes a span of it.
    pub(super) async fn measure<T>(
        &mut self,
        stage: Stage,
        work: impl Future<Output = Result<T, JobError>>,
    ) -> Result<T, JobError> {
        let (start, span) = (Instant::now(), trace::stage(stage, &trace::current_span()));
        let result = span.within(work).await;
        self.add(stage, start.elapsed());
        span.end_with(&result);
        result
    }

    pub(super) fn merge(&mut self, more: Vec<StageTiming>) {
        for timing in more {
            self.add_seconds(timing.stage, timing.seconds);
        }
    }

    pub(super) fn add(&mut self, stage: Stage, time: Duration) {
        self.add_seconds(stage, time.as_secs_f64());
    }

    /// Rounded to microseconds.
    pub(super) fn into_vec(self) -> Vec<StageTiming> {
        let round = |timing: StageTiming| StageTiming { seconds: (timing.seconds * 1e6).round() / 1e6, ..timing };
        self.0.into_iter().map(round).collect()
    }

    fn add_seconds(&mut self, stage: Stage, seconds: f64) {
        match self.0.iter_mut().find(|timing| timing.stage == stage) {
            Some(timing) => timing.seconds += seconds,
            None => self.0.push(StageTiming { stage, seconds }),
        }
    }
}
