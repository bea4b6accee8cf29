//! `[audit]`.

use std::time::Duration;

use serde::Deserialize;

use super::between;

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    pub keep_days: f64,
}

impl Audit {
    /// The first invalid setting, and why it is invalid.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        between("audit.keep_days", self.keep_days, 1.0..=36_500.0, " days")
    }

    pub fn keep(&self) -> Duration {
        Duration::from_secs_f64(self.keep_days * 86_400.0)
    }
}
