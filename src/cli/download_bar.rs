//! Shows a download: a bar on a terminal, a log line every ten seconds elsewhere.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use qwen_image::hub::DownloadEvent;

const LOG_EVERY: Duration = Duration::from_secs(10);
/// Log lines show the rate of the last minute.
const RATE_OVER: usize = 6;

/// A listener for [`qwen_image::hub::resolve`]. `on_terminal` selects the bar (drawn on stderr); `stopped` is called at
/// every event and cancels the download by returning true.
pub fn download_bar(on_terminal: bool, stopped: impl Fn() -> bool) -> impl FnMut(DownloadEvent) -> ControlFlow<()> {
    let mut bar = on_terminal.then(new_bar);
    let mut log = (!on_terminal).then(Log::default);
    move |event| {
        if let Some(bar) = &mut bar {
            draw(bar, &event);
        }
        if let Some(log) = &mut log {
            log.take(&event);
        }
        if stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

fn new_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let template = "{bytes:>10} of {total_bytes} {wide_bar} {bytes_per_sec}, {eta} left  {msg}";
    ProgressStyle::with_template(template).map(|style| bar.set_style(style)).ok();
    bar
}

fn draw(bar: &ProgressBar, event: &DownloadEvent) {
    match event {
        DownloadEvent::Planned { bytes, present, .. } => {
            bar.set_length(*bytes);
            bar.set_position(*present);
            // Rate and time left count this download only, not the bytes that were already there.
            bar.reset_eta();
        }
        DownloadEvent::Started { file, .. } => bar.set_message(file.clone()),
        DownloadEvent::Progressed { bytes, .. } => bar.set_position(*bytes),
        DownloadEvent::Locked { file } => bar.set_message(format!("{file}: another process is downloading it")),
        DownloadEvent::Retrying { file, reason, wait } => {
            bar.println(format!("{file}: {reason}; retrying in {:.0} s", wait.as_secs_f64().ceil()));
        }
        DownloadEvent::Unreachable { reason } => bar.println(format!("using the copy in the cache: {reason}")),
        DownloadEvent::Waiting => bar.tick(),
        DownloadEvent::Verified { .. } => {}
        DownloadEvent::Finished { .. } => bar.finish_and_clear(),
    }
}

/// Log lines; the last ones, as `(when, bytes)`, give the rate.
#[derive(Default)]
struct Log {
    total: u64,
    points: VecDeque<(Instant, u64)>,
}

impl Log {
    fn take(&mut self, event: &DownloadEvent) {
        match event {
            DownloadEvent::Planned { id, commit, files, bytes, present } => {
                self.total = *bytes;
                self.points = VecDeque::from([(Instant::now(), *present)]);
                tracing::info!(%id, %commit, files, bytes, present, "downloading a model");
            }
            DownloadEvent::Progressed { file, bytes, .. } => self.progressed(file, *bytes),
            DownloadEvent::Locked { file } => tracing::info!(%file, "another process is downloading this file"),
            DownloadEvent::Retrying { file, reason, wait } => {
                tracing::warn!(%file, %reason, wait_seconds = wait.as_secs_f64(), "download interrupted");
            }
            DownloadEvent::Verified { file } => tracing::info!(%file, "verified"),
            DownloadEvent::Unreachable { reason } => tracing::warn!(%reason, "using the copy in the cache"),
            DownloadEvent::Finished { folder } if self.total > 0 => {
                tracing::info!(folder = %folder.display(), "model downloaded");
            }
            DownloadEvent::Finished { .. } | DownloadEvent::Started { .. } | DownloadEvent::Waiting => {}
        }
    }

    fn progressed(&mut self, file: &str, bytes: u64) {
        let now = Instant::now();
        if self.points.back().is_none_or(|(last, _)| now - *last < LOG_EVERY) {
            return;
        }
        let (then, bytes_then) = self.points[0];
        let rate = bytes.saturating_sub(bytes_then) as f64 / (now - then).as_secs_f64();
        let left = (rate > 0.0).then(|| Duration::from_secs_f64(self.total.saturating_sub(bytes) as f64 / rate));
        let left = left.map_or("unknown".to_owned(), |left| HumanDuration(left).to_string());
        tracing::info!(%file, bytes, of = self.total, bytes_per_second = rate as u64, %left, "downloading");
        self.points.push_back((now, bytes));
        if self.points.len() > RATE_OVER {
            self.points.pop_front();
        }
    }
}
