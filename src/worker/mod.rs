//! The conductor: takes a job from its claim to its terminal state.
//!
//! [`run`](run()) is the path, in order. Here alone are the stages put together; none of them knows another. Around
//! the path, [`serve`] takes deliveries, the relay sends what the outbox holds, and the keeper looks after jobs whose
//! worker died or whose message was lost.

mod claim;
mod execute;
mod failpoint;
mod identity;
mod inputs;
mod lease;
mod metrics;
mod reaper;
mod stop;

mod backoff;
mod consumer_loop;
mod progress;
mod publish;
mod relay;
mod retry;
mod run;

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use backoff::Backoff;
pub use consumer_loop::{Shutdown, Unusable, serve};
pub use failpoint::Failpoint;
pub use identity::WorkerName;
pub use metrics::describe;
pub use progress::Reporter;
pub use relay::{publish_due, relay};
pub use run::{Verdict, run};
pub use stop::{JobControl, StopReason};

use crate::{
    database::JobStore,
    engine::Engine,
    image,
    job::{JobError, JobRequest},
    queue::Queue,
    store::{Store, Stores},
};

/// What a worker works with; clones share it.
#[derive(Debug, Clone)]
pub struct Worker {
    pub jobs: JobStore,
    pub stores: Stores,
    pub queue: Queue,
    pub engine: Engine,
    pub options: WorkerOptions,
    /// Wakes the relay: the outbox has something new.
    pub wake: Arc<Notify>,
    /// Set when the device can no longer be trusted.
    pub broken: CancellationToken,
}

#[derive(Debug, Clone)]
pub struct WorkerOptions {
    pub name: WorkerName,
    /// How long the job is ours after each heartbeat.
    pub lease: Duration,
    /// How often the lease is renewed, progress written and a cancel noticed.
    pub heartbeat: Duration,
    /// Claims of one job before it is quarantined.
    pub max_attempts: u32,
    pub backoff: Backoff,
    pub limits: image::Limits,
    /// Where results go.
    pub results: ResultPlacement,
    /// Jobs in hand at a time.
    pub slots: usize,
    /// How long a job may wait because another kind's model is in memory.
    pub affinity: Duration,
    /// The most time that a job may take.
    pub job_timeout: Duration,
    /// How long the jobs in hand may take to end when the worker leaves.
    pub drain: Duration,
    /// How long a write waits for a database that is away.
    pub database_patience: Duration,
    /// How often the outbox, or the rows, are looked at.
    pub poll: Duration,
    /// A queued job whose message has not been seen for this long is dispatched again.
    pub redispatch: Duration,
    pub failpoint: Failpoint,
}

/// Where results go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResultPlacement {
    /// Into the store of `store.url`; somebody copies them out of it.
    OwnStore,
    /// Under the request's `output.prefix`.
    AsAsked,
}

/// The store of a job's results, and what its row calls it.
struct Results {
    store: Store,
    root: Option<String>,
}

impl Worker {
    fn results_of(&self, request: &JobRequest) -> Result<Results, JobError> {
        match self.options.results {
            ResultPlacement::OwnStore => Ok(Results { store: self.stores.own().clone(), root: None }),
            ResultPlacement::AsAsked => {
                let store = self.stores.results(&request.output.prefix)?;
                Ok(Results { root: Some(store.root_url()), store })
            }
        }
    }
}
