//! What happens after a failed attempt.

use std::time::Duration;

use crate::job::{ErrorClass, JobError};

/// The delays between attempts: `base`, doubled each time, up to `cap`, with a random factor between one half and one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    pub base: Duration,
    pub cap: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    Fail,
    Cancel,
    Retry(Duration),
    /// It could be retried, but has no attempts left.
    Quarantine,
}

/// `attempts` includes the failed one.
pub(super) fn next_step(error: &JobError, attempts: u32, max_attempts: u32, backoff: &Backoff) -> Next {
    match error.class() {
        ErrorClass::Invalid => Next::Fail,
        ErrorClass::Cancelled => Next::Cancel,
        ErrorClass::Transient | ErrorClass::Device if attempts >= max_attempts => Next::Quarantine,
        ErrorClass::Transient | ErrorClass::Device => Next::Retry(backoff.delay(attempts, jitter())),
    }
}

impl Backoff {
    /// The delay before attempt `attempts + 1`; `jitter` is between 0 and 1.
    fn delay(&self, attempts: u32, jitter: f64) -> Duration {
        let doublings = attempts.saturating_sub(1).min(20);
        let full = self.base.saturating_mul(1 << doublings).min(self.cap);
        full.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
    }
}

/// Random bits of a fresh UUID, good enough to spread workers out.
fn jitter() -> f64 {
    let bits = uuid::Uuid::now_v7().as_u128() as u32;
    f64::from(bits) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { base: Duration::from_secs(2), cap: Duration::from_secs(60) };

    fn storage() -> JobError {
        JobError::Storage { path: "/x".to_owned(), reason: "broken".to_owned() }
    }

    #[test]
    fn the_class_decides() {
        assert_eq!(next_step(&JobError::invalid("x", "y"), 1, 3, &BACKOFF), Next::Fail);
        assert_eq!(next_step(&JobError::Cancelled, 1, 3, &BACKOFF), Next::Cancel);
        assert!(matches!(next_step(&storage(), 2, 3, &BACKOFF), Next::Retry(_)));
        assert_eq!(next_step(&storage(), 3, 3, &BACKOFF), Next::Quarantine);
    }

    #[test]
    fn delays_double_up_to_the_cap() {
        let delays: Vec<_> = (1..=7).map(|attempts| BACKOFF.delay(attempts, 1.0).as_secs()).collect();
        assert_eq!(delays, [2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(BACKOFF.delay(1, 0.0), Duration::from_secs(1));
        assert!((0.0..=1.0).contains(&jitter()));
    }
}
