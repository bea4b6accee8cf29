//! The files of results.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{
    api::Api,
    extract::{Id, PathParams},
    openapi::Binary,
    problem::{Answer, ApiError, Problem},
    range::download,
};
use crate::{
    database::{JobRow, Published},
    job::{FileEntry, InputRef, JobError, JobId, Manifest},
    store::{MANIFEST, ObjectKey},
};

const LARGEST_MANIFEST: u64 = 16 << 20;
/// A result is published once and never changes.
pub const FOREVER: &str = "private, max-age=31536000, immutable";

/// Get a layer as PNG
///
/// `0.png` is the whole picture as the model regenerates it, `1.png` the rearmost layer.
#[utoipa::path(get, path = "/v1/jobs/{id}/layers/{layer}", tag = "pictures", operation_id = "get_layer",
    params(("id" = JobId, Path), ("layer" = String, Path, description = "The layer's number and `.png`")),
    responses(
        (status = 200, description = "The layer as PNG", body = inline(Binary), content_type = "image/png"),
        (status = 206, description = "A part (`Range`)"),
        (status = 304, description = "Not modified (`If-None-Match`)"),
        (status = 412, description = "It is another file (`If-Match`)", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn layer(
    State(api): State<Api>,
    PathParams((id, layer)): PathParams<(String, String)>,
    headers: HeaderMap,
) -> Answer<Response> {
    let job = super::extract::job_id(&id)?;
    let layer = layer.strip_suffix(".png").and_then(|number| number.parse().ok());
    let Some(layer) = layer else {
        return Err(ApiError::bad_request("a layer is a number and .png, for instance 1.png").about("layer"));
    };
    let row = api.job(job).await?;
    let file = row.picture(&InputRef::Layer { job, layer }).map_err(missing)?;
    serve(&api, &row, file, &headers).await
}

/// Get a file of a result
///
/// Any picture by its name.
#[utoipa::path(get, path = "/v1/jobs/{id}/files/{name}", tag = "pictures", operation_id = "get_file",
    params(("id" = JobId, Path), ("name" = String, Path)),
    responses(
        (status = 200, description = "The file", body = inline(Binary), content_type = "image/png"),
        (status = 206, description = "A part (`Range`)"),
        (status = 304, description = "Not modified (`If-None-Match`)"),
        (status = 412, description = "It is another file (`If-Match`)", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn file(
    State(api): State<Api>,
    PathParams((id, name)): PathParams<(String, String)>,
    headers: HeaderMap,
) -> Answer<Response> {
    let job = super::extract::job_id(&id)?;
    let row = api.job(job).await?;
    let file = row.picture(&InputRef::File { job, file: name }).map_err(missing)?;
    serve(&api, &row, file, &headers).await
}

/// Get the manifest of a result
///
/// It lists the files, and records how they were made.
#[utoipa::path(get, path = "/v1/jobs/{id}/files/manifest.json", tag = "pictures", operation_id = "get_manifest",
    params(("id" = JobId, Path)),
    responses(
        (status = 200, description = "The manifest", body = Manifest),
        (status = 206, description = "A part (`Range`)"),
        (status = 304, description = "Not modified (`If-None-Match`)"),
        (status = 412, description = "It is another file (`If-Match`)", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn show_manifest(State(api): State<Api>, Id(id): Id, headers: HeaderMap) -> Answer<Response> {
    manifest(&api, &api.job(id).await?, &headers).await
}

async fn serve(api: &Api, row: &JobRow, file: &FileEntry, headers: &HeaderMap) -> Answer<Response> {
    let tag = format!("\"{}\"", file.sha256);
    check_match(headers, &tag)?;
    if is_known(headers, &tag) {
        return Ok(unchanged(&tag, FOREVER));
    }
    let bytes = read(api, row, file).await?;
    Ok(download(headers, bytes, "image/png", &tag, FOREVER))
}

async fn manifest(api: &Api, row: &JobRow, headers: &HeaderMap) -> Answer<Response> {
    let result = published(row)?;
    let tag = format!("\"{}-{}\"", row.id(), row.epoch);
    check_match(headers, &tag)?;
    if is_known(headers, &tag) {
        return Ok(unchanged(&tag, FOREVER));
    }
    let key = ObjectKey::parse(&result.manifest)?;
    let store = api.stores().at_root(result.root.as_deref())?;
    match store.get(&key, LARGEST_MANIFEST).await {
        Ok(bytes) => Ok(download(headers, bytes, "application/json", &tag, FOREVER)),
        Err(error) => Err(gone_or(error, store.exists(&key).await?, MANIFEST)),
    }
}

pub fn published(row: &JobRow) -> Answer<&Published> {
    row.published
        .as_ref()
        .ok_or_else(|| ApiError::not_found(format!("job {} is {}; it has no result", row.id(), row.state)))
}

/// The bytes of a file of a result.
pub async fn read(api: &Api, row: &JobRow, file: &FileEntry) -> Answer<Vec<u8>> {
    let result = published(row)?;
    let key = ObjectKey::parse(&result.manifest)?.sibling(&file.name)?;
    let store = api.stores().at_root(result.root.as_deref())?;
    match store.get(&key, file.size).await {
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(gone_or(error, store.exists(&key).await?, &file.name)),
    }
}

/// The error for a file that a result does not have.
pub fn missing(error: JobError) -> ApiError {
    ApiError::not_found(error.to_string())
}

fn gone_or(error: JobError, exists: bool, name: &str) -> ApiError {
    if exists {
        return error.into();
    }
    ApiError::new(StatusCode::GONE, "gone", format!("{name} is no longer in the store; run the job again"))
}

/// Refuses a request that is only for another content than this (`If-Match`). A weak tag never proves that it is the
/// same.
pub fn check_match(headers: &HeaderMap, tag: &str) -> Answer<()> {
    let mut given = headers.get_all(header::IF_MATCH).iter().peekable();
    if given.peek().is_none() {
        return Ok(());
    }
    let is_wanted = |known: &str| known.trim() == "*" || known.trim() == tag;
    if given.filter_map(|value| value.to_str().ok()).flat_map(|line| line.split(',')).any(is_wanted) {
        return Ok(());
    }
    let detail = format!("the file is {tag} now, and not what If-Match names");
    Err(ApiError::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", detail).about("If-Match"))
}

/// Whether the client already has the content with this tag.
pub fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let given = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    given.flat_map(|line| line.split(',')).any(|known| {
        let known = known.trim();
        known == "*" || known.trim_start_matches("W/") == tag
    })
}

pub fn unchanged(tag: &str, lasts: &'static str) -> Response {
    (StatusCode::NOT_MODIFIED, tags(tag, lasts)).into_response()
}

pub fn fresh(
    bytes: impl Into<axum::body::Bytes>,
    media_type: &'static str,
    tag: &str,
    lasts: &'static str,
) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static(media_type))], tags(tag, lasts), bytes.into()).into_response()
}

fn tags(tag: &str, lasts: &'static str) -> [(header::HeaderName, HeaderValue); 2] {
    let tag = HeaderValue::from_str(tag).unwrap_or(HeaderValue::from_static("\"\""));
    [(header::ETAG, tag), (header::CACHE_CONTROL, HeaderValue::from_static(lasts))]
}
