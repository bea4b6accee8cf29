//! `GET /v1/jobs/{id}/events`: a job's changes, as server-sent events.
//!
//! Every event has the job's current state, so a client that reconnects misses nothing that still matters. Its id is
//! the time of the row's last change in milliseconds, incremented if two changes have the same time: it increases on
//! every server of a service without storing events.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{Stream, stream};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, watch};
use utoipa::ToSchema;

use crate::{
    database::JobRow,
    http::{
        api::Api,
        extract::Id,
        metrics::Watcher,
        problem::{Answer, Problem},
        view::JobView,
        watch::Watched,
    },
    job::{JobId, JobState, Progress},
};

const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The data of a `progress` event; a `state` event has the whole job.
#[derive(Debug, Serialize, ToSchema)]
pub struct StateEvent {
    id: JobId,
    state: JobState,
    attempts: u32,
    progress: Option<Progress>,
    /// Seconds since the attempt started.
    seconds: Option<f64>,
}

/// Watch a job
///
/// Sends a `state` event with the whole job when its state changes, and `progress` events in between. The stream ends
/// with the job.
#[utoipa::path(get, path = "/v1/jobs/{id}/events", tag = "jobs", operation_id = "watch_job",
    params(("id" = JobId, Path), ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event received")),
    responses(
        (status = 200, description = "The event stream", body = String, content_type = "text/event-stream"),
        (status = 204, description = "The job has ended, and the client has its last event"),
        (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn events(State(api): State<Api>, Id(id): Id, headers: HeaderMap) -> Answer<Response> {
    let states = api.watch.follow(id);
    let row = api.job(id).await?;
    // An id that is not a number is ignored.
    let last: Option<i64> = headers.get("last-event-id").and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let newer = last.is_none_or(|last| row.updated_at.as_millisecond() > last);
    if row.state.is_terminal() && !newer {
        // An EventSource does not reconnect after this status.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let long = api.long_request()?;
    let reader = EventReader {
        told: if newer { None } else { Some(Arc::new(row.clone())) },
        next: newer.then(|| Arc::new(row)),
        // The database's clock may have been set back since.
        id: last.unwrap_or_default(),
        states,
        api,
        _long: long,
        _counted: Watcher::default(),
    };
    let events = Sse::new(reader.into_stream()).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive"));
    // A proxy that buffers responses would hold back all events.
    Ok(([("x-accel-buffering", "no")], events).into_response())
}

struct EventReader {
    api: Api,
    states: watch::Receiver<Watched>,
    /// The event to send next.
    next: Option<Arc<JobRow>>,
    told: Option<Arc<JobRow>>,
    /// The id of the last event.
    id: i64,
    _long: OwnedSemaphorePermit,
    _counted: Watcher,
}

impl EventReader {
    fn into_stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut reader| async move {
            let event = reader.event().await?;
            Some((Ok(event), reader))
        })
    }

    /// The next event; none after the last one, if the job is deleted, or if the server stops.
    async fn event(&mut self) -> Option<Event> {
        if self.told.as_ref().is_some_and(|row| row.state.is_terminal()) {
            return None;
        }
        let row = match self.next.take() {
            Some(row) => row,
            None => self.change().await?,
        };
        self.id = row.updated_at.as_millisecond().max(self.id + 1);
        let event = Event::default().id(self.id.to_string());
        let event = if self.told.as_ref().is_some_and(|told| same_state(told, &row)) {
            let progress = StateEvent {
                id: row.id(),
                state: row.state,
                attempts: row.attempts,
                progress: row.progress,
                seconds: Api::seconds(&row).map(|seconds| (seconds * 1e3).round() / 1e3),
            };
            event.event("progress").json_data(&progress)
        } else {
            event.event("state").json_data(self.whole(&row).await)
        };
        self.told = Some(row);
        event.ok()
    }

    /// The job with its attempts, as if it was requested. Without them if they cannot be read: the stream goes on.
    async fn whole(&self, row: &JobRow) -> JobView {
        let view = JobView::new(row, &self.api);
        match self.api.jobs().get_with_attempts(row.id()).await {
            Ok(Some((_, attempts))) => view.with_history(attempts),
            Ok(None) | Err(_) => view,
        }
    }

    /// Waits until the row has changed since the last event.
    async fn change(&mut self) -> Option<Arc<JobRow>> {
        loop {
            let stop = self.api.parts.stop.clone();
            tokio::select! {
                changed = self.states.changed() => changed.ok()?,
                () = stop.cancelled() => return None,
            }
            let state = self.states.borrow_and_update().clone();
            match state {
                Watched::Unknown => {}
                Watched::Gone => return None,
                Watched::Row(row) => match &self.told {
                    // This snapshot is older than the client's.
                    Some(told) if row.updated_at < told.updated_at => {}
                    Some(told) if same_state(told, &row) && told.progress == row.progress => {}
                    _ => return Some(row),
                },
            }
        }
    }
}

/// Whether only the progress and the lease have changed.
fn same_state(a: &JobRow, b: &JobRow) -> bool {
    let state = |row: &JobRow| (row.state, row.attempts, row.epoch, row.cancel_requested);
    state(a) == state(b) && a.error == b.error
}
