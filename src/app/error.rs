//! Why a process that serves or works does not start, or ends before it was told to.

use crate::{
    job::{ErrorClass, JobError},
    worker::Unusable,
};

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Told to leave before everything had answered; that is no failure.
    #[error("told to leave before it had started")]
    Stopped,
    /// A setting that the process cannot start with.
    #[error("{setting}: {reason}")]
    Setting { setting: &'static str, reason: String },
    /// A part that cannot be made, or has not answered in time.
    #[error(transparent)]
    Part(JobError),
    /// The numbers of a process are collected once.
    #[error("the metrics are not collected: {0}")]
    Metrics(String),
    #[error(transparent)]
    Unusable(#[from] Unusable),
    #[error("the HTTP server ended: {0}")]
    Server(#[source] std::io::Error),
}

impl StartError {
    pub(super) fn setting(setting: &'static str, reason: impl Into<String>) -> Self {
        Self::Setting { setting, reason: reason.into() }
    }

    /// Whether somebody must change something before it can start.
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
