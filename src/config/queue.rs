//! `[queue]`.

use serde::Deserialize;

use super::{Secret, set};

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    /// Absent: the queue in process. May carry a password.
    #[serde(deserialize_with = "set")]
    pub url: Option<Secret>,
}
