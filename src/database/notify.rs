//! Waiting for rows to change without asking the database all the time.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle};

/// The longest time after which a change is noticed that nobody told of: another process's, or one that happened
/// while the connection was away.
const POLL: Duration = Duration::from_millis(500);

/// Wakes when rows may have changed. Progress alone wakes nobody.
#[derive(Debug)]
pub struct Changes {
    seen: watch::Receiver<u64>,
}

impl Changes {
    /// Returns after a change, or after half a second: look at the rows either way. May be dropped while it waits.
    pub async fn wait_for_change(&mut self) {
        if let Ok(Err(_)) = tokio::time::timeout(POLL, self.seen.changed()).await {
            // Nobody is left who could tell; without this pause it would be ready at once, always.
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Tells everybody in this process.
#[derive(Debug, Clone)]
pub(super) struct Signal {
    /// Of this process and of others, as far as they are heard of.
    all: Arc<watch::Sender<u64>>,
    /// Of this process: what others must be told. What was heard of them is not told back.
    own: Arc<watch::Sender<u64>>,
}

impl Default for Signal {
    fn default() -> Self {
        Self { all: Arc::new(watch::Sender::new(0)), own: Arc::new(watch::Sender::new(0)) }
    }
}

impl Signal {
    /// We have changed something.
    pub(super) fn tell(&self) {
        raise(&self.own);
        raise(&self.all);
    }

    /// Somebody else has.
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

/// A task that lives no longer than its owner.
#[derive(Debug)]
pub(super) struct AbortOnDrop(pub(super) JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
