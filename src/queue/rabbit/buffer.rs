//! Waiting deliveries, and the choice of the next one.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::job::JobKind;

#[derive(Debug)]
pub(super) struct Buffer<T> {
    lanes: [(JobKind, VecDeque<BufferedItem<T>>); JobKind::ALL.len()],
}

#[derive(Debug)]
struct BufferedItem<T> {
    item: T,
    priority: u8,
    since: Instant,
}

impl<T> Default for Buffer<T> {
    fn default() -> Self {
        Self { lanes: JobKind::ALL.map(|kind| (kind, VecDeque::new())) }
    }
}

impl<T> Buffer<T> {
    pub(super) fn push(&mut self, kind: JobKind, priority: u8, item: T, now: Instant) {
        for (lane, waiting) in &mut self.lanes {
            if *lane == kind {
                waiting.push_back(BufferedItem { item, priority, since: now });
                return;
            }
        }
    }

    /// The first one of the preferred kind, unless the first one of another kind has waited longer than `most`. Without
    /// a preference, or with none of that kind: by priority, then by arrival.
    pub(super) fn pop(&mut self, prefer: Option<JobKind>, most: Duration, now: Instant) -> Option<T> {
        let first = |(kind, waiting): &(JobKind, VecDeque<BufferedItem<T>>)| {
            waiting.front().map(|waiting| (*kind, waiting.priority, waiting.since))
        };
        let firsts: Vec<_> = self.lanes.iter().filter_map(first).collect();
        let overdue = firsts
            .iter()
            .filter(|(kind, _, since)| Some(*kind) != prefer && now.duration_since(*since) > most)
            .min_by_key(|(.., since)| *since);
        let preferred = || firsts.iter().find(|(kind, ..)| Some(*kind) == prefer);
        let oldest = || firsts.iter().min_by_key(|(_, priority, since)| (u8::MAX - priority, *since));
        let (kind, ..) = overdue.or_else(preferred).or_else(oldest)?;
        self.lanes.iter_mut().find(|(lane, _)| lane == kind)?.1.pop_front().map(|waiting| waiting.item)
    }

    /// Removes the deliveries that are not to be kept.
    pub(super) fn take_unless(&mut self, keep: impl Fn(&T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        for (_, waiting) in &mut self.lanes {
            for one in std::mem::take(waiting) {
                if keep(&one.item) {
                    waiting.push_back(one);
                } else {
                    taken.push(one.item);
                }
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use JobKind::{Composite, Decompose, Edit};

    use super::*;

    const WAIT: Duration = Duration::from_secs(60);

    #[test]
    fn the_preferred_kind_goes_first_until_another_has_waited_too_long() {
        let (mut buffer, start) = (Buffer::default(), Instant::now());
        buffer.push(Edit, 0, "edit", start);
        for item in ["a", "b", "c"] {
            buffer.push(Decompose, 0, item, start);
        }
        assert_eq!(buffer.pop(Some(Decompose), WAIT, start), Some("a"));
        assert_eq!(buffer.pop(Some(Decompose), WAIT, start + WAIT), Some("b"));
        let later = start + WAIT + Duration::from_millis(1);
        assert_eq!(buffer.pop(Some(Decompose), WAIT, later), Some("edit"));
        assert_eq!(buffer.pop(Some(Edit), WAIT, later), Some("c"));
        assert_eq!(buffer.pop(Some(Edit), WAIT, later), None);
    }

    #[test]
    fn without_a_preference_priority_decides_and_then_age() {
        let (mut buffer, start) = (Buffer::default(), Instant::now());
        for (age, kind, priority, item) in
            [(3, Edit, 0, "old"), (2, Composite, 0, "young"), (1, Decompose, 7, "urgent")]
        {
            buffer.push(kind, priority, item, start + Duration::from_secs(10 - age));
        }
        let now = start + Duration::from_secs(11);
        let order: Vec<_> = std::iter::from_fn(|| buffer.pop(None, WAIT, now)).collect();
        assert_eq!(order, ["urgent", "old", "young"]);
    }

    #[test]
    fn what_is_not_kept_is_taken_out() {
        let mut buffer = Buffer::default();
        for item in 0..6 {
            buffer.push(if item < 3 { Edit } else { Decompose }, 0, item, Instant::now());
        }
        let mut taken = buffer.take_unless(|item| item % 2 == 0);
        taken.sort_unstable();
        assert_eq!(taken, [1, 3, 5]);
        let left: Vec<_> = std::iter::from_fn(|| buffer.pop(Some(Edit), WAIT, Instant::now())).collect();
        assert_eq!(left, [0, 2, 4]);
    }
}
