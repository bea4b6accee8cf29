//! Waits for the worker's own store, as for the database, so that its outage costs no job its work or an attempt.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use tracing::{info, warn};

use super::{JobControl, ResultPlacement, Worker};
use crate::{
    job::{JobError, lacks_open_files},
    retry::Pauses,
    store::Store,
};

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How soon a job that waits notices that it was stopped.
const CHECK_EVERY: Duration = Duration::from_millis(100);

/// Repeats what fails because the own store is unreachable, full or refuses the credentials, for at most
/// `worker.database_retry_seconds`. What fails while that store takes objects is the job's fault: a prefix elsewhere,
/// or a name that is too long.
pub(super) async fn waiting_for_store<T, F>(
    worker: &Worker,
    control: &JobControl,
    mut attempt: impl FnMut() -> F,
) -> Result<T, JobError>
where
    F: Future<Output = Result<T, JobError>>,
{
    // A command of this machine says at once what is wrong.
    if worker.options.results == ResultPlacement::OwnStore {
        return attempt().await;
    }
    let (start, mut pauses) = (Instant::now(), Pauses::new(FIRST_PAUSE, LONGEST_PAUSE));
    let (mut waited, mut repeated) = (false, false);
    loop {
        let error = match attempt().await {
            Ok(done) => {
                if waited {
                    info!("the store is back");
                }
                return Ok(done);
            }
            Err(error) => error,
        };
        match blame(worker, &error).await {
            StoreFault::Store => repeated = false,
            // It may have come back just now.
            StoreFault::Perhaps if !repeated => {
                repeated = true;
                continue;
            }
            StoreFault::Perhaps | StoreFault::Job => return Err(error),
        }
        warn!(%error, "the store is away; the job waits for it, and no attempt is counted");
        waited = true;
        loop {
            let pause = pauses.next_pause();
            if start.elapsed() + pause > worker.options.database_retry {
                return Err(error);
            }
            sleep(pause, control).await?;
            // Without the rights, the credentials or the space to write a small object, a larger one need not be tried.
            if worker.stores.own_is_usable().await.is_ok() {
                break;
            }
        }
    }
}

enum StoreFault {
    Store,
    /// The store works now.
    Perhaps,
    Job,
}

async fn blame(worker: &Worker, error: &JobError) -> StoreFault {
    match error {
        _ if lacks_open_files(error) => StoreFault::Job,
        // A web server.
        JobError::InputUnreachable { input, .. } if input.starts_with("http") => StoreFault::Job,
        // A small object may still fit.
        JobError::DiskFull { path } if is_own(worker, path) => StoreFault::Store,
        JobError::DiskFull { .. } | JobError::Storage { .. } | JobError::InputUnreachable { .. } => {
            if worker.stores.own_is_usable().await.is_err() { StoreFault::Store } else { StoreFault::Perhaps }
        }
        _ => StoreFault::Job,
    }
}

fn is_own(worker: &Worker, path: &str) -> bool {
    match worker.stores.own() {
        Store::Folder(folder) => Path::new(path).starts_with(folder.root()),
        Store::S3(_) => path.starts_with(&worker.stores.own().root_url()),
    }
}

async fn sleep(pause: Duration, control: &JobControl) -> Result<(), JobError> {
    let end = Instant::now() + pause;
    loop {
        if control.cancel.is_cancelled() {
            return Err(JobError::Cancelled);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        tokio::time::sleep(left.min(CHECK_EVERY)).await;
    }
}
