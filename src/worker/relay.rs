//! Sends the outbox to the broker: dispatches and events are published, confirmed, and only then deleted.
//!
//! An event goes to every queue that is bound to the exchange. If one of them refuses it, the broker refuses the event,
//! although the others have it. So such an event is sent again after growing pauses, and not without end. A dispatch
//! goes to a queue of ours, and is sent until that takes it.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::metrics;
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
/// The pause after the first refusal of an event; each next one is five times as long.
const FIRST_REFUSAL: Duration = Duration::from_secs(2);
/// How often an event is published while a queue refuses it: for eleven hours.
const MOST_REFUSALS: u32 = 8;
/// How often refusals are logged as warnings.
const SAY_EVERY: Duration = Duration::from_secs(30);

/// What became of one chunk of the outbox.
#[derive(Debug)]
pub struct Relayed {
    /// How many rows were published.
    pub sent: usize,
    /// How many events were refused; they are sent again later, or were given up.
    pub refused_events: usize,
    /// Why jobs were refused; they are sent again soon.
    pub refused: Option<JobError>,
}

/// Publishes due rows until it is stopped, and then once more. `wake` signals new rows.
pub async fn relay(jobs: JobStore, queue: Queue, poll: Duration, wake: Arc<Notify>, stop: CancellationToken) {
    if matches!(queue, Queue::Embedded(_)) {
        return;
    }
    let mut pauses = Pauses::new(2 * poll, LONGEST_PAUSE);
    let mut said = None::<Instant>;
    loop {
        let last = stop.is_cancelled();
        let pause = match publish_due(&jobs, &queue).await {
            Ok(Relayed { sent, refused_events, refused }) => {
                let is_full = refused.is_some();
                match refused {
                    Some(error) if said.is_none_or(|at| at.elapsed() >= SAY_EVERY) => {
                        said = Some(Instant::now());
                        warn!(%error, "jobs are not sent, and stay in the database until they are");
                    }
                    Some(error) => debug!(%error, "jobs are still not sent"),
                    None => said = None,
                }
                if sent + refused_events > 0 || !is_full {
                    pauses.reset();
                }
                // Refused jobs are due again soon; others need not wait for them.
                if sent + refused_events > 0 && !last {
                    continue;
                }
                // There is room again when a worker takes a job, which wakes this loop.
                if is_full { pauses.next_pause() } else { poll }
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

/// Publishes one chunk of due rows. Submitters call it, too, so that their jobs need not wait for a worker's relay. An
/// error concerns the database or the connection to the broker, not single rows.
pub async fn publish_due(jobs: &JobStore, queue: &Queue) -> Result<Relayed, JobError> {
    let rows = jobs.outbox_take(CHUNK, LEASE).await?;
    let (dispatches, events): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| !row.topic.is_event());
    let (mut sent, told) = tokio::join!(
        publish(dispatches, |rows, _| queue.publish_many(rows.iter().map(dispatch).collect())),
        publish(events, |rows, spans| queue.publish_events(rows.iter().zip(spans).map(event).collect())),
    );
    sent.done.extend(told.done);
    sent.failed.extend(told.failed);
    let refused: Vec<_> = sent.refused.iter().map(|(row, _)| row.id).collect();
    debug!(
        published = sent.done.len(),
        failed = sent.failed.len(),
        refused = refused.len(),
        refused_events = told.refused.len(),
        "outbox"
    );
    jobs.outbox_done(&sent.done).await?;
    jobs.outbox_release(&sent.failed, RETRY).await?;
    jobs.outbox_refused(&refused, Some(RETRY)).await?;
    postpone(jobs, &told.refused).await?;
    match told.error.or(sent.error) {
        Some(error) => Err(error),
        None => Ok(Relayed {
            sent: sent.done.len(),
            refused_events: told.refused.len(),
            refused: sent.refused.pop().map(|(_, error)| error),
        }),
    }
}

/// Lets refused events wait, the longer the more often they were refused, and gives up those that were refused too
/// often.
async fn postpone(jobs: &JobStore, refused: &[(OutboxRow, JobError)]) -> Result<(), JobError> {
    let mut by_refusals: BTreeMap<u32, Vec<OutboxId>> = BTreeMap::new();
    for (row, _) in refused {
        by_refusals.entry(row.refusals).or_default().push(row.id);
    }
    let Some((_, error)) = refused.last() else { return Ok(()) };
    for (refusals, ids) in by_refusals {
        let again = pause_after(refusals + 1);
        jobs.outbox_refused(&ids, again).await?;
        metrics::refused_events(ids.len(), again.is_some());
        let events = ids.len();
        match again {
            Some(pause) => {
                warn!(events, again_s = pause.as_secs(), "listeners may get events twice or late, because {error}");
            }
            None => {
                warn!(events, tries = MOST_REFUSALS, "events are given up for the queue that refuses them: {error}");
            }
        }
    }
    Ok(())
}

/// The pause after this many refusals of an event; none after the last one.
fn pause_after(refusals: u32) -> Option<Duration> {
    (refusals < MOST_REFUSALS).then(|| FIRST_REFUSAL * 5u32.pow(refusals - 1))
}

/// The rows by what became of them.
#[derive(Default)]
struct Sent {
    done: Vec<OutboxId>,
    refused: Vec<(OutboxRow, JobError)>,
    /// Not sent, or the connection was lost.
    failed: Vec<OutboxId>,
    /// Why rows failed.
    error: Option<JobError>,
}

async fn publish<F: Future<Output = Vec<Result<(), JobError>>>>(
    rows: Vec<OutboxRow>,
    send: impl FnOnce(&[OutboxRow], &[Span]) -> F,
) -> Sent {
    let mut sent = Sent::default();
    if rows.is_empty() {
        return sent;
    }
    let spans: Vec<_> = rows.iter().map(span).collect();
    let results = send(&rows, &spans).await;
    for ((row, span), result) in rows.into_iter().zip(spans).zip(results) {
        span.end_with(&result);
        match result {
            Ok(()) => sent.done.push(row.id),
            Err(error @ JobError::Unconfirmed { .. }) => sent.refused.push((row, error)),
            Err(error) => {
                sent.failed.push(row.id);
                sent.error = Some(error);
            }
        }
    }
    sent
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_events_are_sent_eight_times_within_half_a_day() {
        let pauses: Vec<_> = (1..=MOST_REFUSALS).map_while(pause_after).map(|pause| pause.as_secs()).collect();
        assert_eq!(pauses, [2, 10, 50, 250, 1250, 6250, 31_250]);
        assert!(pause_after(MOST_REFUSALS).is_none());
    }
}
