//! Notices that the database was restored from a backup.
//!
//! A backup does not know which jobs were cancelled, have failed, or were deleted after it was made. They would run
//! again, so nothing starts on a restored database until a person has looked. The store remembers, about once a minute,
//! until when the database was in use. A database that is much older than that was restored.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tracing::{error, warn};

use super::Worker;
use crate::{database::Actor, job::JobError, queue::Queue, store::ObjectKey};

/// How often the time is remembered, by one of the workers.
pub(super) const EVERY: Duration = Duration::from_secs(60);
/// A failover to a replica may lose some seconds.
const BEHIND: SignedDuration = SignedDuration::from_mins(5);
/// The length of what is remembered.
const LONGEST: u64 = 100;

/// Pauses everything if the database was restored, and remembers that it is in use. Without a broker, the worker and its
/// database are one thing, which is not checked.
pub(super) async fn look(worker: &Worker) {
    if matches!(worker.queue, Queue::Embedded(_)) {
        return;
    }
    if let Err(error) = compare(worker).await {
        warn!(%error, "cannot tell whether the database was restored from a backup");
    }
}

async fn compare(worker: &Worker) -> Result<(), JobError> {
    let known = worker.jobs.lineage().await?;
    let since = known.now.duration_since(known.alive_at);
    if since < SignedDuration::try_from(EVERY).unwrap_or(BEHIND) {
        return Ok(());
    }
    let (store, key) = (worker.stores.own(), ObjectKey::lineage(&known.name)?);
    let seen = match store.exists(&key).await? {
        true => String::from_utf8_lossy(&store.get(&key, LONGEST).await?).trim().parse::<Timestamp>().ok(),
        false => None,
    };
    if let Some(seen) = seen.filter(|seen| seen.duration_since(known.alive_at) > BEHIND) {
        let reason = format!(
            "the database was restored: it is as of {:.0}, and was in use until {seen:.0}. Jobs that were cancelled, have \
             failed or were deleted in between may be queued again: cancel what must not run, then acetate queue resume",
            known.alive_at
        );
        worker.jobs.by(Actor::new("acetate", None)).hold_all(&reason).await?;
        error!("nothing starts: {reason}");
    }
    let alive = worker.jobs.lives_on().await?;
    store.put(key, alive.to_string().into_bytes()).await.map(drop)
}
