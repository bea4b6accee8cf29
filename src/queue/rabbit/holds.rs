//! The kinds of jobs that this process does not consume for a while.

use std::collections::HashMap;

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::job::JobKind;

#[derive(Debug, Default)]
pub(super) struct Holds(watch::Sender<HashMap<JobKind, Instant>>);

impl Holds {
    pub(super) fn hold(&self, kind: JobKind, until: Instant) {
        self.0.send_modify(|holds| {
            holds.insert(kind, until);
        });
    }

    pub(super) fn is_held(&self, kind: JobKind) -> bool {
        self.0.borrow().get(&kind).is_some_and(|until| *until > Instant::now())
    }

    /// Returns once jobs of this kind are not to be consumed.
    pub(super) async fn begin(&self, kind: JobKind) {
        let mut changes = self.0.subscribe();
        while !self.is_held(kind) {
            // Its sender lives as long as this.
            let _ = changes.changed().await;
        }
    }

    /// Returns once jobs of this kind may be consumed.
    pub(super) async fn end(&self, kind: JobKind) {
        loop {
            let until = self.0.borrow().get(&kind).copied();
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => sleep_until(until).await,
                None => return,
            }
        }
    }
}
