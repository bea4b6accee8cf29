//! The kinds of jobs that this worker leaves to others, because it cannot use their model: it is not there yet, or does
//! not fit. The others go on, and now and then the worker looks again: a disk may be mounted meanwhile.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tracing::{debug, error, info};

use super::Backoff;
use crate::{
    job::{JobError, JobKind},
    retry::Pauses,
};

/// Also if jobs are tried again at once, a model is not looked for all the time.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// Clones share it.
#[derive(Debug, Clone, Default)]
pub struct UnfitKinds(Arc<Mutex<HashMap<JobKind, UnfitKind>>>);

#[derive(Debug)]
struct UnfitKind {
    reason: String,
    pauses: Pauses,
}

impl UnfitKinds {
    /// The model of this kind cannot be used. Returns how long to leave its jobs to others, longer each time;
    /// logged once.
    pub(super) fn fails(&self, kind: JobKind, error: &JobError, backoff: &Backoff) -> Duration {
        let (mut kinds, reason) = (self.lock(), error.to_string());
        let known = kinds.get(&kind).is_some_and(|known| known.reason == reason);
        let unfit = kinds.entry(kind).or_insert_with(|| UnfitKind {
            reason: String::new(),
            pauses: Pauses::new(backoff.base.max(SHORTEST_PAUSE), backoff.longest.max(SHORTEST_PAUSE)),
        });
        unfit.reason = reason;
        let pause = unfit.pauses.next_pause();
        if known {
            debug!(%kind, again_in_s = pause.as_secs(), "the model still cannot be used: {error}");
        } else {
            error!(
                "this worker takes no {kind} jobs, which are left to others: {error}. It looks again now and then, for the \
                 first time in {} s",
                pause.as_secs()
            );
        }
        pause
    }

    pub(super) fn works(&self, kind: JobKind) {
        if self.lock().remove(&kind).is_some() {
            info!("this worker takes {kind} jobs again");
        }
    }

    /// What the worker does not do, and why.
    pub fn reason(&self) -> Option<String> {
        let kinds = self.lock();
        let mut reasons: Vec<_> =
            kinds.iter().map(|(kind, unfit)| format!("takes no {kind} jobs: {}", unfit.reason)).collect();
        reasons.sort();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<JobKind, UnfitKind>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
