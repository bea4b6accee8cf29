//! `[queue]`.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::Deserialize;

use super::{Secret, between, clean, set, store::list};

/// Larger windows would be none.
const MOST_WINDOW: u32 = 10_000_000;

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueSection {
    /// Absent: a queue inside the process. May contain passwords, and several hosts.
    #[serde(deserialize_with = "addresses")]
    pub url: Option<Secret>,
    #[serde(deserialize_with = "set")]
    pub url_file: Option<PathBuf>,
    /// Belongs to `url`, which has it once loaded.
    #[serde(deserialize_with = "set")]
    pub password: Option<Secret>,
    #[serde(deserialize_with = "set")]
    pub password_file: Option<PathBuf>,
    #[serde(deserialize_with = "set")]
    pub client_cert: Option<PathBuf>,
    #[serde(deserialize_with = "set")]
    pub client_key: Option<PathBuf>,
    pub affinity_seconds: f64,
    pub consumer_timeout_seconds: f64,
    pub connect_timeout_seconds: f64,
    pub publish_timeout_seconds: f64,
    pub remember_deleted_days: f64,
    /// 0: from the slots of the workers.
    pub window: u32,
    /// 0: any number.
    pub tenant_limit: u32,
    /// `NAME=JOBS`, by name.
    #[serde(deserialize_with = "limits")]
    pub tenant_limits: BTreeMap<String, u32>,
}

impl QueueSection {
    /// The first invalid setting, and why it is invalid.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        match (&self.client_cert, &self.client_key) {
            (Some(_), None) => {
                return Err((
                    "queue.client_key",
                    "is empty while queue.client_cert is set; both are needed".to_owned(),
                ));
            }
            (None, Some(_)) => {
                return Err((
                    "queue.client_cert",
                    "is empty while queue.client_key is set; both are needed".to_owned(),
                ));
            }
            (Some(certificate), Some(key)) => {
                clean::check_regular(certificate).map_err(|reason| ("queue.client_cert", reason))?;
                clean::check_regular(key).map_err(|reason| ("queue.client_key", reason))?;
            }
            (None, None) => {}
        }
        let seconds = |key, value: f64, least: f64, most: f64| between(key, value, least..=most, " seconds");
        seconds("queue.affinity_seconds", self.affinity_seconds, 0.0, 86_400.0)?;
        // RabbitMQ checks once a minute, and stores the time as milliseconds in 32 bits.
        seconds("queue.consumer_timeout_seconds", self.consumer_timeout_seconds, 60.0, 4_000_000.0)?;
        seconds("queue.connect_timeout_seconds", self.connect_timeout_seconds, 0.1, 3600.0)?;
        seconds("queue.publish_timeout_seconds", self.publish_timeout_seconds, 0.1, 3600.0)?;
        between("queue.window", self.window, 0..=MOST_WINDOW, " jobs")?;
        between("queue.remember_deleted_days", self.remember_deleted_days, 1.0..=36_500.0, " days")
    }

    pub fn remember_deleted(&self) -> Duration {
        Duration::from_secs_f64(self.remember_deleted_days * 86_400.0)
    }

    pub fn affinity(&self) -> Duration {
        Duration::from_secs_f64(self.affinity_seconds)
    }

    pub fn consumer_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.consumer_timeout_seconds)
    }

    pub fn connect_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.connect_timeout_seconds)
    }

    pub fn publish_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.publish_timeout_seconds)
    }
}

/// One address, or a list of them.
fn addresses<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "an address, or a list of addresses")]
    enum Written {
        One(String),
        Several(Vec<String>),
    }
    let text = match Written::deserialize(deserializer)? {
        Written::One(text) => text,
        Written::Several(addresses) => addresses.join(","),
    };
    Ok(Some(text).filter(|text| !text.is_empty()).map(Secret::from))
}

/// Limits as `NAME=JOBS`, in a list or separated by commas.
fn limits<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, u32>, D::Error> {
    let mut limits = BTreeMap::new();
    for text in list(deserializer)? {
        let wrong = || {
            let reason = format!(
                "`{text}` is not the limit of a tenant; write NAME=JOBS, for instance \"acme=4\", \
                                  and commas between them"
            );
            <D::Error as serde::de::Error>::custom(reason)
        };
        let (name, jobs) = text.rsplit_once('=').ok_or_else(wrong)?;
        let (name, jobs) = (name.trim(), jobs.trim().parse().map_err(|_| wrong())?);
        // Another separator than a comma would make one tenant of several.
        if name.is_empty() || name.contains(['=', ';']) {
            return Err(wrong());
        }
        if limits.insert(name.to_owned(), jobs).is_some() {
            return Err(serde::de::Error::custom(format_args!("the tenant {name} is there twice")));
        }
    }
    Ok(limits)
}
