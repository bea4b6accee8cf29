//! The name of a group of jobs that were submitted together.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::JobError;

/// A batch's name, chosen by the submitter, and safe in file names, metric labels and command lines.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
pub struct BatchId(String);

impl BatchId {
    const LONGEST: usize = 100;

    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn check(text: &str) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let fits = (1..=Self::LONGEST).contains(&text.len());
        if fits && text.chars().all(plain) && text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return Ok(());
        }
        let shown: String = text.chars().take(Self::LONGEST).collect();
        Err(format!(
            "`{shown}` is not the name of a batch: 1 to {} letters, digits, `-`, `_` and `.`, the first of them a letter \
             or digit",
            Self::LONGEST
        ))
    }
}

impl FromStr for BatchId {
    type Err = JobError;

    fn from_str(text: &str) -> Result<Self, JobError> {
        Self::try_from(text.to_owned()).map_err(|reason| JobError::invalid("batch", reason))
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for BatchId {
    /// The reason alone: who reads a name knows the field.
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match Self::check(&text) {
            Ok(()) => Ok(Self(text)),
            Err(reason) => Err(reason),
        }
    }
}

impl From<BatchId> for String {
    fn from(batch: BatchId) -> Self {
        batch.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for good in ["posters", "2026-11.run_3", &"a".repeat(100)] {
            assert_eq!(good.parse::<BatchId>().unwrap().as_str(), good);
        }
        for bad in ["", "-rf", "a b", "a/b", "ä", "a\0", &"a".repeat(101)] {
            let error = bad.parse::<BatchId>().unwrap_err().to_string();
            assert!(error.starts_with("batch: ") && error.len() < 300, "{error}");
        }
        // The reader adds the field.
        let error = serde_json::from_str::<BatchId>("\"a b\"").unwrap_err().to_string();
        assert!(error.starts_with("`a b` is not the name of a batch"), "{error}");
    }
}
