//! What happens after a failed attempt.

use std::time::Duration;

use backon::BackoffBuilder;

use crate::{
    job::{ErrorClass, JobError},
    retry::exponential,
};

/// Delays between attempts: `base`, then twice as long each time, up to `longest`. Each is shortened at random, to half
/// of its length at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    pub base: Duration,
    pub longest: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RetryDecision {
    Fail,
    Cancel,
    Retry(Duration),
    /// It could be retried, but has no attempts left.
    Quarantine,
}

/// `attempts` includes the failed one.
pub(super) fn next_step(error: &JobError, attempts: u32, max_attempts: u32, backoff: &Backoff) -> RetryDecision {
    match error.class() {
        ErrorClass::Invalid => RetryDecision::Fail,
        ErrorClass::Cancelled => RetryDecision::Cancel,
        ErrorClass::Transient | ErrorClass::Device if attempts >= max_attempts => RetryDecision::Quarantine,
        ErrorClass::Transient | ErrorClass::Device => RetryDecision::Retry(backoff.delay(attempts)),
    }
}

impl Backoff {
    /// The delay before attempt `attempts + 1`.
    fn delay(&self, attempts: u32) -> Duration {
        let earlier = attempts.saturating_sub(1) as usize;
        exponential(self.base, self.longest).build().nth(earlier).unwrap_or(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { base: Duration::from_secs(2), longest: Duration::from_secs(60) };

    fn storage() -> JobError {
        JobError::storage("/x", "broken")
    }

    #[test]
    fn the_class_decides() {
        assert_eq!(next_step(&JobError::invalid("x", "y"), 1, 3, &BACKOFF), RetryDecision::Fail);
        assert_eq!(next_step(&JobError::Cancelled, 1, 3, &BACKOFF), RetryDecision::Cancel);
        assert!(matches!(next_step(&storage(), 2, 3, &BACKOFF), RetryDecision::Retry(_)));
        assert_eq!(next_step(&storage(), 3, 3, &BACKOFF), RetryDecision::Quarantine);
    }

    #[test]
    fn delays_double_up_to_the_cap() {
        for (attempts, full) in (1..=7).zip([2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]) {
            let delay = BACKOFF.delay(attempts).as_secs_f64();
            assert!((full / 2.0..=full).contains(&delay), "{delay} after {attempts} attempts");
        }
    }
}
