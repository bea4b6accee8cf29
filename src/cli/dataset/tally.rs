//! Counts what a listing left out, by reason.

use std::collections::BTreeMap;

use crate::{cli::output, store::Skipped};

/// What was not submitted because it is not a picture that a job can read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    reasons: BTreeMap<String, u64>,
    /// Some of the names that a job cannot name, printable.
    unnameable: Vec<String>,
}

impl Tally {
    const EXAMPLES: usize = 3;

    /// `reason` is `hidden`, or the ending of files that are no pictures: `.mov`.
    pub fn add(&mut self, reason: impl Into<String>) {
        *self.reasons.entry(reason.into()).or_default() += 1;
    }

    /// Several files with the same reason.
    pub fn add_all(&mut self, reason: &str, count: u64) {
        if count > 0 {
            *self.reasons.entry(reason.to_owned()).or_default() += count;
        }
    }

    /// What a listing left out by itself.
    pub fn add_skipped(&mut self, skipped: &Skipped) {
        self.add_all(Self::UNNAMEABLE, skipped.count as u64);
        self.add_all("linked folders", skipped.linked_folders);
        self.add_all("broken links", skipped.unreadable);
        let room = Self::EXAMPLES.saturating_sub(self.unnameable.len());
        self.unnameable.extend(skipped.examples.iter().take(room).cloned());
    }

    const UNNAMEABLE: &str = "with names that a job cannot use";

    pub fn total(&self) -> u64 {
        self.reasons.values().sum()
    }

    pub fn reasons(&self) -> &BTreeMap<String, u64> {
        &self.reasons
    }

    /// `skipped 3 files: .mov 2, hidden 1`; nothing if nothing was skipped.
    pub fn text(&self) -> Option<String> {
        if self.reasons.is_empty() {
            return None;
        }
        let mut reasons: Vec<_> = self.reasons.iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let reasons: Vec<_> = reasons.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        let mut text = format!("skipped {}: {}", output::count(self.total(), "file"), reasons.join(", "));
        if !self.unnameable.is_empty() {
            text += &format!(" (control characters, a part . or .., or not UTF-8: {})", self.unnameable.join(", "));
        }
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_the_most_frequent_first() {
        let mut tally = Tally::default();
        assert_eq!(tally.text(), None);
        for reason in ["hidden", ".mov", ".mov"] {
            tally.add(reason);
        }
        let examples = vec!["a\\u{1}.png".to_owned()];
        tally.add_skipped(&Skipped { count: 4, examples, linked_folders: 3, unreadable: 0 });
        let text = "skipped 10 files: with names that a job cannot use 4, linked folders 3, .mov 2, hidden 1 (control characters, a \
                    part . or .., or not UTF-8: a\\u{1}.png)";
        assert_eq!(tally.text().as_deref(), Some(text));
        assert_eq!(tally.total(), 10);
    }
}
