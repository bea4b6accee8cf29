//! Waits for rows to change without polling the database constantly.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle};

/// The longest time until a change without a notification is noticed: one of another process, or one while the
/// connection was lost.
const POLL: Duration = Duration::from_millis(500);

/// Wakes when rows may have changed. Progress alone does not wake.
#[derive(Debug)]
pub struct Changes {
    seen: watch::Receiver<u64>,
}

impl Changes {
    /// Returns after a change, or after half a second: read the rows in either case. May be dropped while it waits.
    pub async fn wait_for_change(&mut self) {
        if let Ok(Err(_)) = tokio::time::timeout(POLL, self.seen.changed()).await {
            // No sender is left; without this pause it would always return at once.
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Notifies everyone in this process.
#[derive(Debug, Clone)]
pub(super) struct Signal {
    /// Counts changes of this process and of other processes.
    all: Arc<watch::Sender<u64>>,
    /// Counts changes of this process, which other processes must be told about.
    own: Arc<watch::Sender<u64>>,
}

impl Default for Signal {
    fn default() -> Self {
        Self { all: Arc::new(watch::Sender::new(0)), own: Arc::new(watch::Sender::new(0)) }
    }
}

impl Signal {
    /// Called after a change by this process.
    pub(super) fn tell(&self) {
        raise(&self.own);
        raise(&self.all);
    }

    /// Called after a change by another process.
    pub(super) fn heard(&self) {
        raise(&self.all);
    }

    pub(super) fn changes(&self) -> Changes {
        Changes { seen: self.all.subscribe() }
    }

    pub(super) fn own(&self) -> watch::Receiver<u64> {
        self.own.subscribe()
    }
}

fn raise(count: &watch::Sender<u64>) {
    count.send_modify(|count| *count = count.wrapping_add(1));
}

/// A task that ends with its owner.
#[derive(Debug)]
pub(super) struct AbortOnDrop(pub(super) JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
