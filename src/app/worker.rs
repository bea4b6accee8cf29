//! `acetate worker`: a process that runs jobs until it is stopped.

use std::{sync::Arc, time::Duration};

use backon::Retryable;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{StartError, open_files::connection_limits, wiring};
use crate::{
    config::{Config, LoadedConfig},
    database::JobStore,
    http::{Probes, Server},
    job::JobError,
    retry::exponential,
    store::Trust,
    telemetry::Metrics,
    worker::{ResultPlacement, Shutdown, describe, serve},
};

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Opens everything, waiting for servers that do not respond yet, and runs jobs until `shutdown`.
pub async fn work(loaded: &LoadedConfig, shutdown: &Shutdown) -> Result<(), StartError> {
    let config = &loaded.config;
    let metrics = Metrics::start().map_err(StartError::Metrics)?;
    describe();
    let server = bind(loaded).await?;
    let stores = wiring::stores(config, Trust::Submitted)?;
    let queue = wiring::queue(config)?;

    let deadline = deadline(config);
    let jobs: JobStore = waiting("the job database", deadline, shutdown, || wiring::writable_job_store(config)).await?;
    waiting("the store", deadline, shutdown, || stores.own().check()).await?;
    waiting("the queue", deadline, shutdown, || queue.ready(Duration::ZERO)).await?;

    let worker = wiring::worker(loaded, jobs.clone(), stores, queue.clone(), ResultPlacement::AsAsked)?;
    for device in worker.engine.self_test().await? {
        info!(device, "device self-test passed");
    }
    let stop = CancellationToken::new();
    let unfit = worker.unfit.clone();
    let answering = server.map(|server| {
        let probes = Probes::new(
            jobs.clone(),
            queue.clone(),
            worker.stores.clone(),
            metrics,
            true,
            worker.broken.clone(),
            shutdown.drain.clone(),
        );
        let probes = probes.with_unfit(Arc::new(move || unfit.reason()));
        tokio::spawn(server.serve(probes, stop.clone()))
    });
    let served = tokio::select! {
        served = serve(&worker, shutdown) => served.map_err(StartError::from),
        error = jobs.lost() => Err(error.into()),
    };
    stop.cancel();
    if let Some(answering) = answering {
        let _ = tokio::time::timeout(Duration::from_secs(1), answering).await;
    }
    queue.close().await;
    jobs.close().await;
    served
}

/// A configured address must be available; the default one may be in use by another worker on this machine.
async fn bind(loaded: &LoadedConfig) -> Result<Option<Server>, StartError> {
    let bind = &loaded.config.http.bind;
    if bind.is_empty() {
        return Ok(None);
    }
    let chosen = loaded.chosen("http.bind").is_some();
    match Server::bind(bind, connection_limits(&loaded.config.http)).await {
        Ok(server) => {
            if let Some(address) = server.address() {
                info!(%address, "serving /healthz, /readyz and /metrics");
            }
            Ok(Some(server))
        }
        Err(error) if chosen => Err(error.into()),
        Err(error) => {
            warn!(%error, "running without /healthz, /readyz and /metrics");
            Ok(None)
        }
    }
}

/// The deadline for everything that is needed at startup.
pub(super) fn deadline(config: &Config) -> Instant {
    Instant::now() + config.worker.start_timeout()
}

/// Retries after temporary errors until the deadline, and logs them.
pub(super) async fn waiting<T, F: Future<Output = Result<T, JobError>>>(
    what: &str,
    deadline: Instant,
    shutdown: &Shutdown,
    attempt: impl Fn() -> F,
) -> Result<T, StartError> {
    let tries = attempt
        .retry(exponential(FIRST_PAUSE, LONGEST_PAUSE))
        .when(JobError::is_transient)
        .adjust(|_, pause| pause.filter(|pause| Instant::now() + *pause <= deadline))
        .notify(|error, pause| warn!(%error, retry_in_s = pause.as_secs_f64(), "waiting for {what}"));
    tokio::select! {
        tried = tries => Ok(tried?),
        () = shutdown.drain.cancelled() => Err(StartError::Stopped),
    }
}
