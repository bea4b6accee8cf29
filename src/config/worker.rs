//! `[worker]`.

use std::time::Duration;

use serde::Deserialize;

use super::between;

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerSection {
    pub lease_seconds: f64,
    pub heartbeat_seconds: f64,
    pub max_attempts: u32,
    pub retry_base_seconds: f64,
    pub retry_longest_seconds: f64,
    pub slots: u32,
    pub job_timeout_seconds: f64,
    pub drain_seconds: f64,
    pub start_timeout_seconds: f64,
    pub database_retry_seconds: f64,
    pub redispatch_seconds: f64,
    /// For tests: where to stop the process. Empty: nowhere.
    pub failpoint: String,
}

impl WorkerSection {
    /// The first invalid setting, and why it is invalid.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let seconds = |key, value: f64, least: f64| between(key, value, least..=86_400.0, " seconds");
        seconds("worker.lease_seconds", self.lease_seconds, 1.0)?;
        seconds("worker.heartbeat_seconds", self.heartbeat_seconds, 0.05)?;
        seconds("worker.retry_base_seconds", self.retry_base_seconds, 0.0)?;
        seconds("worker.retry_longest_seconds", self.retry_longest_seconds, 0.0)?;
        seconds("worker.job_timeout_seconds", self.job_timeout_seconds, 1.0)?;
        seconds("worker.drain_seconds", self.drain_seconds, 0.0)?;
        seconds("worker.start_timeout_seconds", self.start_timeout_seconds, 0.0)?;
        seconds("worker.database_retry_seconds", self.database_retry_seconds, 0.0)?;
        seconds("worker.redispatch_seconds", self.redispatch_seconds, 1.0)?;
        between("worker.slots", self.slots, 1..=64, "")?;
        if self.max_attempts == 0 {
            return Err(("worker.max_attempts", "0 would run no job; the minimum is 1".to_owned()));
        }
        Ok(())
    }

    pub fn lease(&self) -> Duration {
        Duration::from_secs_f64(self.lease_seconds)
    }

    pub fn heartbeat(&self) -> Duration {
        Duration::from_secs_f64(self.heartbeat_seconds)
    }

    pub fn job_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.job_timeout_seconds)
    }

    pub fn drain(&self) -> Duration {
        Duration::from_secs_f64(self.drain_seconds)
    }

    pub fn start_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.start_timeout_seconds)
    }

    pub fn database_retry(&self) -> Duration {
        Duration::from_secs_f64(self.database_retry_seconds)
    }

    pub fn redispatch(&self) -> Duration {
        Duration::from_secs_f64(self.redispatch_seconds)
    }
}
