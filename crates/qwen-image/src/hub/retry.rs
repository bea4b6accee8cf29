//! The pauses between attempts, and when to stop.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use super::Retry;

/// After an attempt with at least this much data, the count starts again.
const PROGRESS: u64 = 16 * 1024 * 1024;

/// The number of attempts in a row with almost no data.
pub(super) struct TransferBackoff {
    retry: Retry,
    waits: ExponentialBackoff,
}

impl TransferBackoff {
    pub fn new(retry: Retry) -> Self {
        Self { waits: waits(&retry), retry }
    }

    /// Called after each failed attempt. `None`: give up.
    pub fn next_wait(&mut self, brought: u64, asked: Option<Duration>) -> Option<Duration> {
        if brought >= PROGRESS {
            self.waits = waits(&self.retry);
        }
        if asked.is_some_and(|asked| asked > self.retry.longest_asked) {
            return None;
        }
        self.waits.next().map(|wait| wait.max(asked.unwrap_or_default()))
    }
}

/// Each pause has a random factor between one half and one, so that machines that failed together do not retry
/// together.
fn waits(retry: &Retry) -> ExponentialBackoff {
    // backon's jitter adds up to the same amount again.
    ExponentialBuilder::new()
        .with_factor(2.0)
        .with_min_delay(retry.first_wait / 2)
        .with_max_delay(retry.longest_wait / 2)
        .with_max_times(retry.attempts.saturating_sub(1) as usize)
        .with_jitter()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry() -> Retry {
        let second = Duration::from_secs(1);
        Retry { attempts: 4, first_wait: second, longest_wait: 3 * second, ..Retry::default() }
    }

    #[test]
    fn waits_double_up_to_the_longest_and_end() {
        let mut backoff = TransferBackoff::new(retry());
        for expected in [1.0, 2.0, 3.0] {
            let wait = backoff.next_wait(0, None).unwrap().as_secs_f64();
            assert!((0.5 * expected..=expected).contains(&wait), "{wait}");
        }
        assert_eq!(backoff.next_wait(0, None), None);
    }

    #[test]
    fn an_attempt_that_brought_much_starts_the_count_again() {
        let mut backoff = TransferBackoff::new(retry());
        for _ in 0..20 {
            assert!(backoff.next_wait(PROGRESS, None).is_some());
        }
        assert!(backoff.next_wait(PROGRESS - 1, None).is_some());
        assert!(backoff.next_wait(PROGRESS - 1, None).is_some());
        assert_eq!(backoff.next_wait(PROGRESS - 1, None), None);
    }

    #[test]
    fn what_the_server_asks_for_is_a_lower_bound_until_it_is_too_long() {
        let asked = Some(Duration::from_secs(60));
        assert_eq!(TransferBackoff::new(retry()).next_wait(0, asked), asked);
        assert_eq!(TransferBackoff::new(retry()).next_wait(0, Some(Duration::from_secs(301))), None);
    }
}
