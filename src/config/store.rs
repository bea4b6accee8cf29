//! `[store]`.

use std::time::Duration;

use serde::Deserialize;

use super::set;

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSection {
    /// Absent: `objects/` in the data folder.
    #[serde(deserialize_with = "set")]
    pub url: Option<String>,
    /// Absent: AWS itself, if `url` is in S3.
    #[serde(deserialize_with = "set")]
    pub endpoint: Option<String>,
    #[serde(deserialize_with = "list")]
    pub inputs: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub outputs: Vec<String>,
    pub http_inputs: bool,
    pub checksums: ChecksumsSetting,
    pub connect_timeout_seconds: f64,
    pub read_timeout_seconds: f64,
    pub operation_timeout_seconds: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChecksumsSetting {
    Supported,
    Required,
}

impl StoreSection {
    /// The first invalid setting, and why it is invalid.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let seconds = |key, value: f64| {
            if (0.1..=86_400.0).contains(&value) {
                return Ok(());
            }
            Err((key, format!("{value} is not between 0.1 and 86400 seconds")))
        };
        seconds("store.connect_timeout_seconds", self.connect_timeout_seconds)?;
        seconds("store.read_timeout_seconds", self.read_timeout_seconds)?;
        seconds("store.operation_timeout_seconds", self.operation_timeout_seconds)
    }

    pub fn connect_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.connect_timeout_seconds)
    }

    pub fn read_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.read_timeout_seconds)
    }

    pub fn operation_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.operation_timeout_seconds)
    }
}

/// A list, or one text with commas, which is easier to write in a variable.
pub(super) fn list<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a list of texts, or one text with commas")]
    enum Written {
        List(Vec<String>),
        Text(String),
    }
    let entries = match Written::deserialize(deserializer)? {
        Written::List(entries) => entries,
        Written::Text(text) => text.split(',').map(str::to_owned).collect(),
    };
    Ok(entries.iter().map(|entry| entry.trim().to_owned()).filter(|entry| !entry.is_empty()).collect())
}
