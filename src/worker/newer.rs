//! Messages that a newer worker may be able to run: during an upgrade, versions run side by side.

use std::time::Duration;

use tracing::{debug, warn};

use super::{JobControl, Worker, retry::with_deadline};
use crate::{
    database::Deferred,
    job::{JobError, JobId},
    queue::Delivery,
};

/// The pause before a job that has a row is dispatched again. Half of the workers being newer, it is taken after one or
/// two of them.
const LATER: Duration = Duration::from_secs(30);

/// How long workers leave a message without a row to others. After that, it is invalid: nobody knows it.
pub(super) const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Leaves the job to others: its row stays as it is, and its message comes again later.
pub(super) async fn leave(
    worker: &Worker,
    delivery: Delivery,
    id: Option<JobId>,
    error: &JobError,
    control: &JobControl,
) -> Result<(), JobError> {
    let job = id.map(tracing::field::display);
    let deferred = match id {
        Some(id) => {
            let limit = worker.options.database_retry;
            with_deadline("the deferral", limit, control, || worker.jobs.defer(id, LATER)).await?
        }
        None => Deferred::Unknown,
    };
    match deferred {
        Deferred::Later => {
            warn!(job, "left to newer workers, because this version cannot read its request ({error})");
            worker.wake.notify_one();
            delivery.ack().await;
        }
        Deferred::Ended => delivery.ack().await,
        Deferred::Unknown => {
            // Logged once; the message comes again and again.
            if delivery.left_for().is_none() {
                warn!(job, "a message is left to newer workers, because this version cannot read it ({error})");
            } else {
                debug!(job, "a message is still left to newer workers");
            }
            delivery.leave();
        }
    }
    Ok(())
}
