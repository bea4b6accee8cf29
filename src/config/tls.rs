//! `[tls]`.

use std::path::PathBuf;

use serde::Deserialize;

use super::set;

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Authorities that all clients trust in addition to the system's, as PEM.
    #[serde(deserialize_with = "set")]
    pub ca_file: Option<PathBuf>,
}
