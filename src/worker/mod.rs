//! The conductor: takes a job from its claim to its terminal state.
//!
//! [`run`](run()) is the path, in order. Here alone are the stages put together; none of them knows another.

mod execute;
mod identity;
mod inputs;
mod lease;
mod progress;
mod publish;
mod retry;
mod run;

use std::time::Duration;

pub use identity::WorkerName;
pub use progress::Reporter;
pub use retry::Backoff;
pub use run::{Verdict, run};

use crate::{engine::Engine, image, status::Status, store::FolderStore};

/// What a worker works with; clones share it.
#[derive(Debug, Clone)]
pub struct Worker {
    pub status: Status,
    pub store: FolderStore,
    pub engine: Engine,
    pub options: Options,
}

#[derive(Debug, Clone)]
pub struct Options {
    pub name: WorkerName,
    /// How long the job is ours after each heartbeat.
    pub lease: Duration,
    /// How often the lease is renewed, progress written and a cancel noticed.
    pub heartbeat: Duration,
    /// Claims of one job before it is quarantined.
    pub max_attempts: u32,
    pub backoff: Backoff,
    pub limits: image::Limits,
    /// The largest input that is read, in bytes.
    pub max_input_bytes: u64,
}
