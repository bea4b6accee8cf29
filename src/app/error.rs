//! Why a server or worker does not start, or ends unexpectedly.

use crate::{
    config::LoadedConfig,
    job::{ErrorClass, JobError},
    worker::Unusable,
};

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Stopped before everything was ready; not a failure.
    #[error("stopped before it had started")]
    Stopped,
    /// A setting that the process cannot start with.
    #[error("{setting}: {reason}")]
    Setting { setting: String, reason: String },
    /// A part that cannot be built, or did not respond in time.
    #[error(transparent)]
    Part(JobError),
    /// The metrics recorder can be started only once per process.
    #[error("the metrics are not collected: {0}")]
    Metrics(String),
    #[error(transparent)]
    Unusable(#[from] Unusable),
    #[error("the HTTP server ended: {0}")]
    Server(#[source] std::io::Error),
}

impl StartError {
    pub(super) fn setting(setting: &'static str, reason: impl Into<String>) -> Self {
        Self::Setting { setting: setting.to_owned(), reason: reason.into() }
    }

    /// Names the flag, or the file or variable, that the setting is from.
    #[must_use]
    pub fn with_origin(self, loaded: &LoadedConfig) -> Self {
        match self {
            Self::Setting { setting, reason } => Self::Setting { setting: loaded.name_of(&setting), reason },
            Self::Part(error) => Self::Part(loaded.with_origin(error)),
            Self::Stopped | Self::Metrics(_) | Self::Unusable(_) | Self::Server(_) => self,
        }
    }

    /// Whether a setting has to be changed before it can start.
    pub fn is_invalid(&self) -> bool {
        match self {
            Self::Setting { .. } => true,
            Self::Part(error) => error.class() == ErrorClass::Invalid,
            Self::Stopped | Self::Metrics(_) | Self::Unusable(_) | Self::Server(_) => false,
        }
    }
}

impl From<JobError> for StartError {
    fn from(error: JobError) -> Self {
        match error {
            JobError::Cancelled => Self::Stopped,
            error => Self::Part(error),
        }
    }
}
