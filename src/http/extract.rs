//! Reads the parts of a request; invalid parts become problems like any other error.

use std::{error::Error as _, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, Path, Query, Request, path::ErrorKind, rejection::PathRejection},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use futures_util::{StreamExt, stream};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::{jobs::is_full, listen::is_too_slow, problem::ApiError};
use crate::job::{JobError, JobId, JsonError, object_from_slice, value_from_slice};

const TIMEOUT: Duration = Duration::from_secs(20);
const MOST_SWALLOWED: usize = 2 << 30;

/// The `{id}` of a path.
pub struct Id(pub JobId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let PathParams(names) =
            PathParams::<std::collections::HashMap<String, String>>::from_request_parts(parts, state).await?;
        let text = names.get("id").map(String::as_str).unwrap_or_default();
        job_id(text).map(Self)
    }
}

pub fn job_id(text: &str) -> Result<JobId, ApiError> {
    text.parse().map_err(|error: JobError| ApiError::bad_request(error.to_string()).about("id"))
}

/// Names in a path.
pub struct PathParams<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for PathParams<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(names)) => Ok(Self(names)),
            Err(rejection) => Err(wrong_path(&rejection)),
        }
    }
}

/// What the library says names its own types.
fn wrong_path(rejection: &PathRejection) -> ApiError {
    let key = match rejection {
        PathRejection::FailedToDeserializePathParams(failed) => match failed.kind() {
            ErrorKind::InvalidUtf8InPathParam { key } => Some(key.clone()),
            _ => None,
        },
        _ => None,
    };
    match key {
        Some(key) => {
            ApiError::bad_request(format!("{key}: the path is not UTF-8 there; write it as UTF-8, with %XX")).about(key)
        }
        None => ApiError::bad_request("the path is not one of this server; /openapi.json has all of them"),
    }
}

/// Parameters after the `?`.
#[derive(Debug, Default)]
pub struct QueryParams<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for QueryParams<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(asked)) => Ok(Self(asked)),
            Err(rejection) => Err(wrong_query(rejection.source().map(ToString::to_string).unwrap_or_default())),
        }
    }
}

/// What serde says about a parameter, in words. It names the parameter where it can.
fn wrong_query(said: String) -> ApiError {
    let is_name =
        |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let (mut name, said) = match said.split_once(": ") {
        Some((name, reason)) if is_name(name) => (Some(name.to_owned()), reason.to_owned()),
        _ => (None, said),
    };
    let quoted = |start: &str| said.strip_prefix(start)?.split_once('`').map(|(name, rest)| (name.to_owned(), rest));
    let reason = if let Some((unknown, rest)) = quoted("unknown field `") {
        let known = rest.rsplit_once("expected ").map_or("", |(_, known)| known.trim_start_matches("one of "));
        name = Some(unknown);
        match known {
            "" | "there are no fields" => "is not a parameter of this path, which has none".to_owned(),
            known => format!("is not a parameter of this path, which has {known}"),
        }
    } else if let Some((given, rest)) = quoted("unknown variant `") {
        let known = rest.rsplit_once("expected ").map_or("", |(_, known)| known.trim_start_matches("one of "));
        format!("`{given}` is not one of {known}")
    } else if let Some((twice, _)) = quoted("duplicate field `") {
        name = Some(twice);
        "is given twice".to_owned()
    } else if let Some((missing, _)) = quoted("missing field `") {
        name = Some(missing);
        "is missing".to_owned()
    } else {
        match said.as_str() {
            "invalid digit found in string" => "is not a whole number, 0 or more".to_owned(),
            "cannot parse integer from empty string" => "is empty; give a whole number".to_owned(),
            "number too large to fit in target type" => "is too large a number".to_owned(),
            "invalid float literal" | "cannot parse float from empty string" => "is not a number".to_owned(),
            "provided string was not `true` or `false`" => "is not true or false".to_owned(),
            said => said.to_owned(),
        }
    };
    match name {
        Some(name) => ApiError::bad_request(format!("{name}: {reason}")).about(name),
        None => ApiError::bad_request(format!("the parameters after the ? are invalid: {reason}")),
    }
}

/// A JSON body of at most `MOST` bytes.
pub struct Json<T, const MOST: usize>(pub T);

impl<S: Send + Sync, T: DeserializeOwned, const MOST: usize> FromRequest<S> for Json<T, MOST> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        if !is_json(&parts.headers) {
            return Err(unsupported("application/json"));
        }
        let bytes = whole(&parts.headers, body, MOST as u64).await?;
        parse(&bytes).map(Self)
    }
}

