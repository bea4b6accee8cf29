//! The failures that a command can end with.

use std::process::ExitCode;

use super::output;
use crate::{
    app::StartError,
    config::ConfigError,
    job::{ErrorClass, ErrorRecord, JobError},
};

#[derive(Debug)]
pub enum Failure {
    /// The command line or the configuration is wrong; nothing was done.
    Usage(String),
    /// Something other than the job failed.
    Error(JobError),
    /// A server or worker did not start, or had to stop.
    Start(StartError),
    /// The job has its result, but a later step failed.
    AfterSuccess { error: JobError, advice: String },
    /// The job ended without a result. With `--json`, its row has been printed.
    Job(String),
    /// The same, because its request or a picture of it is wrong.
    JobRequest(String),
    /// Ctrl-C, or `acetate jobs cancel`.
    Cancelled(String),
    /// Everything has already been printed.
    Silent(u8),
}

impl Failure {
    /// Prints the error on stderr; with `json` also on stdout as `{"error": ...}`, unless a job's row was printed.
    pub fn report(self, json: bool) -> ExitCode {
        let (code, message, record) = match self {
            Self::Usage(message) => {
                let record = ErrorRecord::from(&JobError::invalid("command", message.clone()));
                (2, message.clone(), Some(ErrorRecord { message, ..record }))
            }
            Self::AfterSuccess { error, advice } => {
                let record = ErrorRecord::from(&error);
                let message = format!("{error}\n{advice}");
                (1, message.clone(), Some(ErrorRecord { message, ..record }))
            }
            Self::Error(error) => {
                let record = ErrorRecord::from(&error);
                let code = match record.class {
                    ErrorClass::Invalid => 2,
                    ErrorClass::Cancelled => 130,
                    ErrorClass::Transient | ErrorClass::Device => 1,
                };
                (code, record.message.clone(), Some(record))
            }
            Self::Start(error) => (if error.is_invalid() { 2 } else { 1 }, error.to_string(), None),
            Self::Job(message) => (1, message, None),
            Self::JobRequest(message) => (2, message, None),
            Self::Cancelled(message) => (130, message, None),
            Self::Silent(code) => return ExitCode::from(code),
        };
        output::error(&format!("error: {message}"));
        if let Some(record) = record.filter(|_| json) {
            let _ = output::json(&serde_json::json!({ "error": record }));
        }
        ExitCode::from(code)
    }
}

impl From<JobError> for Failure {
    fn from(error: JobError) -> Self {
        Self::Error(error)
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Self::Start(error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}
