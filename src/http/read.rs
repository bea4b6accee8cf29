//! Reading the parts of a request: what cannot be read is a problem like any other.

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;

use super::problem::Failure;
use crate::job::{JobError, JobId};

/// The `{id}` of a path.
pub struct Id(pub JobId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let In(names) = In::<std::collections::HashMap<String, String>>::from_request_parts(parts, state).await?;
        let text = names.get("id").map(String::as_str).unwrap_or_default();
        job_id(text).map(Self)
    }
}

pub fn job_id(text: &str) -> Result<JobId, Failure> {
    text.parse().map_err(|error: JobError| Failure::bad_request(error.to_string()).about("id"))
}

/// Names in a path.
pub struct In<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for In<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(names)) => Ok(Self(names)),
            Err(rejection) => Err(Failure::bad_request(format!("the path cannot be read: {}", rejection.body_text()))),
        }
    }
}

/// Parameters after the `?`.
pub struct Asked<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(asked)) => Ok(Self(asked)),
            Err(rejection) => Err(Failure::bad_request(rejection.body_text())),
        }
    }
}

/// A JSON body of at most `MOST` bytes.
pub struct Json<T, const MOST: usize>(pub T);

impl<S: Send + Sync, T: DeserializeOwned, const MOST: usize> FromRequest<S> for Json<T, MOST> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let (parts, body) = request.into_parts();
        if !is_json(&parts.headers) {
            return Err(unsupported("application/json"));
        }
        let bytes = whole(&parts.headers, body, MOST as u64).await?;
        parse(&bytes).map(Self)
    }
}

pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| {
        let status = if error.is_data() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::BAD_REQUEST };
        let code = if error.is_data() { "invalid_request" } else { "bad_request" };
        Failure::new(status, code, format!("the JSON cannot be read: {error}"))
    })
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

pub fn unsupported(wanted: &str) -> Failure {
    let detail = format!("the body's Content-Type must be {wanted}");
    Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail).about("Content-Type")
}

/// A body of at most `most` bytes; one that says that it has more is not read.
pub async fn whole(headers: &HeaderMap, body: Body, most: u64) -> Result<Bytes, Failure> {
    announced(headers, most)?;
    let mut bytes = Vec::new();
    let mut stream = body.into_data_stream();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|_| Failure::bad_request("the body broke off"))?;
        if (bytes.len() + piece.len()) as u64 > most {
            return Err(too_large(most));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.into())
}

/// Refuses a body by its `Content-Length`.
pub fn announced(headers: &HeaderMap, most: u64) -> Result<(), Failure> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    match length.and_then(|length| length.parse::<u64>().ok()) {
        Some(length) if length > most => Err(too_large(most)),
        _ => Ok(()),
    }
}

pub fn too_large(most: u64) -> Failure {
    Failure::too_large(format!("the request has more than {most} bytes"))
}
