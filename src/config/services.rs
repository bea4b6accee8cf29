//! `[status]`, `[http]` and `[image]`: addresses and bounds.

use serde::Deserialize;

use super::{Secret, set};

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// Absent: `acetate.db` in the data folder. May carry a password.
    #[serde(deserialize_with = "set")]
    pub url: Option<Secret>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    pub bind: String,
    #[serde(deserialize_with = "set")]
    pub token: Option<Secret>,
}

/// Of input pictures.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageLimits {
    pub max_width: u32,
    pub max_height: u32,
    pub max_pixels: u64,
    pub max_bytes: u64,
}
