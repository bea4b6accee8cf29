//! A command over many jobs: a progress bar, and Ctrl-C, which stops it between two steps.

use std::{
    io::IsTerminal,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;

use crate::cli::{global::GlobalArgs, output};

/// Without a terminal, one line in this time.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Ends the bar and the handling of Ctrl-C when it is dropped.
pub struct Sweep {
    bar: ProgressBar,
    what: &'static str,
    total: u64,
    /// The last line, where lines are shown instead of the bar.
    said: Option<Instant>,
    stopped: Arc<AtomicBool>,
    listener: JoinHandle<()>,
}

impl Sweep {
    /// `what` is being done to `total` jobs or so.
    pub fn start(global: &GlobalArgs, what: &'static str, total: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let shown = terminal && !global.is_quiet();
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        if let Ok(style) = ProgressStyle::with_template("{prefix:>14} {bar:32} {pos}/{len}  {per_sec}, {eta} left") {
            bar.set_style(style);
        }
        bar.set_prefix(what);
        let stopped = Arc::new(AtomicBool::new(false));
        let listener = tokio::spawn(listen(stopped.clone()));
        let said = (!terminal && !global.is_quiet()).then(Instant::now);
        Self { bar, what, total, said, stopped, listener }
    }

    /// So many more are done; returns whether to go on.
    pub fn add(&mut self, jobs: u64) -> bool {
        self.bar.inc(jobs);
        if self.said.is_some_and(|at| at.elapsed() >= LINE_EVERY) {
            self.said = Some(Instant::now());
            output::error(&format!("{}: {}/{}", self.what, self.bar.position(), self.total));
        }
        !self.is_stopped()
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        self.listener.abort();
        self.bar.finish_and_clear();
    }
}

/// What is done stays done, so the second Ctrl-C need not wait for the end of a step.
async fn listen(stopped: Arc<AtomicBool>) {
    if tokio::signal::ctrl_c().await.is_err() {
        return;
    }
    stopped.store(true, Ordering::Relaxed);
    output::error("stopping after this step; press Ctrl-C again to exit now");
    if tokio::signal::ctrl_c().await.is_ok() {
        #[expect(clippy::disallowed_methods, reason = "a second Ctrl-C asks for exactly this")]
        std::process::exit(130);
    }
}
