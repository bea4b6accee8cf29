//! Callbacks to watch, stop and change a run.

use std::time::Instant;

use candle_core::Tensor;

use super::error::{PipelineError, Result};

/// The stages of a run, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// A checkpoint is downloaded or loaded; counted in MiB.
    Load,
    /// The text encoder writes a caption; counted in tokens.
    Caption,
    /// The text encoder reads the prompt.
    TextEncode,
    /// The VAE encodes the input pictures.
    VaeEncode,
    /// Counted in denoise steps.
    Denoise,
    /// Counted in pictures.
    VaeDecode,
}

impl Stage {
    /// The name in manifests and progress.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Caption => "caption",
            Self::TextEncode => "text_encode",
            Self::VaeEncode => "vae_encode",
            Self::Denoise => "denoise",
            Self::VaeDecode => "vae_decode",
        }
    }
}

/// The duration of a stage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StageTiming {
    /// The stage.
    pub stage: Stage,
    /// Its duration in seconds.
    pub seconds: f64,
}

/// Called with `(stage, done, of)`; `of` is 0 while it is unknown. Runs on the computing thread, so it must be quick.
pub type OnProgress<'a> = dyn FnMut(Stage, u32, u32) + 'a;

/// Called with the number of the completed step, from 1 for each seed, and the packed latents `(1, tokens, channels)`,
/// float32, which it may change, for instance for masks; it can also make previews. diffusers calls it
/// `callback_on_step_end`.
pub type OnStepEnd<'a> = dyn FnMut(usize, &mut Tensor) -> candle_core::Result<()> + 'a;

/// The callbacks of one call.
pub struct Callbacks<'a> {
    on_progress: Box<OnProgress<'a>>,
    is_cancelled: Box<dyn Fn() -> bool + 'a>,
    on_step_end: Box<OnStepEnd<'a>>,
    timings: Vec<StageTiming>,
    /// Which of how many equal parts of a stage is running.
    part: (usize, usize),
}

impl Default for Callbacks<'_> {
    /// No callbacks; the call cannot be stopped.
    fn default() -> Self {
        Self {
            on_progress: Box::new(|_, _, _| ()),
            is_cancelled: Box::new(|| false),
            on_step_end: Box::new(|_, _| Ok(())),
            timings: Vec::new(),
            part: (0, 1),
        }
    }
}

impl<'a> Callbacks<'a> {
    /// `on_progress` is called with the progress of the call.
    #[must_use]
    pub fn on_progress(self, on_progress: impl FnMut(Stage, u32, u32) + 'a) -> Self {
        Self { on_progress: Box::new(on_progress), ..self }
    }

    /// `is_cancelled` is called between steps; if it returns true, the call ends with [`crate::Error::Cancelled`].
    #[must_use]
    pub fn cancelled_by(self, is_cancelled: impl Fn() -> bool + 'a) -> Self {
        Self { is_cancelled: Box::new(is_cancelled), ..self }
    }

    /// `on_step_end` is called with the latents after every denoise step, and may change them.
    #[must_use]
    pub fn on_step_end(self, on_step_end: impl FnMut(usize, &mut Tensor) -> candle_core::Result<()> + 'a) -> Self {
        Self { on_step_end: Box::new(on_step_end), ..self }
    }

    /// The durations of the completed stages, in order.
    pub fn timings(&self) -> &[StageTiming] {
        &self.timings
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        (self.is_cancelled)()
    }

    /// Reports the progress of a stage, without checking for cancellation.
    pub(crate) fn progress(&mut self, stage: Stage, done: u32, of: u32) {
        (self.on_progress)(stage, done, of);
    }

    /// Reports the progress of a stage, and fails if the run is cancelled. Within a part, the progress is that of all
    /// parts.
    pub(crate) fn report(&mut self, stage: Stage, done: usize, of: usize) -> Result<()> {
        let (part, parts) = self.part;
        self.progress(stage, (part * of + done) as u32, (parts * of) as u32);
        if self.is_cancelled() { Err(PipelineError::Cancelled) } else { Ok(()) }
    }

    pub(crate) fn step_ended(&mut self, step: usize, latents: &mut Tensor) -> Result<()> {
        Ok((self.on_step_end)(step, latents)?)
    }

    /// Runs one of several equal parts of a stage, such as one of several pictures.
    pub(crate) fn in_part<T>(&mut self, part: usize, parts: usize, run: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.part, (part, parts));
        let made = run(self);
        self.part = before;
        made
    }

    /// Adds the seconds of `run` to the timings.
    pub(crate) fn timed<T>(&mut self, stage: Stage, run: impl FnOnce(&mut Self) -> T) -> T {
        let start = Instant::now();
        let result = run(self);
        self.timings.push(StageTiming { stage, seconds: start.elapsed().as_secs_f64() });
        result
    }

    /// Runs a stage and adds its seconds to the timings. The closure gets the callbacks for its own reports.
    pub(crate) fn stage<T>(&mut self, stage: Stage, run: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.report(stage, 0, 0)?;
        self.timed(stage, run)
    }
}
