//! Errors, as `application/problem+json` (RFC 9457).

use std::borrow::Cow;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::job::{JobError, JobId};

/// The error that a client receives.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Problem {
    /// `urn:acetate:error:` and the code.
    r#type: String,
    /// The status as text.
    title: String,
    status: u16,
    /// Never changes for a given reason.
    pub code: String,
    /// What is wrong, where, and what is valid.
    pub detail: String,
    /// The invalid part of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The job concerned, if the request did not name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
}

/// The failure of a request.
#[derive(Debug)]
pub struct ApiError {
    pub status: StatusCode,
    pub code: Cow<'static, str>,
    pub detail: String,
    pub field: Option<String>,
    pub job: Option<JobId>,
    /// Seconds.
    pub retry_after: Option<u64>,
}

pub type Answer<T> = Result<T, ApiError>;

impl ApiError {
    pub fn new(status: StatusCode, code: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self { status, code: code.into(), detail: detail.into(), field: None, job: None, retry_after: None }
    }

    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }

    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    pub fn no_job(id: JobId) -> Self {
        Self::not_found(format!("there is no job {id}; it may have been deleted"))
    }

    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", detail)
    }

    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    }

    pub fn about(self, field: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..self }
    }

    pub fn of_job(self, job: JobId) -> Self {
        Self { job: Some(job), ..self }
    }

    pub fn later(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }
}

impl From<JobError> for ApiError {
    fn from(error: JobError) -> Self {
        let status = match &error {
            JobError::InvalidRequest { .. } | JobError::InvalidImage { .. } | JobError::InputNotFound { .. } => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            JobError::ImageTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            JobError::InputForbidden { .. } => StatusCode::FORBIDDEN,
            JobError::Cancelled => StatusCode::CONFLICT,
            JobError::InputUnreachable { .. }
            | JobError::Download { .. }
            | JobError::DiskFull { .. }
            | JobError::Storage { .. }
            | JobError::Database { .. }
            | JobError::Queue { .. }
            | JobError::Unconfirmed { .. }
            | JobError::Busy { .. } => StatusCode::SERVICE_UNAVAILABLE,
            // Only for requests that wait for a job.
            JobError::ModelNotFound { .. }
            | JobError::ModelInvalid { .. }
            | JobError::ModelTooLarge { .. }
            | JobError::NonFinite { .. }
            | JobError::Device { .. }
            | JobError::OutOfMemory { .. }
            | JobError::AttemptsExhausted { .. }
            | JobError::TimedOut { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut failure = Self::new(status, error.code(), error.to_string());
        if let JobError::InvalidRequest { field, .. } = &error {
            failure.field = Some(field.clone());
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            failure.retry_after = Some(error.asked_to_wait().map_or(5, |wait| wait.as_secs() + 1));
        }
        failure
    }
}

/// By RFC 9110, which renamed two that the library has by their old names.
fn title(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNPROCESSABLE_ENTITY => "Unprocessable Content",
        StatusCode::PAYLOAD_TOO_LARGE => "Content Too Large",
        _ => status.canonical_reason().unwrap_or("Error"),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::warn!(code = %self.code, detail = self.detail, "a request failed");
        }
        let problem = Problem {
            r#type: format!("urn:acetate:error:{}", self.code),
            title: title(self.status).to_owned(),
            status: self.status.as_u16(),
            code: self.code.into_owned(),
            detail: self.detail,
            field: self.field,
            job: self.job,
        };
        let mut response = (self.status, Json(problem.clone())).into_response();
        response.extensions_mut().insert(problem);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"acetate\""));
        }
        response
    }
}
