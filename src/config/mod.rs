//! Configuration: embedded defaults, then a file, then the environment, then flags.
//!
//! Only this module reads configuration files and the environment. Every setting is in `config/default.toml`; any other
//! key is an error that names its file or variable.

mod audit;
mod aws;
mod clean;
mod env;
mod file;
mod hub;
mod layers;
mod nearest;
mod passwords;
mod queue;
mod qwen_image;
mod redact;
mod secret_files;
mod services;
mod store;
mod telemetry;
mod tls;
mod tokens;
mod traces;
mod worker;

use std::{fmt::Display, ops::RangeInclusive, path::PathBuf};

use serde::Deserialize;

pub use audit::Audit;
pub use env::Environment;
pub use hub::Hub;
pub use layers::{ConfigError, Flag, LoadedConfig, Setting, Sources, load};
pub use queue::QueueSection;
pub use qwen_image::{GuidanceMode, QwenImage, parse_bytes, parse_loras};
pub use redact::Secret;
pub use services::{Http, ImageLimits, Status};
pub use store::{BucketOptions, ChecksumsSetting, PathStyleSetting, StoreSection};
pub use telemetry::{LogFormat, Telemetry};
pub use tls::Tls;
pub use tokens::{TokenRole, TokenSetting};
pub use traces::{OtlpTarget, Traces};
pub use worker::WorkerSection;

/// All settings, as the sections of the file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Absolute once loaded.
    pub data_dir: PathBuf,
    pub qwen_image: QwenImage,
    pub queue: QueueSection,
    pub status: Status,
    pub store: StoreSection,
    pub tls: Tls,
    pub http: Http,
    pub worker: WorkerSection,
    pub image: ImageLimits,
    pub audit: Audit,
    pub hub: Hub,
    pub telemetry: Telemetry,
}

impl Config {
    /// The first invalid setting, and why it is invalid.
    fn check(&self) -> Result<(), (&'static str, String)> {
        self.worker.check()?;
        self.queue.check()?;
        self.status.check()?;
        self.store.check()?;
        self.tls.check()?;
        self.http.check()?;
        self.audit.check()?;
        self.qwen_image.check()?;
        self.telemetry.check()?;
        if self.queue.url.is_some() && self.status.url.is_none() {
            let reason = "is empty while queue.url is set: workers and submitters need the same job rows; set \
                          postgres://user@host/database (or sqlite:/// for one machine)";
            return Err(("status.url", reason.to_owned()));
        }
        // Otherwise the broker would take back a job's message while the job runs.
        let (longest, allowed) = (self.worker.job_timeout_seconds, self.queue.consumer_timeout_seconds);
        if allowed <= longest {
            let reason = format!("{allowed} must be more than worker.job_timeout_seconds, {longest}");
            return Err(("queue.consumer_timeout_seconds", reason));
        }
        Ok(())
    }
}

/// Refuses a value out of bounds; `unit` follows the numbers in the reason.
fn between<T: PartialOrd + Display>(
    key: &'static str,
    value: T,
    bounds: RangeInclusive<T>,
    unit: &str,
) -> Result<(), (&'static str, String)> {
    if bounds.contains(&value) {
        return Ok(());
    }
    let (least, most) = bounds.into_inner();
    Err((key, format!("{value} is not between {least} and {most}{unit}")))
}

/// In a file, an empty text means "not set".
fn set<'de, D: serde::Deserializer<'de>, T: From<String>>(deserializer: D) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok(if text.is_empty() { None } else { Some(T::from(text)) })
}

#[cfg(test)]
#[cfg(unix)]
mod secret_tests;
#[cfg(test)]
mod tests;
