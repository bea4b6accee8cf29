//! `acetate worker`.

use clap::Args;

use super::{Failure, global::GlobalArgs, output, runtime::block_on};
use crate::{
    app::{self, StartError},
    worker::Shutdown,
};

/// With `queue.url`, a worker takes jobs from RabbitMQ; without it, those that `acetate submit` wrote into this
/// machine's database.
#[derive(Debug, Args)]
pub struct WorkerArgs {}

impl WorkerArgs {
    pub fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let loaded = global.load_service(Vec::new())?;
        block_on(async {
            let shutdown = Shutdown::default();
            let signals = tokio::spawn(listen(shutdown.clone()));
            let worked = app::work(&loaded, &shutdown).await;
            signals.abort();
            match worked {
                // Stopped before it had started.
                Err(StartError::Stopped) => Ok(()),
                worked => Ok(worked?),
            }
        })
    }
}

/// The first signal drains, the second gives everything back, the third ends the process.
pub(super) async fn listen(shutdown: Shutdown) {
    let mut count = 0;
    loop {
        if let Err(error) = signal().await {
            output::error(&format!("cannot handle signals ({error}); stop the worker with kill"));
            return;
        }
        count += 1;
        match count {
            1 => shutdown.drain.cancel(),
            2 => shutdown.now.cancel(),
            #[expect(clippy::disallowed_methods, reason = "a third signal asks for exactly this")]
            _ => std::process::exit(130),
        }
    }
}

#[cfg(unix)]
async fn signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

#[cfg(not(unix))]
async fn signal() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}
