//! Answers senders whose messages have `reply_to`: with the event of the job's end, also if the job had ended before.

use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Worker;
use crate::{
    database::{JobRow, JobStore, WebhookRow},
    job::{JobError, JobEvent, TraceContext},
    queue::{Delivery, Queue, Reply, ReplyTo},
    trace::{self, Destination, Span},
};

/// How many answers are taken at a time.
const CHUNK: u32 = 100;
/// After this time, another worker may send an answer.
const LEASE: Duration = Duration::from_secs(30);
/// The attempts of one answer that its queue does not take. A sender that is away for a moment gets it after all.
const MOST_TRIES: u32 = 5;
/// The pause after the first attempt; each next one is five times as long.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// While the broker is away, an answer is tried again for this long, with pauses no longer than that.
const LONGEST_AWAY: Duration = Duration::from_secs(24 * 3600);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_secs(1);
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(5);

/// Sends due answers until it is stopped, and then once more.
pub(super) async fn send(worker: Worker, stop: CancellationToken) {
    if matches!(worker.queue, Queue::Embedded(_)) {
        return;
    }
    loop {
        let last = stop.is_cancelled();
        let pause = match send_due(&worker.jobs, &worker.queue).await {
            Ok(0) => POLL,
            Ok(_) => Duration::ZERO,
            Err(error) => {
                warn!(%error, "could not look for answers to send");
                PAUSE_AFTER_ERROR
            }
        };
        if last {
            return;
        }
        tokio::select! { () = tokio::time::sleep(pause) => {}, () = stop.cancelled() => {} }
    }
}

async fn send_due(jobs: &JobStore, queue: &Queue) -> Result<usize, JobError> {
    let rows = jobs.replies_take(CHUNK, LEASE).await?;
    let due: Vec<_> = rows.iter().map(reply_of).collect();
    let replies: Vec<_> = due.iter().flatten().map(|(reply, _)| reply.clone()).collect();
    let mut results = queue.publish_replies(&replies).await.into_iter();
    for (row, due) in rows.iter().zip(due) {
        let result = match due {
            Some((_, span)) => {
                let result = results.next().unwrap_or(Ok(()));
                span.end_with(&result);
                result
            }
            None => Err(JobError::invalid("reply_to", "cannot be read")),
        };
        match result {
            Ok(()) => jobs.webhook_done(row.id).await?,
            Err(error) => {
                let again = again_after(row, &error);
                match again {
                    Some(pause) => debug!(job = %row.job, %error, again_s = pause.as_secs(), "an answer was not sent"),
                    None => warn!(job = %row.job, %error, "an answer to reply_to is given up"),
                }
                jobs.webhook_failed(row.id, &error.to_string(), again).await?;
            }
        }
    }
    Ok(rows.len())
}

/// The pause before the next attempt; none if the answer is given up.
fn again_after(row: &WebhookRow, error: &JobError) -> Option<Duration> {
    let pause = FIRST_PAUSE.saturating_mul(5u32.saturating_pow(row.attempts));
    match error {
        JobError::Unconfirmed { .. } => (row.attempts + 1 < MOST_TRIES).then_some(pause),
        // The broker's fault, not that of the sender's queue.
        error if error.is_transient() => {
            let age = Timestamp::now().duration_since(row.created_at).unsigned_abs();
            (age < LONGEST_AWAY).then_some(pause.min(LONGEST_PAUSE))
        }
        _ => None,
    }
}

/// The answer and its span; nothing if the row cannot be read.
fn reply_of(row: &WebhookRow) -> Option<(Reply, Span)> {
    let event: JobEvent = serde_json::from_str(&row.payload).ok()?;
    let to = ReplyTo::from_address(&row.url)?;
    let span = trace::event(&Destination::reply(&to.queue), row.job, row.trace.as_ref(), row.attempt.as_ref());
    Some((Reply { to, name: event.event, body: row.payload.clone().into_bytes(), trace: span.context() }, span))
}

/// Keeps the sender's address with the job, or answers at once if the job has ended.
pub(super) async fn remember(worker: &Worker, delivery: &Delivery) -> Result<(), JobError> {
    let (Some(to), Some(id)) = (&delivery.reply_to, delivery.job()) else { return Ok(()) };
    if worker.jobs.want_reply(id, &to.to_address()).await? {
        return Ok(());
    }
    match worker.jobs.get(id).await? {
        Some(row) if row.state.is_terminal() => {
            let JobRow { updated_at, finished_at, .. } = &row;
            now(worker, to, &row.event(finished_at.unwrap_or(*updated_at)), row.trace.as_ref()).await;
        }
        Some(_) | None => {}
    }
    Ok(())
}

/// Sends one answer that is not kept anywhere: the sender may send its message again.
pub(super) async fn now(worker: &Worker, to: &ReplyTo, event: &JobEvent, trace: Option<&TraceContext>) {
    let span = trace::event(&Destination::reply(&to.queue), event.id, trace, None);
    let reply = Reply { to: to.clone(), name: event.event.clone(), body: event.to_json(), trace: span.context() };
    let sent = worker.queue.publish_replies(&[reply]).await.remove(0);
    span.note(&sent);
    if let Err(error) = sent {
        warn!(job = %event.id, %error, "an answer to reply_to was not sent");
    }
}
