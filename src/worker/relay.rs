//! Sends the outbox to the broker: dispatches and events are published, confirmed, and only then deleted.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    database::{JobStore, OutboxId, OutboxRow},
    job::JobError,
    queue::{Dispatch, EVENTS, Event, JOBS, Queue},
    retry::Pauses,
    trace::{self, Destination, Span},
};

/// The number of rows taken at a time.
const CHUNK: u32 = 500;
/// After this time, another relay may take a row.
const LEASE: Duration = Duration::from_secs(30);
/// The pause after a row that could not be published.
const RETRY: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Publishes due rows until it is stopped, and then once more. `wake` signals new rows.
pub async fn relay(jobs: JobStore, queue: Queue, poll: Duration, wake: Arc<Notify>, stop: CancellationToken) {
    if matches!(queue, Queue::Embedded(_)) {
        return;
    }
    let mut pauses = Pauses::new(2 * poll, LONGEST_PAUSE);
    loop {
        let last = stop.is_cancelled();
        let pause = match publish_due(&jobs, &queue).await {
            Ok(sent) => {
                pauses.reset();
                if sent > 0 && !last {
                    continue;
                }
                poll
            }
            Err(error) => {
                warn!(%error, "could not send the outbox");
                pauses.next_pause()
            }
        };
        if last {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = wake.notified() => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Publishes one chunk of due rows; returns how many rows were taken. Submitters call it, too, so that their jobs need
/// not wait for a worker's relay.
pub async fn publish_due(jobs: &JobStore, queue: &Queue) -> Result<usize, JobError> {
    let rows = jobs.outbox_take(CHUNK, LEASE).await?;
    if rows.is_empty() {
        return Ok(0);
    }
    let taken = rows.len();
    let (dispatches, events): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| !row.topic.is_event());
    let (done, failed) = tokio::join!(
        publish(dispatches, |rows, _| queue.publish_many(rows.iter().map(dispatch).collect())),
        publish(events, |rows, spans| queue.publish_events(rows.iter().zip(spans).map(event).collect())),
    );
    let outcome = [done, failed];
    let done: Vec<_> = outcome.iter().flat_map(|(done, _, _)| done).copied().collect();
    let failed: Vec<_> = outcome.iter().flat_map(|(_, failed, _)| failed).copied().collect();
    debug!(published = done.len(), failed = failed.len(), "outbox");
    jobs.outbox_done(&done).await?;
    jobs.outbox_release(&failed, RETRY).await?;
    match outcome.into_iter().find_map(|(_, _, error)| error) {
        Some(error) => Err(error),
        None => Ok(taken),
    }
}

type Sent = (Vec<OutboxId>, Vec<OutboxId>, Option<JobError>);

/// The ids of the published rows, those of the failed ones, and the error.
async fn publish<F: Future<Output = Vec<Result<(), JobError>>>>(
    rows: Vec<OutboxRow>,
    send: impl FnOnce(&[OutboxRow], &[Span]) -> F,
) -> Sent {
    let (mut done, mut failed, mut why) = (Vec::new(), Vec::new(), None);
    if rows.is_empty() {
        return (done, failed, why);
    }
    let spans: Vec<_> = rows.iter().map(span).collect();
    let results = send(&rows, &spans).await;
    for ((row, span), result) in rows.iter().zip(spans).zip(results) {
        span.end_with(&result);
        match result {
            Ok(()) => done.push(row.id),
            Err(error) => {
                failed.push(row.id);
                why = Some(error);
            }
        }
    }
    (done, failed, why)
}

fn dispatch(row: &OutboxRow) -> Dispatch {
    Dispatch {
        id: row.job,
        kind: row.kind,
        priority: row.priority,
        body: row.payload.clone().into_bytes(),
        trace: row.trace.clone(),
    }
}

fn event((row, span): (&OutboxRow, &Span)) -> Event {
    Event { name: row.topic.as_str().to_owned(), body: row.payload.clone().into_bytes(), trace: span.context() }
}

/// The span of sending a row.
fn span(row: &OutboxRow) -> Span {
    if row.topic.is_event() {
        let destination = Destination::exchange(EVENTS, row.topic.as_str());
        trace::event(&destination, row.job, row.trace.as_ref(), row.attempt.as_ref())
    } else {
        trace::publish(&Destination::exchange(JOBS, row.kind.as_str()), row.job, row.trace.as_ref())
    }
}
