//! How a run is watched and stopped: callbacks, so that nothing here knows who listens.

use std::time::Instant;

use super::error::{PipelineError, Result};
use crate::job::{Stage, StageTiming};

/// The outside of a run.
pub struct Control<'a> {
    progress: &'a mut dyn FnMut(Stage, u32, u32),
    cancelled: &'a dyn Fn() -> bool,
    timings: Vec<StageTiming>,
}

impl<'a> Control<'a> {
    /// `progress` is told `(stage, done, of)`; `cancelled` is asked between steps.
    pub fn new(progress: &'a mut dyn FnMut(Stage, u32, u32), cancelled: &'a dyn Fn() -> bool) -> Self {
        Self { progress, cancelled, timings: Vec::new() }
    }

    /// Reports how far a stage is, and fails when the run is to stop.
    pub fn report(&mut self, stage: Stage, done: usize, of: usize) -> Result<()> {
        (self.progress)(stage, done as u32, of as u32);
        if (self.cancelled)() { Err(PipelineError::Cancelled) } else { Ok(()) }
    }

    /// Runs a stage and adds its seconds to the timings. The closure gets the control back for its own reports.
    pub fn stage<T>(&mut self, stage: Stage, run: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.report(stage, 0, 0)?;
        let start = Instant::now();
        let result = run(self);
        self.timings.push(StageTiming { stage, seconds: start.elapsed().as_secs_f64() });
        result
    }

    pub fn into_timings(self) -> Vec<StageTiming> {
        self.timings
    }
}
