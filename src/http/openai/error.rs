//! Errors in the form of the OpenAI API, whatever part of the server they come from.

use axum::{
    Json,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::problem::Problem;

/// The OpenAI API's paths on this server.
const PATHS: &str = "/v1/images/";

/// An error, as in the OpenAI API.
#[derive(Debug, Serialize, ToSchema)]
pub struct OpenAiError {
    error: ErrorBody,
}

#[derive(Debug, Serialize, ToSchema)]
struct ErrorBody {
    /// What is wrong, where, and what is valid.
    message: String,
    /// `invalid_request_error`, `rate_limit_error` or `server_error`.
    r#type: &'static str,
    /// The invalid parameter.
    param: Option<String>,
    code: String,
}

/// Rewrites the problems of these paths.
pub async fn errors(request: Request, next: Next) -> Response {
    let is_openai = request.uri().path().starts_with(PATHS);
    let mut response = next.run(request).await;
    if !is_openai {
        return response;
    }
    let Some(problem) = response.extensions_mut().remove::<Problem>() else { return response };
    let (mut parts, _) = response.into_parts();
    // Their clients expect 400 for an invalid parameter.
    if parts.status == StatusCode::UNPROCESSABLE_ENTITY {
        parts.status = StatusCode::BAD_REQUEST;
    }
    let error = ErrorBody {
        message: problem.detail,
        r#type: match parts.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        },
        param: problem.field.map(parameter),
        code: match problem.code.as_str() {
            "unauthorized" => "invalid_api_key".to_owned(),
            _ => problem.code,
        },
    };
    // The clients repeat requests after most errors. Another job like one that failed would fail, too.
    if problem.job.is_some() && parts.status != StatusCode::SERVICE_UNAVAILABLE {
        parts.headers.insert("x-should-retry", HeaderValue::from_static("false"));
    }
    parts.headers.remove(header::CONTENT_TYPE);
    parts.headers.remove(header::CONTENT_LENGTH);
    let mut response = Json(OpenAiError { error }).into_response();
    *response.status_mut() = parts.status;
    let kind = response.headers_mut().remove(header::CONTENT_TYPE);
    *response.headers_mut() = parts.headers;
    if let Some(kind) = kind {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response.extensions_mut().extend(parts.extensions);
    response
}

/// The OpenAI API's name for a field of a job.
fn parameter(field: String) -> String {
    match field.as_str() {
        "params.instruction" => "prompt".to_owned(),
        "input" => "image".to_owned(),
        _ => field.strip_prefix("params.").map_or_else(|| field.clone(), str::to_owned),
    }
}
