//! `[status]`, `[http]` and `[image]`: addresses and bounds.

use std::time::Duration;

use serde::Deserialize;

use super::{Secret, set, store::list};

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// Absent: `acetate.db` in the data folder. May contain a password.
    #[serde(deserialize_with = "set")]
    pub url: Option<Secret>,
    /// Absent: notifications are listened for at `url`. May contain a password.
    #[serde(deserialize_with = "set")]
    pub listen_url: Option<Secret>,
    pub max_connections: u32,
    pub migrate: bool,
}

impl Status {
    /// The first invalid setting, and why it is invalid.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        if !(2..=1000).contains(&self.max_connections) {
            let reason = format!("{} is not between 2 and 1000", self.max_connections);
            return Err(("status.max_connections", reason));
        }
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    pub bind: String,
    #[serde(deserialize_with = "set")]
    pub token: Option<Secret>,
    #[serde(deserialize_with = "list")]
    pub hosts: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub cors_origins: Vec<String>,
    pub max_upload_bytes: u64,
    pub max_queued: u64,
    pub requests_per_second: f64,
    pub max_connections: usize,
    pub read_timeout_seconds: f64,
    #[serde(deserialize_with = "set")]
    pub webhook_secret: Option<Secret>,
    #[serde(deserialize_with = "list")]
    pub webhook_allow: Vec<String>,
    pub webhook_retry_seconds: f64,
}

impl Http {
    /// The first invalid setting, and why it is invalid.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        if self.max_upload_bytes == 0 {
            return Err(("http.max_upload_bytes", "0 would refuse every picture".to_owned()));
        }
        if !(0.0..=1e6).contains(&self.requests_per_second) {
            let reason = format!("{} is not between 0 (no limit) and 1000000", self.requests_per_second);
            return Err(("http.requests_per_second", reason));
        }
        if self.max_connections == 0 {
            return Err(("http.max_connections", "0 would refuse every client".to_owned()));
        }
        if !(0.1..=3600.0).contains(&self.read_timeout_seconds) {
            let reason = format!("{} is not between 0.1 and 3600 seconds", self.read_timeout_seconds);
            return Err(("http.read_timeout_seconds", reason));
        }
        if !(0.01..=3600.0).contains(&self.webhook_retry_seconds) {
            let reason = format!("{} is not between 0.01 and 3600 seconds", self.webhook_retry_seconds);
            return Err(("http.webhook_retry_seconds", reason));
        }
        Ok(())
    }

    /// Checks that the token, if there is one, is strong enough; the reason does not show it.
    pub fn check_token(&self) -> Result<(), String> {
        let Some(token) = &self.token else { return Ok(()) };
        if token.reveal().len() < SHORTEST_TOKEN {
            return Err(format!("has fewer than {SHORTEST_TOKEN} characters; make one with `openssl rand -hex 32`"));
        }
        if !token.reveal().bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(
                "has characters that headers cannot carry; use only ASCII letters, digits and symbols".to_owned()
            );
        }
        Ok(())
    }

    pub fn read_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.read_timeout_seconds)
    }

    pub fn webhook_retry(&self) -> Duration {
        Duration::from_secs_f64(self.webhook_retry_seconds)
    }
}

const SHORTEST_TOKEN: usize = 16;

/// The limits of input pictures.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageLimits {
    pub max_width: u32,
    pub max_height: u32,
    pub max_pixels: u64,
    pub max_bytes: u64,
}
