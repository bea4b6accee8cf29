//! Why a job did not succeed: one enum, a stable code for each reason, and the class that decides what
//! happens next.

use std::{error::Error, time::Duration};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Cause;

/// The class of an error, which decides what the worker does with a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// The request, its input or the configured model is wrong: fail at once and say what to change.
    Invalid,
    /// A temporary problem: try again later, here or elsewhere.
    Transient,
    /// This device or process is no longer reliable: try again elsewhere and restart.
    Device,
    /// The job was cancelled.
    Cancelled,
}

/// The reason that an attempt ended without a result.
///
/// `Display` is written for the person who submitted the job: what is wrong, where, and what is valid.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum JobError {
    #[error("{field}: {reason}")]
    InvalidRequest { field: String, reason: String },
    #[error("{input}: {reason}")]
    InvalidImage { input: String, reason: String },
    #[error("{input}: {reason}")]
    ImageTooLarge { input: String, reason: String },
    #[error("{}", not_found(input))]
    InputNotFound { input: String },
    #[error("{input}: {reason}")]
    InputForbidden { input: String, reason: String },
    /// The input may exist, but its server does not respond.
    #[error("{input}: {reason}")]
    InputUnreachable {
        input: String,
        reason: String,
        source: Option<Cause>,
        /// How long its server wants to be left alone.
        retry_after: Option<Duration>,
    },
    #[error("model {model}: {reason}")]
    ModelNotFound { model: String, reason: String },
    #[error("model {model}: {reason}")]
    ModelInvalid { model: String, reason: String },
    #[error("model {model} does not fit: {reason}")]
    ModelTooLarge { model: String, reason: String },
    #[error("model {model} could not be downloaded: {reason}")]
    Download { model: String, reason: String, source: Option<Cause> },
    #[error("{what}; no picture was written")]
    NonFinite { what: String },
    #[error("{path}: not enough disk space; free some and try again")]
    DiskFull { path: String },
    #[error("{path}: {reason}")]
    Storage { path: String, reason: String, source: Option<Cause> },
    #[error("job database: {reason}")]
    Database { reason: String, source: Option<Cause> },
    #[error("queue: {reason}")]
    Queue { reason: String, source: Option<Cause> },
    /// The broker did not take over a message that it got: a queue refused it, or did not confirm it. The connection is
    /// not at fault, and other messages may pass.
    #[error("queue: {reason}")]
    Unconfirmed { reason: String },
    #[error("{reason}")]
    Busy { reason: String },
    #[error("device {device}: {reason}")]
    Device { device: String, reason: String, source: Option<Cause> },
    #[error("device {device} is out of memory: {reason}")]
    OutOfMemory { device: String, reason: String, source: Option<Cause> },
    #[error("quarantined after {attempts} attempts; the last one ended with: {last}")]
    AttemptsExhausted {
        attempts: u32,
        last: String,
        /// The code of the last attempt's error, if it had one.
        cause: Option<String>,
    },
    #[error("took longer than the limit of {seconds} s (worker.job_timeout_seconds)")]
    TimedOut { seconds: f64 },
    #[error("cancelled")]
    Cancelled,
}

/// How an input of a job that is not there ends, see [`JobError::no_job`].
const OF_NO_JOB: &str = ", a job that does not exist or was deleted";

fn not_found(input: &str) -> String {
    match input.strip_suffix(OF_NO_JOB) {
        Some(picture) => format!("{picture}: there is no such job, or it was deleted"),
        None => format!("{input}: not found; check the path or address"),
    }
}

impl JobError {
    /// The picture of a job that is not there.
    pub fn no_job(picture: &impl std::fmt::Display) -> Self {
        Self::InputNotFound { input: format!("{picture}{OF_NO_JOB}") }
    }

