//! How fast waiting jobs start, to tell clients when there is room for theirs.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How far back it looks.
const WINDOW: Duration = Duration::from_secs(300);
/// A shorter time says little.
const SHORTEST: Duration = Duration::from_secs(2);
/// Seconds, if nothing is known yet or nothing moves.
const UNKNOWN: u64 = 30;
/// Seconds.
const LONGEST: u64 = 600;
const MOST_SAMPLES: usize = 1000;

#[derive(Debug, Default)]
pub struct Pace {
    samples: VecDeque<PaceSample>,
    accepted: u64,
}

#[derive(Debug, Clone, Copy)]
struct PaceSample {
    at: Instant,
    /// Jobs that waited.
    waiting: u64,
    /// Jobs that this server had accepted.
    accepted: u64,
}

impl Pace {
    pub fn accepted(&mut self) {
        self.accepted += 1;
    }

    /// So many jobs wait now.
    pub fn counted(&mut self, at: Instant, waiting: u64) {
        while self.samples.len() >= MOST_SAMPLES
            || self.samples.front().is_some_and(|first| at.duration_since(first.at) > WINDOW)
        {
            self.samples.pop_front();
        }
        self.samples.push_back(PaceSample { at, waiting, accepted: self.accepted });
    }

    /// In how many seconds so many jobs will have started, at the pace of the last minutes.
    pub fn seconds_until(&self, started: u64) -> u64 {
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else { return UNKNOWN };
        let time = last.at.duration_since(first.at);
        let gone = (first.waiting + (last.accepted - first.accepted)).saturating_sub(last.waiting);
        if time < SHORTEST || gone == 0 {
            return UNKNOWN;
        }
        let seconds = started as f64 * time.as_secs_f64() / gone as f64;
        // Saturates.
        (seconds.ceil() as u64).clamp(1, LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_that_of_the_last_minutes() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut pace = Pace::default();
        assert_eq!(pace.seconds_until(1), UNKNOWN);
        pace.counted(at(0), 100);
        assert_eq!(pace.seconds_until(1), UNKNOWN);
        pace.counted(at(10), 100);
        assert_eq!(pace.seconds_until(1), UNKNOWN, "nothing moves");
        // 5 jobs started in 20 s, although as many wait: 5 came.
        (0..5).for_each(|_| pace.accepted());
        pace.counted(at(20), 100);
        assert_eq!((pace.seconds_until(1), pace.seconds_until(10)), (4, 40));
        pace.counted(at(400), 100);
        assert_eq!(pace.samples.len(), 1, "the old ones are forgotten");
        pace.counted(at(404), 0);
        assert_eq!((pace.seconds_until(1), pace.seconds_until(1_000_000)), (1, LONGEST));
    }
}
