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
    poll: Duration,
    /// Listens for the changes of other processes.
    _listener: Option<AbortOnDrop>,
}

impl Changes {
    /// Returns after a change, or after half a second: look at the rows either way. May be dropped while it waits.
    pub async fn wait_for_change(&mut self) {
        // A closed signal would be ready at once, always.
        if !matches!(tokio::time::timeout(self.poll, self.seen.changed()).await, Ok(Ok(())) | Err(_)) {
            tokio::time::sleep(self.poll).await;
        }
    }
}

/// Tells everybody in this process.
#[derive(Debug, Clone)]
pub(super) struct Signal(Arc<watch::Sender<u64>>);

impl Default for Signal {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Signal {
    pub(super) fn tell(&self) {
        self.0.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(super) fn changes(&self, listener: Option<AbortOnDrop>) -> Changes {
        Changes { seen: self.0.subscribe(), poll: POLL, _listener: listener }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

/// A task that lives no longer than its owner.
#[derive(Debug)]
pub(super) struct AbortOnDrop(pub(super) JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
