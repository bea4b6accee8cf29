//! Stops a running job, with a reason.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use super::Reporter;
use crate::engine::CancelToken;

/// Why a job stops before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It was cancelled, or another worker has taken it over.
    Cancel,
    /// This worker stops: the job is given back, and the attempt does not count.
    GiveBack,
    /// It exceeded the maximum duration.
    TimeIsUp,
}

/// Cancellation and progress of one job. Clones share state.
#[derive(Debug, Clone, Default)]
pub struct Control {
    pub cancel: CancelToken,
    pub reporter: Reporter,
    why: Arc<AtomicU8>,
}

impl Control {
    pub fn new(cancel: CancelToken, reporter: Reporter) -> Self {
        Self { cancel, reporter, why: Arc::default() }
    }

    /// The first reason counts.
    pub fn stop(&self, why: Stop) {
        let code = match why {
            Stop::Cancel => 1,
            Stop::GiveBack => 2,
            Stop::TimeIsUp => 3,
        };
        let _ = self.why.compare_exchange(0, code, Ordering::AcqRel, Ordering::Acquire);
        self.cancel.cancel();
    }

    /// If the token itself was cancelled, as by Ctrl-C, the reason is [`Stop::Cancel`].
    pub fn why(&self) -> Option<Stop> {
        match self.why.load(Ordering::Acquire) {
            0 => self.cancel.is_cancelled().then_some(Stop::Cancel),
            1 => Some(Stop::Cancel),
            2 => Some(Stop::GiveBack),
            _ => Some(Stop::TimeIsUp),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stands() {
        let control = Control::default();
        assert_eq!(control.why(), None);
        control.clone().stop(Stop::GiveBack);
        control.stop(Stop::TimeIsUp);
        assert_eq!(control.why(), Some(Stop::GiveBack));
        assert!(control.cancel.is_cancelled());
        let by_hand = Control::default();
        by_hand.cancel.cancel();
        assert_eq!(by_hand.why(), Some(Stop::Cancel));
    }
}
