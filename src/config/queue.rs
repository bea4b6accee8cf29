//! `[queue]`.

use std::time::Duration;

use serde::Deserialize;

use super::{Secret, set};

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueSection {
    /// Absent: a queue inside the process. May contain a password.
    #[serde(deserialize_with = "set")]
    pub url: Option<Secret>,
    pub affinity_seconds: f64,
    pub consumer_timeout_seconds: f64,
    pub connect_timeout_seconds: f64,
    pub publish_timeout_seconds: f64,
    pub remember_deleted_days: f64,
}

impl QueueSection {
    /// The first invalid setting, and why it is invalid.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let seconds = |key, value: f64, least: f64, most: f64| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err((key, format!("{value} is not between {least} and {most} seconds")))
        };
        seconds("queue.affinity_seconds", self.affinity_seconds, 0.0, 86_400.0)?;
        // RabbitMQ checks once a minute, and stores the time as milliseconds in 32 bits.
        seconds("queue.consumer_timeout_seconds", self.consumer_timeout_seconds, 60.0, 4_000_000.0)?;
        seconds("queue.connect_timeout_seconds", self.connect_timeout_seconds, 0.1, 3600.0)?;
        seconds("queue.publish_timeout_seconds", self.publish_timeout_seconds, 0.1, 3600.0)?;
        if !(1.0..=36_500.0).contains(&self.remember_deleted_days) {
            let reason = format!("{} is not between 1 and 36500 days", self.remember_deleted_days);
            return Err(("queue.remember_deleted_days", reason));
        }
        Ok(())
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
