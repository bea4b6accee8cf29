//! Shows a run's progress on stderr: a bar on a terminal, occasional lines elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle as BarStyle};
use tokio::{sync::watch, task::JoinHandle};

use super::{global::ProgressStyle, output, view::progress_text};
use crate::job::{Progress, Stage};

/// At most one line in this time, in addition to the first line of each stage.
const LINE_EVERY: Duration = Duration::from_secs(15);

const TICK: Duration = Duration::from_millis(120);

/// Shows progress until it is finished.
pub struct Shown {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

pub fn show(mut progress: watch::Receiver<Option<Progress>>, style: ProgressStyle) -> Shown {
    let (stop, mut stopped) = watch::channel(false);
    let task = tokio::spawn(async move {
        let mut view = match style {
            ProgressStyle::Bar => View::Bar(Bar::default()),
            ProgressStyle::Lines => View::Lines(Lines::default()),
            ProgressStyle::None => return,
        };
        loop {
            tokio::select! {
                changed = progress.changed() => if changed.is_err() { break },
                _ = stopped.changed() => break,
            }
            let latest = *progress.borrow_and_update();
            if let Some(latest) = latest {
                view.update(&latest);
            }
        }
        view.end();
    });
    Shown { stop, task }
}

impl Shown {
    /// Removes the bar, so that later output is not mixed with it.
    pub async fn finish(self) {
        drop(self.stop);
        let _ = self.task.await;
    }
}

enum View {
    Bar(Bar),
    Lines(Lines),
}

impl View {
    fn update(&mut self, progress: &Progress) {
        match self {
            Self::Bar(bar) => bar.update(progress),
            Self::Lines(lines) => lines.update(progress),
        }
    }

    fn end(&mut self) {
        if let Self::Bar(bar) = self {
            bar.end_stage();
        }
    }
}

#[derive(Default)]
struct Bar {
    current: Option<(Begun, ProgressBar)>,
}

impl Bar {
    fn update(&mut self, progress: &Progress) {
        let new = self.current.as_ref().is_none_or(|(begun, _)| begun.stage != progress.stage);
        if new {
            self.end_stage();
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_prefix(name(progress.stage));
            self.current = Some((Begun::now(progress), bar));
        }
        let Some((begun, bar)) = &self.current else { return };
        let template = if progress.steps > 1 {
            "{prefix:>14} {bar:32} {pos}/{len}  {msg}"
        } else {
            "{prefix:>14} {spinner} {elapsed}"
        };
        if let Ok(style) = BarStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_length(u64::from(progress.steps.max(1)));
        bar.set_position(u64::from(progress.step));
        bar.set_message(begun.pace(progress));
        if new {
            // A tick draws the bar, so its style has to be set first.
            bar.enable_steady_tick(TICK);
        }
    }

    /// Prints one line about a stage that took a while.
    fn end_stage(&mut self) {
        let Some((begun, bar)) = self.current.take() else { return };
        bar.finish_and_clear();
        let seconds = begun.at.elapsed().as_secs_f64();
        if seconds >= 0.1 {
            output::error(&format!("{:>14} {}", name(begun.stage), output::duration(seconds)));
        }
    }
}

#[derive(Default)]
struct Lines {
    current: Option<Begun>,
    last: Option<Instant>,
}

impl Lines {
    fn update(&mut self, progress: &Progress) {
        let new = self.current.as_ref().is_none_or(|begun| begun.stage != progress.stage);
        if new {
            self.current = Some(Begun::now(progress));
        }
        let due = self.last.get_or_insert_with(Instant::now).elapsed() >= LINE_EVERY;
        // The quick stages before and after the model get no line.
        let worth_a_line = matches!(
            progress.stage,
            Stage::Load | Stage::Caption | Stage::TextEncode | Stage::Denoise | Stage::VaeDecode
        );
        if !(due && !new || new && worth_a_line) {
            return;
        }
        self.last = Some(Instant::now());
        let pace = self.current.as_ref().map(|begun| begun.pace(progress)).filter(|pace| !pace.is_empty());
        let pace = pace.map_or(String::new(), |pace| format!(", {pace}"));
        output::error(&format!("{}{pace}", progress_text(progress)));
    }
}

/// A stage when it was first seen, possibly in its middle.
struct Begun {
    stage: Stage,
    at: Instant,
    step: u32,
}

impl Begun {
    fn now(progress: &Progress) -> Self {
        Self { stage: progress.stage, at: Instant::now(), step: progress.step }
    }

    /// `1.2 s per step, 40.8 s left`, for stages with equal steps; empty before the first step.
    fn pace(&self, progress: &Progress) -> String {
        let seen = progress.step.saturating_sub(self.step);
        if seen == 0 || progress.stage != Stage::Denoise {
            return String::new();
        }
        let per_step = self.at.elapsed().as_secs_f64() / f64::from(seen);
        let left = per_step * f64::from(progress.steps.saturating_sub(progress.step));
        format!("{per_step:.2} s per step, {} left", output::duration(left))
    }
}

fn name(stage: Stage) -> String {
    stage.as_str().replace('_', " ")
}