    /// A stable code for programs; it never changes for a given reason.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidRequest { .. } => "invalid_request",
            Self::InvalidImage { .. } => "invalid_image",
            Self::ImageTooLarge { .. } => "image_too_large",
            Self::InputNotFound { .. } => "input_not_found",
            Self::InputForbidden { .. } => "input_forbidden",
            Self::InputUnreachable { .. } => "input_unreachable",
            Self::ModelNotFound { .. } => "model_not_found",
            Self::ModelInvalid { .. } => "model_invalid",
            Self::ModelTooLarge { .. } => "model_too_large",
            Self::Download { .. } => "download",
            Self::NonFinite { .. } => "non_finite",
            Self::DiskFull { .. } => "disk_full",
            Self::Storage { .. } => "storage",
            Self::Database { .. } => "database",
            Self::Queue { .. } | Self::Unconfirmed { .. } => "queue",
            Self::Busy { .. } => "busy",
            Self::Device { .. } => "device",
            Self::OutOfMemory { .. } => "out_of_memory",
            Self::AttemptsExhausted { .. } => "attempts_exhausted",
            Self::TimedOut { .. } => "timed_out",
            Self::Cancelled => "cancelled",
        }
    }

    /// All codes; see [`JobError::code`].
    pub const CODES: [&str; 21] = [
        "attempts_exhausted",
        "busy",
        "cancelled",
        "database",
        "device",
        "disk_full",
        "download",
        "image_too_large",
        "input_forbidden",
        "input_not_found",
        "input_unreachable",
        "invalid_image",
        "invalid_request",
        "model_invalid",
        "model_not_found",
        "model_too_large",
        "non_finite",
        "out_of_memory",
        "queue",
        "storage",
        "timed_out",
    ];

    /// Decides between failing, retrying and restarting. There is no wildcard arm, so every new reason must choose.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::InvalidRequest { .. }
            | Self::InvalidImage { .. }
            | Self::ImageTooLarge { .. }
            | Self::InputNotFound { .. }
            | Self::InputForbidden { .. }
            | Self::ModelNotFound { .. }
            | Self::ModelInvalid { .. }
            | Self::ModelTooLarge { .. }
            | Self::NonFinite { .. }
            | Self::AttemptsExhausted { .. } => ErrorClass::Invalid,
            Self::InputUnreachable { .. }
            | Self::Download { .. }
            | Self::DiskFull { .. }
            | Self::Storage { .. }
            | Self::Database { .. }
            | Self::TimedOut { .. }
            | Self::Queue { .. }
            | Self::Unconfirmed { .. }
            | Self::Busy { .. } => ErrorClass::Transient,
            Self::Device { .. } | Self::OutOfMemory { .. } => ErrorClass::Device,
            Self::Cancelled => ErrorClass::Cancelled,
        }
    }

    /// Whether a later attempt may succeed.
    pub fn is_transient(&self) -> bool {
        self.class() == ErrorClass::Transient
    }

    pub fn input_unreachable(input: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::InputUnreachable { input: input.into(), reason: reason.into(), source: None, retry_after: None }
    }

    /// Adds how long the server of an input wants to be left alone.
    pub fn retry_after(mut self, pause: Duration) -> Self {
        if let Self::InputUnreachable { retry_after, .. } = &mut self {
            *retry_after = Some(pause);
        }
        self
    }

    /// How long the server of an input wants to be left alone.
    pub fn asked_to_wait(&self) -> Option<Duration> {
        match self {
            Self::InputUnreachable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    pub fn download(model: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Download { model: model.into(), reason: reason.into(), source: None }
    }

    pub fn storage(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Storage { path: path.into(), reason: reason.into(), source: None }
    }

    pub fn database(reason: impl Into<String>) -> Self {
        Self::Database { reason: reason.into(), source: None }
    }

    pub fn queue(reason: impl Into<String>) -> Self {
        Self::Queue { reason: reason.into(), source: None }
    }

    pub fn device(device: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Device { device: device.into(), reason: reason.into(), source: None }
    }

    pub fn out_of_memory(device: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::OutOfMemory { device: device.into(), reason: reason.into(), source: None }
    }

    /// Adds the error's cause. Variants without a `source` ignore it, because their reason is already complete.
    pub fn caused_by(mut self, error: impl Error + Send + Sync + 'static) -> Self {
        match &mut self {
            Self::InputUnreachable { source, .. }
            | Self::Download { source, .. }
            | Self::Storage { source, .. }
            | Self::Database { source, .. }
            | Self::Queue { source, .. }
            | Self::Device { source, .. }
            | Self::OutOfMemory { source, .. } => *source = Some(Cause::new(error)),
            Self::InvalidRequest { .. }
            | Self::InvalidImage { .. }
            | Self::ImageTooLarge { .. }
            | Self::InputNotFound { .. }
            | Self::InputForbidden { .. }
            | Self::ModelNotFound { .. }
            | Self::ModelInvalid { .. }
            | Self::ModelTooLarge { .. }
            | Self::NonFinite { .. }
            | Self::DiskFull { .. }
            | Self::Unconfirmed { .. }
            | Self::Busy { .. }
            | Self::AttemptsExhausted { .. }
            | Self::TimedOut { .. }
            | Self::Cancelled => {}
        }
        self
    }

    pub fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::InvalidRequest { field: field.into(), reason: reason.into() }
    }
}

/// An error as stored in the job row, in events and in `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorRecord {
    pub code: String,
    /// The code of the last attempt's error, for `attempts_exhausted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    pub class: ErrorClass,
    pub message: String,
}

impl ErrorRecord {
    /// The longest message that is kept of an error about a text that someone else wrote, in bytes.
    const LONGEST: usize = 2000;

    /// Whether the request or one of its pictures is wrong, so that the same request always fails.
    pub fn is_about_the_request(&self) -> bool {
        let codes = ["invalid_request", "invalid_image", "image_too_large", "input_not_found", "input_forbidden"];
        codes.contains(&self.code.as_str())
    }

    /// Without the middle of a long message: it may repeat what was sent, and ends with what is valid.
    pub fn shortened(mut self) -> Self {
        if self.message.len() > Self::LONGEST {
            let half = Self::LONGEST / 2;
            let (start, end) =
                (self.message.floor_char_boundary(half), self.message.ceil_char_boundary(self.message.len() - half));
            self.message = format!("{} ... {}", &self.message[..start], &self.message[end..]);
        }
        self
    }
}

impl From<&JobError> for ErrorRecord {
    fn from(error: &JobError) -> Self {
        let cause = match error {
            JobError::AttemptsExhausted { cause, .. } => cause.clone(),
            _ => None,
        };
        Self { code: error.code().to_owned(), cause, class: error.class(), message: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_list_has_every_code() {
        let source = include_str!("error.rs");
        let code = source.split("pub fn code").nth(1).unwrap().split("\n    }\n").next().unwrap();
        let written: BTreeSet<&str> = code.lines().filter_map(|line| line.split('"').nth(1)).collect();
        assert_eq!(written, BTreeSet::from(JobError::CODES));
        assert_eq!(written.len(), JobError::CODES.len());
    }
}
