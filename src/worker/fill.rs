//! Fills the in-process queue from the rows, in their turn.

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Worker;
use crate::queue::Queue;

/// Offers the next jobs whenever one starts, ends or is submitted, and from time to time. Only a few at a time: their
/// order may change with the next submission.
pub(super) async fn fill(worker: Worker, stop: CancellationToken) {
    let Queue::Embedded(queue) = &worker.queue else { return };
    let ahead = u32::try_from(2 * worker.options.slots).unwrap_or(u32::MAX);
    while !stop.is_cancelled() {
        match worker.jobs.due(ahead).await {
            Ok(due) => queue.offer(due.into_iter().map(|(job, priority, _)| (job, priority))),
            Err(error) => warn!(%error, "could not look for waiting jobs"),
        }
        tokio::select! {
            () = tokio::time::sleep(worker.options.poll) => {}
            () = worker.wake.notified() => {}
            () = stop.cancelled() => {}
        }
    }
}
