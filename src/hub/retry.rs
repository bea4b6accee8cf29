//! How long to wait before asking again, and when to stop.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::Retry;

/// An attempt that brought this much was worth it: the count starts again.
const PROGRESS: u64 = 16 * 1024 * 1024;

/// Attempts in a row that brought next to nothing.
pub(super) struct Backoff {
    retry: Retry,
    failed: u32,
}

impl Backoff {
    pub fn new(retry: Retry) -> Self {
        Self { retry, failed: 0 }
    }

    /// Called after each failed attempt. `None`: give up.
    pub fn next_wait(&mut self, brought: u64, asked: Option<Duration>) -> Option<Duration> {
        if brought >= PROGRESS {
            self.failed = 0;
        }
        self.failed += 1;
        if self.failed >= self.retry.attempts || asked.is_some_and(|asked| asked > self.retry.longest_asked) {
            return None;
        }
        let doubled = self.retry.first_wait.saturating_mul(1 << (self.failed - 1).min(16));
        let wait = doubled.min(self.retry.longest_wait).mul_f64(0.75 + 0.5 * chance());
        Some(wait.max(asked.unwrap_or_default()))
    }
}

/// In 0..1, so that machines that failed together do not come back together.
fn chance() -> f64 {
    (RandomState::new().hash_one(0u8) >> 11) as f64 / (1u64 << 53) as f64
}
