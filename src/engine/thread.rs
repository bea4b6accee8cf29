//! The loop of the engine's thread: one command at a time, until the last handle is gone.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use tokio::sync::{mpsc, watch};

use super::{
    Busy, CancelToken, Command, EngineConfig, Outcome, ProgressFn, Resident, Work,
    models::{Loaded, Models, Watcher, device_error},
};
use crate::{
    job::{JobError, ModelRecord, Stage, StageTiming},
    models::text_encoder::TextError,
    pipeline::{Control, PipelineError},
};

pub fn run(config: EngineConfig, mut inbox: mpsc::Receiver<Command>, tell: watch::Sender<Resident>, busy: &Busy) {
    let _pool = pool();
    let mut models = Models::new(config, tell);
    while let Some(command) = inbox.blocking_recv() {
        busy.begin();
        match command {
            Command::Test { reply } => {
                let _ = reply.send(models.self_test());
            }
            Command::Run { work, cancel, mut progress, reply } => {
                let served = catch_unwind(AssertUnwindSafe(|| serve(&mut models, &work, &cancel, &mut progress)));
                let panicked = served.is_err();
                // The caller may have gone; the result is then dropped, as it should be.
                let _ = reply.send(served.unwrap_or_else(|panic| Err(panic_error(panic.as_ref()))));
                if panicked {
                    // Whatever it left behind is not to be trusted: the process must be restarted.
                    return;
                }
            }
            Command::LoadEdit { cancel, mut progress, reply } => {
                let mut watcher = Watcher { progress: &mut progress, cancel: &cancel };
                let _ = reply.send(models.edit(&mut watcher).map(|_| ()));
            }
        }
        busy.end();
    }
}

/// A pool of threads of which this one is a member, for all that is computed here in parallel. Beside a pool that has a
/// thread for every processor it would be one too many, and they would wait for each other at every short product.
/// rayon keeps the pool's memory after its end, which is the process's.
pub(super) fn pool() -> Option<rayon::ThreadPool> {
    let builder = rayon::ThreadPoolBuilder::new().use_current_thread().thread_name(|_| "engine".to_owned());
    builder.build().inspect_err(|error| tracing::warn!(%error, "the engine computes with one thread")).ok()
}

fn panic_error(panic: &(dyn Any + Send)) -> JobError {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    let reason = format!("its thread panicked: {}", text.unwrap_or("for an unknown reason"));
    JobError::Device { device: "engine".to_owned(), reason }
}

/// One call. When the device runs out of memory it is planned smaller, and the call runs once more.
fn serve(
    models: &mut Models,
    work: &Work,
    cancel: &CancelToken,
    progress: &mut ProgressFn,
) -> Result<Outcome, JobError> {
    match serve_once(models, work, cancel, progress) {
        Err(JobError::OutOfMemory { device, reason }) if models.shrink() => {
            tracing::warn!(device, reason, "out of memory; trying again with less on the device");
            match serve_once(models, work, cancel, progress) {
                Ok(mut outcome) => {
                    outcome.notes.push(format!("{device} ran out of memory once; the job ran with less on it"));
                    Ok(outcome)
                }
                // Nothing smaller is allowed, or fits: what the job met is the device's state, not the model's size.
                Err(JobError::ModelTooLarge { .. }) => Err(JobError::OutOfMemory { device, reason }),
                Err(error) => Err(error),
            }
        }
        result => result,
    }
}

fn serve_once(
    models: &mut Models,
    work: &Work,
    cancel: &CancelToken,
    progress: &mut ProgressFn,
) -> Result<Outcome, JobError> {
    if cancel.is_cancelled() {
        return Err(JobError::Cancelled);
    }
    let start = Instant::now();
    let loading = || vec![StageTiming { stage: Stage::Load, seconds: start.elapsed().as_secs_f64() }];
    let mut watcher = Watcher { progress, cancel };
    let device = models.device_name();
    let cancelled = || cancel.is_cancelled();
    let outcome = match work {
        Work::Decompose { image, params, seed } => {
            let Loaded { pipeline, record, plan, .. } = models.decompose(&mut watcher)?;
            let plan = *plan;
            let load = loading();
            let mut control = Control::new(progress, &cancelled);
            let made = pipeline
                .run(image, params, *seed, &mut control, |_, _| ())
                .map_err(|error| pipeline_error(&device, "prompt", error))?;
            Outcome {
                images: made.images,
                caption: made.caption,
                resolution: Some(made.resolution),
                notes: about(record, pipeline.note()).into_iter().chain(made.notes).collect(),
                model: record.clone(),
                timings: [load, control.into_timings()].concat(),
                device: models.describe_with(plan.as_ref()),
            }
        }
        Work::Edit { images, params, seed } => {
            let Loaded { pipeline, record, plan, .. } = models.edit(&mut watcher)?;
            let plan = *plan;
            let load = loading();
            let mut control = Control::new(progress, &cancelled);
            let edited = pipeline
                .run(images, params, *seed, &mut control, |_, _| ())
                .map_err(|error| pipeline_error(&device, "instruction", error))?;
            Outcome {
                images: vec![edited],
                caption: None,
                resolution: None,
                notes: about(record, pipeline.note()).into_iter().collect(),
                model: record.clone(),
                timings: [load, control.into_timings()].concat(),
                device: models.describe_with(plan.as_ref()),
            }
        }
    };
    Ok(outcome)
}

/// What a checkpoint says about itself, with its name.
fn about(record: &ModelRecord, note: Option<&str>) -> Option<String> {
    note.map(|note| format!("{}: {note}", record.id))
}

/// `text` is the parameter that the text encoder reads first.
fn pipeline_error(device: &str, text: &str, error: PipelineError) -> JobError {
    match error {
        PipelineError::Cancelled => JobError::Cancelled,
        PipelineError::NonFinite { step } => JobError::NonFinite { step },
        PipelineError::Invalid { field, reason } => JobError::invalid(field, reason),
        PipelineError::Text(error) => text_error(device, text, error),
        PipelineError::Device(error) => device_error(device, &error),
    }
}

fn text_error(device: &str, text: &str, error: TextError) -> JobError {
    match error {
        TextError::Device(error) => device_error(device, &error),
        TextError::NonFinite { .. } | TextError::Tokenizer(_) | TextError::NoHead => {
            JobError::Device { device: device.to_owned(), reason: error.to_string() }
        }
        TextError::TooLong { .. } | TextError::Placeholders { .. } => {
            JobError::invalid(format!("params.{text}"), error.to_string())
        }
        TextError::Picture { .. } => JobError::invalid("input", error.to_string()),
    }
}
