//! Thumbnails for the web UI: made once, and kept in memory while there is room.

use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::{body::Bytes, extract::State, http::HeaderMap, response::Response};
use lru::LruCache;
use serde::Deserialize;
use tokio::sync::Semaphore;
use utoipa::IntoParams;

use super::{
    api::Api,
    extract::{PathParams, QueryParams},
    files::{self, FOREVER, check_match, fresh, is_known, missing, unchanged},
    openapi::Binary,
    problem::{Answer, ApiError, Problem},
};
use crate::{
    database::JobRow,
    image,
    job::{InputRef, JobError, JobId, Placement},
};

/// The longer sides, in pixels: only a few, so that clients cannot fill the memory with many.
const SIZES: [u32; 4] = [96, 256, 640, 1280];
const USUAL: u32 = 256;
/// The maximum number of bytes that are kept in memory.
const ROOM: usize = 64 << 20;
/// How many are made at a time. The limit leaves the CPU for other work.
const AT_A_TIME: usize = 2;
/// An address may have another picture later.
const A_WHILE: &str = "private, max-age=3600";

type ThumbnailKey = (JobId, String, u32);

pub struct Thumbnails {
    kept: Mutex<CachedThumbnails>,
    making: Semaphore,
}

struct CachedThumbnails {
    pictures: LruCache<ThumbnailKey, Bytes>,
    bytes: usize,
}

impl Default for Thumbnails {
    fn default() -> Self {
        let kept = CachedThumbnails { pictures: LruCache::unbounded(), bytes: 0 };
        Self { kept: Mutex::new(kept), making: Semaphore::new(AT_A_TIME) }
    }
}

impl Thumbnails {
    fn get(&self, key: &ThumbnailKey) -> Option<Bytes> {
        self.lock().pictures.get(key).cloned()
    }

    fn put(&self, key: ThumbnailKey, picture: Bytes) {
        let mut kept = self.lock();
        kept.bytes += picture.len();
        if let Some(before) = kept.pictures.put(key, picture) {
            kept.bytes -= before.len();
        }
        while kept.bytes > ROOM
            && let Some((_, oldest)) = kept.pictures.pop_lru()
        {
            kept.bytes -= oldest.len();
        }
    }

    /// Removes the thumbnails of a deleted job.
    pub fn forget(&self, job: JobId) {
        let mut kept = self.lock();
        let gone: Vec<ThumbnailKey> =
            kept.pictures.iter().map(|(key, _)| key).filter(|key| key.0 == job).cloned().collect();
        for key in gone {
            if let Some(picture) = kept.pictures.pop(&key) {
                kept.bytes -= picture.len();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, CachedThumbnails> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ThumbnailSize {
    /// The maximum length of the longer side: 96, 256, 640 or 1280 pixels. Default: 256.
    size: Option<u32>,
}

/// Get a thumbnail of a picture
///
/// `name` is a file of the result, or one of the job's inputs: `input-0.png`, `input-1.png`, ...
#[utoipa::path(get, path = "/v1/jobs/{id}/thumbnails/{name}", tag = "pictures", operation_id = "get_thumbnail",
    params(("id" = JobId, Path), ("name" = String, Path), ThumbnailSize),
    responses(
        (status = 200, description = "The thumbnail as PNG", body = inline(Binary), content_type = "image/png"),
        (status = 304, description = "Not modified (`If-None-Match`)"),
        (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn thumbnail(
    State(api): State<Api>,
    PathParams((id, name)): PathParams<(String, String)>,
    QueryParams(asked): QueryParams<ThumbnailSize>,
    headers: HeaderMap,
) -> Answer<Response> {
    let size = asked.size.unwrap_or(USUAL);
    if !SIZES.contains(&size) {
        return Err(ApiError::bad_request(format!("size: {size} is not 96, 256, 640 or 1280")).about("size"));
    }
    let row = api.job(super::extract::job_id(&id)?).await?;
    let input = name.strip_prefix("input-").and_then(|rest| rest.strip_suffix(".png")?.parse::<usize>().ok());
    match input {
        Some(index) => of_input(&api, &row, index, size, &headers).await,
        None => of_output(&api, &row, name, size, &headers).await,
    }
}

async fn of_output(api: &Api, row: &JobRow, name: String, size: u32, headers: &HeaderMap) -> Answer<Response> {
    let file = row.picture(&InputRef::File { job: row.id(), file: name }).map_err(missing)?;
    let tag = format!("\"{}-{size}\"", file.sha256);
    check_match(headers, &tag)?;
    if is_known(headers, &tag) {
        return Ok(unchanged(&tag, FOREVER));
    }
    let key = (row.id(), file.name.clone(), size);
    if let Some(picture) = api.thumbnails.get(&key) {
        return Ok(fresh(picture, "image/png", &tag, FOREVER));
    }
    let _turn = api.thumbnails.making.acquire().await;
    let bytes = files::read(api, row, file).await?;
    let picture = make(api, key, bytes, file.placement).await?;
    Ok(fresh(picture, "image/png", &tag, FOREVER))
}

async fn of_input(api: &Api, row: &JobRow, index: usize, size: u32, headers: &HeaderMap) -> Answer<Response> {
    let Some(input) = row.request.inputs.iter().nth(index) else {
        let given = row.request.inputs.len();
        return Err(ApiError::not_found(format!("job {} has {given} input pictures", row.id())));
    };
    let tag = format!("\"{}-{index}-{size}\"", row.id());
    check_match(headers, &tag)?;
    if is_known(headers, &tag) {
        return Ok(unchanged(&tag, A_WHILE));
    }
    let key = (row.id(), format!("input-{index}.png"), size);
    if let Some(picture) = api.thumbnails.get(&key) {
        return Ok(fresh(picture, "image/png", &tag, A_WHILE));
    }
    let _turn = api.thumbnails.making.acquire().await;
    let (bytes, placement) = input_bytes(api, input).await?;
    let picture = make(api, key, bytes, placement).await?;
    Ok(fresh(picture, "image/png", &tag, A_WHILE))
}

/// A job's input, with the place of a trimmed layer, if it is in the store: nothing is fetched from the web for a
/// thumbnail.
async fn input_bytes(api: &Api, input: &InputRef) -> Answer<(Vec<u8>, Option<Placement>)> {
    match input {
        InputRef::Url(url) if url.starts_with("http") => {
            Err(ApiError::not_found("the picture is from the web and is not stored"))
        }
        InputRef::Url(url) => {
            let read = api.stores().inputs().read(url, api.settings().limits.max_bytes).await;
            read.map(|bytes| (bytes, None)).map_err(|error| match error {
                JobError::InputNotFound { .. } | JobError::InputForbidden { .. } => missing(error),
                other => other.into(),
            })
        }
        InputRef::Layer { job, .. } | InputRef::File { job, .. } => {
            let row = api.job(*job).await?;
            let file = row.picture(input).map_err(missing)?;
            Ok((files::read(api, &row, file).await?, file.placement))
        }
    }
}

async fn make(api: &Api, key: ThumbnailKey, bytes: Vec<u8>, placement: Option<Placement>) -> Answer<Bytes> {
    let (limits, name, size) = (api.settings().limits, key.1.clone(), key.2);
    let made = tokio::task::spawn_blocking(move || image::thumbnail(&name, &bytes, placement, &limits, size)).await;
    let picture = match made {
        Ok(made) => Bytes::from(made?),
        Err(_) => return Err(JobError::InvalidImage { input: key.1, reason: "cannot be resized".to_owned() }.into()),
    };
    api.thumbnails.put(key, picture.clone());
    Ok(picture)
}
