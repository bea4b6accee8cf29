//! The spans of an attempt.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::debug;

use super::{JobControl, StopReason, Verdict, Worker};
use crate::{
    database::JobRow,
    job::{JobError, JobState, Stage},
    queue::Delivery,
    trace::{self, CurrentSpan, Processed, Span},
};

/// The span of the attempt that has just been claimed.
pub(super) fn begin(worker: &Worker, row: &JobRow, delivery: &Delivery) -> Span {
    let kind = row.request.task.kind();
    trace::process(&Processed {
        destination: &delivery.destination(kind),
        job: row.id(),
        kind,
        message_id: delivery.message_id(),
        batch: row.batch.as_ref(),
        worker: &worker.options.name.to_string(),
        attempt: row.attempts,
        epoch: row.epoch.0,
        submitted: row.trace.as_ref(),
    })
}

/// Keeps the span with the attempt, and links it to the attempt before. A job goes on without it.
pub(super) async fn keep(worker: &Worker, row: &JobRow, span: &Span) {
    let Some(own) = span.own() else { return };
    match worker.jobs.trace_attempt(row.id(), row.epoch, &own).await {
        Ok(Some(before)) => span.add_link("previous_attempt", &before),
        Ok(None) => {}
        Err(error) => debug!(%error, "the attempt's span was not kept with its row"),
    }
}

/// How the attempt ended.
pub(super) fn end(span: Span, verdict: &Result<Verdict, JobError>, control: &JobControl) {
    match verdict {
        Ok(Verdict::Settled(row)) => {
            span.set("acetate.job.state", row.state.as_str());
            let failed = match row.state {
                JobState::Failed => true,
                // A job that is given back has the error of an earlier attempt.
                JobState::Queued => control.why() != Some(StopReason::GiveBack),
                JobState::Running | JobState::Succeeded | JobState::Cancelled => false,
            };
            if let Some(error) = row.error.as_ref().filter(|_| failed) {
                span.fail(&error.code, &error.message);
            }
        }
        Ok(Verdict::Lost) => span.fail("lease_lost", "another worker has the job"),
        Ok(Verdict::NotTaken(_) | Verdict::Refused(_)) => {}
        Err(error) => span.fail(error.code(), &error.to_string()),
    }
}

/// The spans of the engine's stages, from its progress. Clones share them.
#[derive(Clone)]
pub(super) struct EngineSpans {
    attempt: CurrentSpan,
    current: Arc<Mutex<Option<Current>>>,
}

struct Current {
    stage: Stage,
    span: Span,
    step: u32,
}

impl EngineSpans {
    /// As parts of the span of the running code.
    pub(super) fn here() -> Self {
        Self { attempt: trace::current_span(), current: Arc::default() }
    }

    /// Called on the engine's thread.
    pub(super) fn at(&self, stage: Stage, step: u32, steps: u32) {
        let mut current = self.lock();
        if current.as_ref().is_none_or(|current| current.stage != stage) {
            // The last one ends before the next one begins.
            *current = None;
            let span = trace::stage(stage, &self.attempt);
            *current = Some(Current { stage, span, step: 0 });
        }
        let Some(current) = current.as_mut().filter(|current| stage == Stage::Denoise && step > current.step) else {
            return;
        };
        current.step = step;
        // The engine does not know their number when the stage begins.
        current.span.set("acetate.steps", i64::from(steps));
        current.span.add_event("step", "acetate.step", i64::from(step));
    }

    /// The engine has answered.
    pub(super) fn end<T>(&self, result: &Result<T, JobError>) {
        if let Some(Current { span, .. }) = self.lock().take() {
            span.end_with(result);
        }
    }

    /// No code under the lock can leave it inconsistent.
    fn lock(&self) -> MutexGuard<'_, Option<Current>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
