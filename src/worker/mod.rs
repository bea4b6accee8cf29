//! The worker: takes a job from its claim to its final state.
//!
//! [`run`](run()) is the path of a job, in order. Only this module combines the stages; they do not know each other.
//! Around it, [`serve`] takes deliveries, the relay sends the outbox, and the reaper dispatches a job again if its
//! worker died or its message was lost.

mod adopt;
mod claim;
mod execute;
mod failpoint;
mod fill;
mod identity;
mod inputs;
mod lease;
mod mask;
mod metrics;
mod newer;
mod own_store;
mod reaper;
mod replies;
mod restored;
mod spans;
mod stop;
mod unfit;
mod variants;

mod backoff;
mod consumer_loop;
mod progress;
mod publish;
mod relay;
mod retry;
mod reuse;
mod run;
mod source_size;

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use backoff::Backoff;
pub use consumer_loop::{Shutdown, Unusable, serve};
pub use failpoint::Failpoint;
pub use identity::{Liveness, WorkerName};
pub use metrics::describe;
pub use progress::Reporter;
pub use relay::{Relayed, publish_due, relay};
pub use restored::KnownAge;
pub use run::{Verdict, run};
pub use stop::{JobControl, StopReason};
pub use unfit::UnfitKinds;

use crate::{
    database::{JobRow, JobStore},
    engine::Engine,
    image,
    job::JobError,
    queue::Queue,
    store::{Store, Stores},
};

/// The parts of a worker; clones share them.
#[derive(Debug, Clone)]
pub struct Worker {
    pub jobs: JobStore,
    pub stores: Stores,
    pub queue: Queue,
    pub engine: Engine,
    pub options: WorkerOptions,
    /// Wakes the relay, or what fills the in-process queue, when there is something new.
    pub wake: Arc<Notify>,
    /// Set when the device is no longer reliable.
    pub broken: CancellationToken,
    /// How old the database is known to be.
    pub age: KnownAge,
    /// The kinds of jobs whose model cannot be used here.
    pub unfit: UnfitKinds,
}

#[derive(Debug, Clone)]
pub struct WorkerOptions {
    pub name: WorkerName,
    /// How long the lease lasts after each heartbeat.
    pub lease: Duration,
    /// How often to renew the lease, write progress and check for cancellation.
    pub heartbeat: Duration,
    /// How often a job may be claimed before it is quarantined.
    pub max_attempts: u32,
    pub backoff: Backoff,
    pub limits: image::DecodeLimits,
    /// Where results go.
    pub results: ResultPlacement,
    /// How many jobs the worker holds at a time.
    pub slots: usize,
    /// How long a job may wait because another kind's model is loaded.
    pub affinity: Duration,
    /// The maximum duration of a job.
    pub job_timeout: Duration,
    /// How long running jobs may take to finish when the worker stops.
    pub drain: Duration,
    /// How long a write waits for an unreachable database or store.
    pub database_retry: Duration,
    /// How often the outbox or the rows are polled.
    pub poll: Duration,
    /// After this time, a queued job that no worker has taken is dispatched again.
    pub redispatch: Duration,
    /// How long the ids of deleted jobs are remembered.
    pub remember_deleted: Duration,
    /// How long entries of the audit log are kept.
    pub keep_actions: Duration,
    pub failpoint: Failpoint,
}

/// Where results go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResultPlacement {
    /// Into the store of `store.url`; the caller copies them out.
    OwnStore,
    /// Under the request's `output.prefix`.
    AsAsked,
}

/// The store of a job's results, and its root in the row.
struct Results {
    store: Store,
    root: Option<String>,
}

impl Worker {
    /// See [`Liveness`].
    fn is_dead(&self, worker: &str) -> bool {
        Liveness::of(&self.queue).is_dead(worker)
    }

    /// The stores that a job may use. What the CLI submitted on this machine, its user may read and write: then the
    /// lists of prefixes do not apply. Only a SQLite file is believed about that, because only programs of this machine
    /// that may write to it can say so.
    fn stores_of(&self, row: &JobRow) -> Stores {
        match (row.local, &self.jobs) {
            (true, JobStore::Sqlite(_)) => self.stores.of_local_user(),
            (false, _) | (true, JobStore::Postgres(_)) => self.stores.clone(),
        }
    }

    fn results_of(&self, row: &JobRow) -> Result<Results, JobError> {
        match self.options.results {
            ResultPlacement::OwnStore => Ok(Results { store: self.stores.own().clone(), root: None }),
            ResultPlacement::AsAsked => {
                let store = self.stores_of(row).results(&row.request.output.prefix)?;
                Ok(Results { root: Some(store.root_url()), store })
            }
        }
    }
}
