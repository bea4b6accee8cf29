//! The backoff of all retries: one rule, with different numbers. The library's downloads follow the same rule with code
//! of their own (`hub/retry.rs`), because sharing it would put backon's types into the library's public API.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// Endless pauses that double from `first` up to `longest`, with a random factor between one half and one, so that
/// processes that failed together do not retry together.
pub fn exponential(first: Duration, longest: Duration) -> ExponentialBuilder {
    // backon's jitter adds up to the same amount again.
    ExponentialBuilder::new()
        .with_factor(2.0)
        .with_min_delay(first.min(longest) / 2)
        .with_max_delay(longest / 2)
        .without_max_times()
        .with_jitter()
}

/// The pauses of a loop, which start again with the shortest one after a success.
#[derive(Debug)]
pub struct Pauses {
    policy: ExponentialBuilder,
    left: ExponentialBackoff,
    longest: Duration,
}

impl Pauses {
    pub fn new(first: Duration, longest: Duration) -> Self {
        let policy = exponential(first, longest);
        Self { policy, left: policy.build(), longest }
    }

    /// The pause before the next attempt.
    pub fn next_pause(&mut self) -> Duration {
        self.left.next().unwrap_or(self.longest)
    }

    /// It worked.
    pub fn reset(&mut self) {
        self.left = self.policy.build();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_start_over() {
        let (first, longest) = (Duration::from_millis(250), Duration::from_secs(15));
        let mut pauses = Pauses::new(first, longest);
        for full in [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0] {
            let pause = pauses.next_pause().as_secs_f64();
            assert!((full / 2.0..=full).contains(&pause), "{pause} for {full}");
        }
        pauses.reset();
        assert!(pauses.next_pause() <= first);
        let drawn: std::collections::BTreeSet<_> = (0..20).map(|_| Pauses::new(first, longest).next_pause()).collect();
        assert!(drawn.len() > 1, "processes that failed together retry together: {drawn:?}");
    }

    #[test]
    fn no_pause_stays_none_and_the_first_is_never_longer_than_the_longest() {
        assert!(exponential(Duration::ZERO, Duration::ZERO).build().take(5).all(|pause| pause.is_zero()));
        let longest = Duration::from_secs(1);
        assert!(exponential(Duration::from_secs(9), longest).build().take(5).all(|pause| pause <= longest));
    }
}
