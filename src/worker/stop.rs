//! Stops a running job, with a reason.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use super::Reporter;
use crate::{engine::CancelToken, job::JobError};

/// Why a job stops before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// It was cancelled.
    Cancel,
    /// This worker is stopping: the job is given back, and the attempt does not count.
    GiveBack,
    /// It exceeded the maximum duration.
    TimeIsUp,
    /// Its lease was lost: another worker has it, or will. This one writes nothing more about it.
    Lost,
}

/// Cancellation and progress of one job. Clones share state.
#[derive(Debug, Clone, Default)]
pub struct JobControl {
    pub cancel: CancelToken,
    pub reporter: Reporter,
    why: Arc<AtomicU8>,
}

impl JobControl {
    pub fn new(cancel: CancelToken, reporter: Reporter) -> Self {
        Self { cancel, reporter, why: Arc::default() }
    }

    /// The first reason counts.
    pub fn stop(&self, why: StopReason) {
        let code = match why {
            StopReason::Cancel => 1,
            StopReason::GiveBack => 2,
            StopReason::TimeIsUp => 3,
            StopReason::Lost => 4,
        };
        let _ = self.why.compare_exchange(0, code, Ordering::AcqRel, Ordering::Acquire);
        self.cancel.cancel();
    }

    /// [`JobError::Cancelled`] once it was stopped.
    pub fn check(&self) -> Result<(), JobError> {
        if self.cancel.is_cancelled() { Err(JobError::Cancelled) } else { Ok(()) }
    }

    /// If the token itself was cancelled, as by Ctrl-C, the reason is [`StopReason::Cancel`].
    pub fn why(&self) -> Option<StopReason> {
        match self.why.load(Ordering::Acquire) {
            0 => self.cancel.is_cancelled().then_some(StopReason::Cancel),
            1 => Some(StopReason::Cancel),
            2 => Some(StopReason::GiveBack),
            3 => Some(StopReason::TimeIsUp),
            _ => Some(StopReason::Lost),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stands() {
        let control = JobControl::default();
        assert_eq!(control.why(), None);
        control.clone().stop(StopReason::GiveBack);
        control.stop(StopReason::TimeIsUp);
        assert_eq!(control.why(), Some(StopReason::GiveBack));
        assert!(control.cancel.is_cancelled());
        let by_hand = JobControl::default();
        by_hand.cancel.cancel();
        assert_eq!(by_hand.why(), Some(StopReason::Cancel));
    }
}
