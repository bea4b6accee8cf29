//! `[status]`, `[http]` and `[image]`: addresses and bounds.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

use super::{
    Secret, between,
    qwen_image::bytes,
    set,
    store::list,
    tokens::{self, TokenSetting},
};

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// Absent: `acetate.db` in the data folder. May contain a password.
    #[serde(deserialize_with = "set")]
    pub url: Option<Secret>,
    #[serde(deserialize_with = "set")]
    pub url_file: Option<PathBuf>,
    /// Belongs to `url`, which has it once loaded.
    #[serde(deserialize_with = "set")]
    pub password: Option<Secret>,
    #[serde(deserialize_with = "set")]
    pub password_file: Option<PathBuf>,
    /// Absent: notifications are listened for at `url`. May contain a password.
    #[serde(deserialize_with = "set")]
    pub listen_url: Option<Secret>,
    #[serde(deserialize_with = "set")]
    pub listen_url_file: Option<PathBuf>,
    pub max_connections: u32,
    pub migrate: bool,
}

impl Status {
    /// The first invalid setting, and why it is invalid.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let why = "; one of them listens for notifications, and the others work";
        between("status.max_connections", self.max_connections, 2..=1000, why)
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    pub bind: String,
    #[serde(deserialize_with = "set")]
    pub token: Option<Secret>,
    #[serde(deserialize_with = "set")]
    pub token_file: Option<PathBuf>,
    /// Each has its token once loaded.
    #[serde(deserialize_with = "tokens::tokens")]
    pub tokens: Vec<TokenSetting>,
    #[serde(deserialize_with = "set")]
    pub tokens_file: Option<PathBuf>,
    #[serde(deserialize_with = "list")]
    pub hosts: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub cors_origins: Vec<String>,
    #[serde(deserialize_with = "bytes")]
    pub max_upload_bytes: u64,
    pub max_queued: u64,
    pub requests_per_second: f64,
    pub max_connections: usize,
    pub read_timeout_seconds: f64,
    pub wait_seconds: f64,
    #[serde(deserialize_with = "set")]
    pub webhook_secret: Option<Secret>,
    #[serde(deserialize_with = "set")]
    pub webhook_secret_file: Option<PathBuf>,
    #[serde(deserialize_with = "list")]
    pub webhook_allow: Vec<String>,
    pub webhook_retry_seconds: f64,
    #[serde(deserialize_with = "set")]
    pub batch_webhook: Option<Secret>,
}

impl Http {
    /// The first invalid setting, and why it is invalid.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        if self.max_upload_bytes == 0 {
            return Err(("http.max_upload_bytes", "0 would refuse every picture".to_owned()));
        }
        tokens::check_rate(self.requests_per_second).map_err(|reason| ("http.requests_per_second", reason))?;
        if self.max_connections == 0 {
            return Err(("http.max_connections", "0 would refuse every client".to_owned()));
        }
        between("http.read_timeout_seconds", self.read_timeout_seconds, 0.1..=3600.0, " seconds")?;
        between("http.wait_seconds", self.wait_seconds, 0.1..=86_400.0, " seconds")?;
        between("http.webhook_retry_seconds", self.webhook_retry_seconds, 0.01..=3600.0, " seconds")?;
        tokens::check(&self.tokens).map_err(|reason| ("http.tokens", reason))
    }

    /// Whether requests need a token.
    pub fn needs_token(&self) -> bool {
        self.token.is_some() || !self.tokens.is_empty()
    }

    /// Checks that the tokens are strong enough and differ; the error is the setting and a reason that shows no token.
    pub fn check_tokens(&self) -> Result<(), (&'static str, String)> {
        if let Some(token) = &self.token {
            strong(token).map_err(|reason| ("http.token", reason))?;
        }
        let mut seen: Vec<(&str, &Secret)> = self.token.iter().map(|token| ("http.token", token)).collect();
        for entry in &self.tokens {
            let Some(token) = &entry.token else { continue };
            strong(token).map_err(|reason| ("http.tokens", format!("{} {reason}", entry.name)))?;
            if let Some((other, _)) = seen.iter().find(|(_, known)| *known == token) {
                return Err(("http.tokens", format!("{} and {other} are the same token", entry.name)));
            }
            seen.push((&entry.name, token));
        }
        Ok(())
    }

    pub fn read_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.read_timeout_seconds)
    }

    pub fn wait(&self) -> Duration {
        Duration::from_secs_f64(self.wait_seconds)
    }

    pub fn webhook_retry(&self) -> Duration {
        Duration::from_secs_f64(self.webhook_retry_seconds)
    }
}

/// The reason does not show the token.
fn strong(token: &Secret) -> Result<(), String> {
    if token.reveal().len() < SHORTEST_TOKEN {
        return Err(format!("has fewer than {SHORTEST_TOKEN} characters; make one with `openssl rand -hex 32`"));
    }
    if !token.reveal().bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("has characters that headers cannot carry; use only ASCII letters, digits and symbols".to_owned());
    }
    Ok(())
}

const SHORTEST_TOKEN: usize = 16;

/// The limits of input pictures.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageLimits {
    pub max_width: u32,
    pub max_height: u32,
    pub max_pixels: u64,
    #[serde(deserialize_with = "bytes")]
    pub max_bytes: u64,
    #[serde(deserialize_with = "bytes")]
    pub max_memory: u64,
}