/// Reads a JSON object with named fields.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    object_from_slice(bytes).map_err(ApiError::from)
}

/// Reads any JSON value of a form.
pub fn parse_value(bytes: &[u8]) -> Result<serde_json::Value, ApiError> {
    value_from_slice(bytes).map_err(ApiError::from)
}

impl From<JsonError> for ApiError {
    fn from(error: JsonError) -> Self {
        match error {
            JsonError::Syntax(reason) => Self::bad_request(format!("the body {reason}")),
            JsonError::Data { field, reason } => {
                let colon = if field.is_empty() { "" } else { ": " };
                let detail = format!("the JSON is invalid: {field}{colon}{reason}");
                let invalid = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_request", detail);
                if field.is_empty() { invalid } else { invalid.about(field) }
            }
        }
    }
}

pub fn is_json(headers: &HeaderMap) -> bool {
    let essence = media_type(headers);
    essence == "application/json" || essence.starts_with("application/") && essence.ends_with("+json")
}

/// The `Content-Type` without its parameters.
pub fn media_type(headers: &HeaderMap) -> String {
    let whole = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    whole.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The `charset` of a `Content-Type`, if it is not UTF-8 or a part of it.
pub fn other_charset(headers: &HeaderMap) -> Option<String> {
    let whole = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let parameters = whole.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let charset = parameters.filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset")).map(|(_, value)| value);
    let unquoted = |value: &str| value.trim().trim_matches(['"', '\'']).to_ascii_lowercase();
    charset.map(unquoted).find(|charset| !matches!(charset.as_str(), "utf-8" | "utf8" | "us-ascii" | "ascii" | ""))
}

pub fn unsupported(wanted: &str) -> ApiError {
    let detail = format!("the body's Content-Type must be {wanted}");
    ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail).about("Content-Type")
}

/// Reads a body of at most `most` bytes; a body with a larger `Content-Length` is not read.
pub async fn whole(headers: &HeaderMap, body: Body, most: u64) -> Result<Bytes, ApiError> {
    if let Err(failure) = announced(headers, most) {
        swallow(body);
        return Err(failure);
    }
    let mut bytes = Vec::new();
    let mut stream = body.into_data_stream();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|error| broken_body(&error))?;
        if (bytes.len() + piece.len()) as u64 > most {
            swallow(Body::from_stream(stream));
            return Err(too_large(most));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.into())
}

/// The error for a body that does not arrive.
fn broken_body(error: &(dyn std::error::Error + 'static)) -> ApiError {
    if let Some(detail) = is_full(error) {
        return too_many(detail);
    }
    match is_too_slow(error) {
        Some(detail) => too_slow(detail),
        None => ApiError::bad_request("the body ended early"),
    }
}

pub fn too_many(detail: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail).later(5)
}

pub fn too_slow(detail: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "too_slow", detail)
}

/// Discards the rest of a body for a while: a client that is still sending sees the response only if the server keeps
/// reading.
pub fn swallow(body: Body) {
    tokio::spawn(tokio::time::timeout(TIMEOUT, async move {
        let mut stream = body.into_data_stream();
        let mut seen = 0;
        while let Some(Ok(piece)) = stream.next().await {
            seen += piece.len();
            if seen > MOST_SWALLOWED {
                return;
            }
        }
    }));
}

/// Like [`swallow`], for a body with a reader: if the reader stops early, the rest is discarded.
pub fn discard_rest(body: Body) -> Body {
    let (hand, taken) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut stream = body.into_data_stream();
        while let Some(piece) = stream.next().await {
            let broken = piece.is_err();
            if hand.send(piece).await.is_err() {
                swallow(Body::from_stream(stream));
                return;
            }
            if broken {
                return;
            }
        }
    });
    Body::from_stream(stream::unfold(taken, |mut taken| async move { Some((taken.recv().await?, taken)) }))
}

/// Refuses a body by its `Content-Length`.
pub fn announced(headers: &HeaderMap, most: u64) -> Result<(), ApiError> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    match length.and_then(|length| length.parse::<u64>().ok()) {
        Some(length) if length > most => Err(too_large(most)),
        _ => Ok(()),
    }
}

pub fn too_large(most: u64) -> ApiError {
    ApiError::too_large(format!("the request is larger than {most} bytes"))
}
