//! `acetate worker`.

use clap::Args;

use super::{Failure, global::GlobalArgs, output, run::flags::DeviceFlags, runtime::block_on};
use crate::{
    app::{self, StartError},
    worker::Shutdown,
};

/// With `queue.url`, a worker takes jobs from RabbitMQ; without it, those that `acetate submit` wrote into this
/// machine's database.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  acetate worker\n  acetate worker --device cuda:0,cuda:1\n  acetate worker --profile gpu -v"
)]
pub struct WorkerArgs {
    #[command(flatten)]
    device: DeviceFlags,
}

impl WorkerArgs {
    pub fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let loaded = global.load_service(self.device.settings())?;
        app::raise_open_files();
        block_on(async {
            let shutdown = Shutdown::default();
            let signals = tokio::spawn(listen(shutdown.clone()));
            let worked = app::work(&loaded, &shutdown).await;
            signals.abort();
            match worked {
                // A signal arrived before the worker had started.
                Err(StartError::Stopped) => Ok(()),
                worked => Ok(worked.map_err(|error| error.with_origin(&loaded))?),
            }
        })
    }
}

/// The first signal drains, the second gives everything back, the third ends the process. Signals count from this call,
/// not from when the task that waits for them first runs.
pub(super) fn listen(shutdown: Shutdown) -> impl Future<Output = ()> + Send {
    let signals = Signals::new();
    async move {
        match signals {
            Ok(signals) => obey(signals, shutdown).await,
            Err(error) => output::error(&format!("cannot handle signals ({error}); stop the worker with kill")),
        }
    }
}

/// Returns once the process is asked to leave. Listens from this call on, not only while it is waited for.
pub(super) fn asked_to_leave() -> impl Future<Output = ()> + Send {
    let signals = Signals::new();
    async move {
        match signals {
            Ok(mut signals) => signals.next().await,
            Err(_) => std::future::pending().await,
        }
    }
}

async fn obey(mut signals: Signals, shutdown: Shutdown) {
    let mut count = 0;
    loop {
        signals.next().await;
        count += 1;
        match count {
            1 => shutdown.drain.cancel(),
            2 => shutdown.now.cancel(),
            #[expect(clippy::disallowed_methods, reason = "a third signal asks for exactly this")]
            _ => std::process::exit(130),
        }
    }
}

/// The signals that ask a process to leave: SIGTERM, Ctrl-C, and SIGHUP, which a closed terminal or ssh session sends.
#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    /// Absent under `nohup`, which asks to go on without a terminal.
    hang_up: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let hang_up = if ignores_hang_up() { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())?, hang_up })
    }

    async fn next(&mut self) {
        let hung_up = async {
            match &mut self.hang_up {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = hung_up => {}
        }
    }
}

/// Whether this process was started with SIGHUP ignored. Only Linux says so without unsafe code: the lowest bit of
/// `SigIgn` is the first signal.
#[cfg(unix)]
fn ignores_hang_up() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 == 1))
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}
