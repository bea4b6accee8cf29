//! For requests that wait for their jobs: submits them, waits for their end, and cancels them if the client closes the
//! connection.

use std::time::Duration;

use axum::http::StatusCode;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use super::{
    api::Api,
    jobs::{IdempotencyKey, InputBody, SubmitBody, job_request},
    problem::{Answer, ApiError},
    view::InputView,
    watch::Watched,
};
use crate::{
    database::JobRow,
    job::{ErrorClass, FileEntry, JobId, JobKind, JobState},
};

/// A client is waiting, so these jobs go before others.
const PRIORITY: u8 = 5;
/// How often the row is read directly, in case the shared query misses a change.
const RECHECK_EVERY: Duration = Duration::from_secs(10);
/// The longest time that can be told to the runtime.
const ENDLESS: Duration = Duration::from_secs(365 * 24 * 3600);

/// How to wait.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wait<'a> {
    /// None: until the jobs end.
    pub most: Option<Duration>,
    /// The `Idempotency-Key` of the request. Its sender may come back for the same jobs, so they are not cancelled when
    /// it leaves.
    pub key: Option<&'a IdempotencyKey>,
}

/// A job for a client that waits.
pub fn submission(
    kind: JobKind,
    images: Vec<InputView>,
    params: serde_json::Map<String, serde_json::Value>,
) -> SubmitBody {
    SubmitBody {
        not_before: None,
        reuse: false,
        version: None,
        id: None,
        kind,
        input: InputBody { from: None, image: None, images, mask: None },
        output: None,
        params,
        labels: Default::default(),
        priority: PRIORITY,
        batch: None,
        webhook: None,
    }
}

/// Submits jobs and waits until all of them have succeeded. If one fails, the others are cancelled.
pub async fn done(api: &Api, bodies: Vec<SubmitBody>, wait: Wait<'_>) -> Answer<Vec<JobRow>> {
    let _long = api.long_request()?;
    let deadline = Instant::now() + wait.most.unwrap_or(ENDLESS);
    let mut requests = Vec::with_capacity(bodies.len());
    for (index, body) in bodies.into_iter().enumerate() {
        requests.push(job_request(api, body, wait.key.map(|key| key.nth(index))).await?);
    }
    let mut caller = WaitingClient { api: api.clone(), jobs: Vec::new(), comes_back: wait.key.is_some() };
    for (request, options) in &requests {
        api.accept(request, options).await?;
        caller.jobs.push(request.id);
    }
    let mut rows = Vec::with_capacity(requests.len());
    for (request, _) in &requests {
        let row = tokio::select! {
            row = ended(api, request.id) => row?,
            () = sleep_until(deadline) => {
                let late = too_long(&caller.jobs, wait.most.unwrap_or(ENDLESS));
                caller.has_stayed();
                return Err(late);
            }
        };
        match row.state {
            JobState::Succeeded => rows.push(row),
            _ => return Err(failed(&row)),
        }
    }
    caller.has_stayed();
    Ok(rows)
}

fn too_long(jobs: &[JobId], most: Duration) -> ApiError {
    let paths: Vec<_> = jobs.iter().map(|job| format!("/v1/jobs/{job}")).collect();
    let detail = format!(
        "not ready within {} s (http.wait_seconds); the work goes on: get the result from {}, or submit with POST \
         /v1/jobs, which does not wait",
        most.as_secs_f64(),
        paths.join(", ")
    );
    let late = ApiError::new(StatusCode::GATEWAY_TIMEOUT, "too_slow", detail);
    match jobs.first() {
        Some(job) => late.of_job(*job),
        None => late,
    }
}

async fn ended(api: &Api, id: JobId) -> Answer<JobRow> {
    let mut states = api.watch.follow(id);
    let stopping = || {
        let detail = "the server is shutting down; the job continues when it is back, see /v1/jobs";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail).of_job(id).later(5)
    };
    loop {
        // Read directly: the first snapshot may be old, and a job that has ended does not change any more.
        match api.jobs().get(id).await {
            Ok(Some(row)) if row.state.is_terminal() => return Ok(row),
            Ok(Some(_)) => {}
            Ok(None) => return Err(ApiError::no_job(id)),
            // The wait is longer than most outages.
            Err(error) => warn!(%error, job = %id, "could not read a job that a client waits for"),
        }
        let recheck = sleep(RECHECK_EVERY);
        tokio::pin!(recheck);
        loop {
            tokio::select! {
                _ = states.changed() => {}
                () = &mut recheck => break,
                () = api.parts.stop.cancelled() => return Err(stopping()),
            }
            let state = states.borrow_and_update().clone();
            match state {
                Watched::Row(row) if row.state.is_terminal() => return Ok((*row).clone()),
                Watched::Gone => return Err(ApiError::no_job(id)),
                Watched::Row(_) | Watched::Unknown => {}
            }
        }
    }
}

/// A waiting client. If it is dropped before the end, as when a connection breaks, it cancels the jobs.
struct WaitingClient {
    api: Api,
    jobs: Vec<JobId>,
    comes_back: bool,
}

impl WaitingClient {
    fn has_stayed(mut self) {
        self.jobs.clear();
    }
}

impl Drop for WaitingClient {
    fn drop(&mut self) {
        // When the server stops, the jobs stay queued.
        if self.comes_back || self.jobs.is_empty() || self.api.parts.stop.is_cancelled() {
            return;
        }
        let (api, jobs) = (self.api.clone(), std::mem::take(&mut self.jobs));
        tokio::spawn(async move {
            for job in jobs {
                match api.cancel(job).await {
                    Ok(_) => info!(%job, "cancelled, because the client does not wait for it"),
                    Err(error) => {
                        warn!(%job, %error, "the client does not wait, but the job could not be cancelled");
                    }
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
