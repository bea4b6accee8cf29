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
    /// Retry later; the attempt does not count.
    Postpone(Duration),
    /// It could be retried, but has no attempts left.
    Quarantine,
}

/// `attempts` includes the failed one. `may_wait`: the attempt need not count if an input's server asks to wait.
pub(super) fn next_step(
    error: &JobError,
    attempts: u32,
    max_attempts: u32,
    may_wait: bool,
    backoff: &Backoff,
) -> RetryDecision {
    let asked = error.asked_to_wait();
    if let Some(asked) = asked.filter(|_| may_wait) {
        // A little later for each job, because all of them were told the same time.
        return RetryDecision::Postpone(asked + backoff.delay(1));
    }
    match error.class() {
        ErrorClass::Invalid => RetryDecision::Fail,
        ErrorClass::Cancelled => RetryDecision::Cancel,
        ErrorClass::Transient | ErrorClass::Device if attempts >= max_attempts => RetryDecision::Quarantine,
        ErrorClass::Transient | ErrorClass::Device => {
            RetryDecision::Retry(backoff.delay(attempts).max(asked.unwrap_or_default()))
        }
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
        assert_eq!(next_step(&JobError::invalid("x", "y"), 1, 3, true, &BACKOFF), RetryDecision::Fail);
        assert_eq!(next_step(&JobError::Cancelled, 1, 3, true, &BACKOFF), RetryDecision::Cancel);
        assert!(matches!(next_step(&storage(), 2, 3, true, &BACKOFF), RetryDecision::Retry(_)));
        assert_eq!(next_step(&storage(), 3, 3, true, &BACKOFF), RetryDecision::Quarantine);
    }

    #[test]
    fn a_server_that_asks_to_wait_costs_no_attempt_as_long_as_the_job_may_wait() {
        let told = || JobError::input_unreachable("https://h/x", "429").retry_after(Duration::from_secs(30));
        for attempts in [1, 3] {
            let RetryDecision::Postpone(delay) = next_step(&told(), attempts, 3, true, &BACKOFF) else {
                panic!("it counts after {attempts} attempts")
            };
            assert!((31.0..=32.0).contains(&delay.as_secs_f64()), "{delay:?}");
        }
        assert_eq!(next_step(&told(), 2, 3, false, &BACKOFF), RetryDecision::Retry(Duration::from_secs(30)));
        assert_eq!(next_step(&told(), 3, 3, false, &BACKOFF), RetryDecision::Quarantine);
    }

    #[test]
    fn delays_double_up_to_the_cap() {
        for (attempts, full) in (1..=7).zip([2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]) {
            let delay = BACKOFF.delay(attempts).as_secs_f64();
            assert!((full / 2.0..=full).contains(&delay), "{delay} after {attempts} attempts");
        }
    }
}
