//! Notices that the database was restored from a backup, or is another server that lacks the last changes.
//!
//! A backup does not know which jobs were cancelled, have failed, or were deleted after it was made. They would run
//! again, so nothing starts on a restored database until a person has looked. The store remembers, about once a minute,
//! until when the database was in use, and a running worker knows it as well. A database that is much older than that
//! was restored. So was one that has the rows of two: a backup was restored as data only, into tables that existed.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Mutex;
use tracing::{error, info, warn};

use super::{Shutdown, Worker};
use crate::{
    database::{Actor, Lineage},
    job::JobError,
    queue::Queue,
    retry::Pauses,
    store::ObjectKey,
};

/// How often the time is remembered, by one of the workers.
pub(super) const EVERY: Duration = Duration::from_secs(60);
/// A failover to a replica may lose some seconds.
const BEHIND: SignedDuration = SignedDuration::from_mins(5);
/// The length of what is remembered.
const LONGEST: u64 = 100;
/// The pauses at the start, while the store does not answer.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The database as this worker saw it last, with the newest time at which it was in use. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct KnownAge(Arc<Mutex<Option<Lineage>>>);

/// Before anything starts. The store is waited for: without it, a restored database would look like any other.
pub(super) async fn begin(worker: &Worker, shutdown: &Shutdown) {
    let mut pauses = Pauses::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut waited = false;
    while !shutdown.drain.is_cancelled() && !shutdown.now.is_cancelled() {
        match compare(worker).await {
            Ok(()) => {
                if waited {
                    info!("it is known that the database is as it was left");
                }
                return;
            }
            Err(error) if error.is_transient() => {
                let pause = pauses.next_pause();
                warn!(
                    retry_in_s = pause.as_secs_f64(),
                    "no job starts before it is known whether the database was restored from a backup: {error}"
                );
                waited = true;
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = shutdown.drain.cancelled() => {}
                    () = shutdown.now.cancelled() => {}
                }
            }
            Err(error) => return cannot_tell(&error),
        }
    }
}

/// Pauses everything if the database was restored, and remembers that it is in use. Without a broker, the worker and
/// its database are one thing, which is not checked.
pub(super) async fn pause_if_restored(worker: &Worker) {
    if let Err(error) = compare(worker).await {
        cannot_tell(&error);
    }
}

fn cannot_tell(error: &JobError) {
    warn!(%error, "cannot tell whether the database was restored from a backup");
}

/// Before a claim, and every second: pauses everything if the database has become older than this worker knows it. The
/// connection may be a new one, to another server, and a backup may be put into the tables under an old one.
pub(super) async fn guard(worker: &Worker) -> Result<(), JobError> {
    if matches!(worker.queue, Queue::Embedded(_)) {
        return Ok(());
    }
    let mut known = worker.age.0.lock().await;
    let mut found = worker.jobs.lineage().await?;
    if let Some(reason) = found.mixed() {
        pause_all(worker, &reason).await?;
        worker.jobs.forget_lineages(&std::mem::take(&mut found.others)).await?;
        let alive_at = worker.jobs.record_alive().await?;
        *known = Some(Lineage { alive_at, ..found });
        return Ok(());
    }
    let newest = known.as_ref().filter(|newest| newest.name == found.name).map(|newest| newest.alive_at);
    match newest.filter(|newest| *newest > found.alive_at) {
        Some(newest) if newest.duration_since(found.alive_at) > BEHIND => {
            hold(worker, found.alive_at, newest).await?;
            let alive_at = worker.jobs.record_alive().await?;
            *known = Some(Lineage { alive_at, ..found });
        }
        Some(newest) => {
            warn!(
                "the database lacks its last changes, as after a failover to a replica that was behind: it is as of \
                 {:.0}, and was in use until {newest:.0}. Jobs that ended in between may run again",
                found.alive_at
            );
            *known = Some(found);
        }
        None => *known = Some(found),
    }
    Ok(())
}

async fn compare(worker: &Worker) -> Result<(), JobError> {
    if matches!(worker.queue, Queue::Embedded(_)) {
        return Ok(());
    }
    guard(worker).await?;
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
        hold(worker, known.alive_at, seen).await?;
    }
    let alive = worker.jobs.record_alive().await?;
    store.put(key, alive.to_string().into_bytes()).await.map(drop)
}

/// Pauses everything. `as_of`: how old the database is.
async fn hold(worker: &Worker, as_of: Timestamp, used_until: Timestamp) -> Result<(), JobError> {
    let reason = format!(
        "the database was restored: it is as of {as_of:.0}, and was in use until {used_until:.0}. Jobs that were \
         cancelled, have failed or were deleted in between may be queued again: cancel what must not run, then acetate \
         queue resume"
    );
    pause_all(worker, &reason).await
}

async fn pause_all(worker: &Worker, reason: &str) -> Result<(), JobError> {
    worker.jobs.by(Actor::new("acetate", None)).pause_all(reason).await?;
    error!("nothing starts: {reason}");
    Ok(())
}
