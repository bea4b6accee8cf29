//! Submits a job, waits for its end, and cancels it if the client closes the connection.

use std::time::Duration;

use axum::http::StatusCode;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

use crate::{
    database::JobRow,
    http::{
        api::Api,
        jobs::{InputBody, SubmitBody, compose, keep},
        problem::{Answer, ApiError},
        view::InputView,
        watch::Watched,
    },
    job::{ErrorClass, FileEntry, JobError, JobId, JobKind, JobState},
};

/// A client is waiting, so these jobs go before others.
const PRIORITY: u8 = 5;
/// How often the row is read directly, in case the shared query misses a change.
const LOOK: Duration = Duration::from_secs(10);

/// Submits a job and waits until it has succeeded.
pub async fn done(api: &Api, kind: JobKind, image: &str, params: Value) -> Answer<JobRow> {
    let bytes = from_data_url(image)?;
    let image = keep(api, "image", bytes).await?;
    // Missing parameters have the server's defaults.
    let said = |(name, value): (String, Value)| (!value.is_null()).then_some((name, value));
    let params: Map<String, Value> = match params {
        Value::Object(params) => params.into_iter().filter_map(said).collect(),
        _ => Map::new(),
    };
    let body = submission(kind, image, params);
    let (request, options) = compose(api, body, None).await?;
    api.accept(&request, &options).await?;
    let caller = Caller { api: api.clone(), job: Some(request.id) };
    let row = ended(api, request.id, api.watch.follow(request.id)).await?;
    caller.has_stayed();
    match row.state {
        JobState::Succeeded => Ok(row),
        _ => Err(failed(&row)),
    }
}

fn submission(kind: JobKind, image: InputView, params: Map<String, Value>) -> SubmitBody {
    SubmitBody {
        not_before: None,
        version: None,
        id: None,
        kind,
        input: InputBody { image: Some(image), images: Vec::new() },
        output: None,
        params,
        labels: Default::default(),
        priority: PRIORITY,
        batch: None,
        webhook: None,
    }
}

async fn ended(api: &Api, id: JobId, mut looks: tokio::sync::watch::Receiver<Watched>) -> Answer<JobRow> {
    let stopping = || {
        let detail = "the server is shutting down; the job continues when it is back, see /v1/jobs";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail).of_job(id).later(5)
    };
    loop {
        tokio::select! {
            _ = looks.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
            () = api.parts.stop.cancelled() => return Err(stopping()),
        }
        let look = looks.borrow_and_update().clone();
        match look {
            Watched::Row(row) if row.state.is_terminal() => return Ok((*row).clone()),
            Watched::Gone => return Err(ApiError::no_job(id)),
            Watched::Row(_) | Watched::Unknown => {}
        }
    }
}

/// A waiting client. If it is dropped before the end, as when a connection breaks, it cancels the job.
struct Caller {
    api: Api,
    job: Option<JobId>,
}

impl Caller {
    fn has_stayed(mut self) {
        self.job = None;
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        // When the server stops, the job stays queued.
        let Some(job) = self.job.take().filter(|_| !self.api.parts.stop.is_cancelled()) else { return };
        let api = self.api.clone();
        tokio::spawn(async move {
            match api.cancel(job).await {
                Ok(_) => tracing::info!(%job, "cancelled, because the client closed the connection"),
                Err(error) => {
                    tracing::warn!(%job, %error, "the client closed the connection, but the job could not be cancelled");
                }
            }
        });
    }
}

fn failed(row: &JobRow) -> ApiError {
    let (code, message) = row.error.as_ref().map_or(("cancelled", "cancelled"), |error| (&error.code, &error.message));
    let status = match (row.state, row.error.as_ref().map(|error| error.class)) {
        (JobState::Cancelled, _) => StatusCode::CONFLICT,
        (_, Some(ErrorClass::Invalid)) if !code.starts_with("model_") && code != "attempts_exhausted" => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    ApiError::new(status, code.to_owned(), message).of_job(row.id())
}

pub fn files_of(row: &JobRow) -> &[FileEntry] {
    row.published.as_ref().map(|result| result.files.as_slice()).unwrap_or_default()
}

/// Also accepts base64 without the data URL's prefix.
fn from_data_url(text: &str) -> Answer<Vec<u8>> {
    let wrong = |reason: &str| ApiError::from(JobError::invalid("image", reason));
    let base64 = match text.strip_prefix("data:") {
        Some(rest) => match rest.split_once(',') {
            Some((kind, data)) if kind.ends_with(";base64") => data,
            _ => return Err(wrong("is a data URL without ;base64; write data:image/png;base64,...")),
        },
        None => text,
    };
    STANDARD.decode(base64.trim()).map_err(|_| wrong("is not base64; write data:image/png;base64,..."))
}

pub fn data_url(png: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(png))
}
