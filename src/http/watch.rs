//! Polls watched jobs for all watchers: one query for all of them, when something has changed and twice a second. More
//! watchers of a job cost nothing.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    database::{JobRow, JobStore},
    job::JobId,
};

/// The minimum time between two queries.
const PAUSE: Duration = Duration::from_millis(50);
/// The maximum number of ids in one query.
const CHUNK: usize = 500;

/// The state of a watched job.
#[derive(Debug, Clone, Default)]
pub enum Watched {
    /// Not queried yet.
    #[default]
    Unknown,
    Row(Arc<JobRow>),
    /// It was deleted.
    Gone,
}

#[derive(Debug, Clone, Default)]
pub struct JobWatcher(Arc<WatchedJobs>);

#[derive(Debug, Default)]
struct WatchedJobs {
    watched: Mutex<HashMap<JobId, watch::Sender<Watched>>>,
    watcher_added: Notify,
}

impl JobWatcher {
    pub fn start(jobs: JobStore, stop: CancellationToken) -> Self {
        let watch = Self::default();
        let shared = watch.0.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = maintain(&shared, &jobs) => {}
                () = stop.cancelled() => {}
            }
        });
        watch
    }

    /// Follows a job. The first snapshot may be older than what the caller has seen.
    pub fn follow(&self, id: JobId) -> watch::Receiver<Watched> {
        let mut watched = self.0.lock();
        let receiver = watched.entry(id).or_insert_with(|| watch::Sender::new(Watched::Unknown)).subscribe();
        drop(watched);
        self.0.watcher_added.notify_one();
        receiver
    }
}

impl WatchedJobs {
    /// A poisoned lock can be used: no code under it can leave the map inconsistent.
    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, watch::Sender<Watched>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ids of the jobs that are still watched.
    fn ids(&self) -> Vec<JobId> {
        let mut watched = self.lock();
        watched.retain(|_, sender| sender.receiver_count() > 0);
        watched.keys().copied().collect()
    }

    fn tell(&self, asked: &[JobId], rows: Vec<JobRow>) {
        let mut rows: HashMap<JobId, JobRow> = rows.into_iter().map(|row| (row.id(), row)).collect();
        let watched = self.lock();
        for id in asked {
            let Some(sender) = watched.get(id) else { continue };
            sender.send_if_modified(|seen| match (rows.remove(id), &*seen) {
                (Some(row), Watched::Row(known)) if **known == row => false,
                (Some(row), _) => {
                    *seen = Watched::Row(Arc::new(row));
                    true
                }
                (None, Watched::Gone) => false,
                (None, _) => {
                    *seen = Watched::Gone;
                    true
                }
            });
        }
    }
}

async fn maintain(shared: &WatchedJobs, jobs: &JobStore) {
    let mut changes = jobs.changes();
    loop {
        let ids = shared.ids();
        if ids.is_empty() {
            shared.watcher_added.notified().await;
            continue;
        }
        for chunk in ids.chunks(CHUNK) {
            match jobs.get_many(chunk).await {
                Ok(rows) => shared.tell(chunk, rows),
                Err(error) => warn!(%error, "could not load the watched jobs"),
            }
        }
        tokio::time::sleep(PAUSE).await;
        tokio::select! {
            () = changes.wait_for_change() => {}
            // A new watcher does not have to wait for the next change.
            () = shared.watcher_added.notified() => {}
        }
    }
}
