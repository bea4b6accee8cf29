//! `[tls]`.

use std::path::PathBuf;

use serde::Deserialize;

use super::{clean, set};

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Authorities that all clients trust in addition to the system's, as PEM.
    #[serde(deserialize_with = "set")]
    pub ca_file: Option<PathBuf>,
}

impl Tls {
    /// The first invalid setting, and why it is invalid.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let Some(path) = &self.ca_file else { return Ok(()) };
        clean::check_regular(path).map_err(|reason| ("tls.ca_file", reason))
    }
}
