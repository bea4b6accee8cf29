//! The loop of the engine's thread: one command at a time, until the last handle is gone.

use std::time::Instant;

use tokio::sync::{mpsc, watch};

use super::{
    CancelToken, Command, EngineConfig, Outcome, ProgressFn, Resident, Work,
    models::{Models, Watcher, device_error},
};
use crate::{
    job::{JobError, Stage, StageTiming},
    models::text_encoder::TextError,
    pipeline::{Control, PipelineError},
};

pub fn run(config: EngineConfig, mut inbox: mpsc::Receiver<Command>, tell: watch::Sender<Resident>) {
    let mut models = Models::new(config, tell);
    while let Some(command) = inbox.blocking_recv() {
        match command {
            Command::Run { work, cancel, mut progress, reply } => {
                // The caller may have gone; the result is then dropped, as it should be.
                let _ = reply.send(serve(&mut models, work, &cancel, &mut progress));
            }
            Command::LoadEdit { cancel, mut progress, reply } => {
                let mut watcher = Watcher { progress: &mut progress, cancel: &cancel };
                let _ = reply.send(models.edit(&mut watcher).map(|_| ()));
            }
        }
    }
}

fn serve(
    models: &mut Models,
    work: Work,
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
    let (images, caption, resolution, note, record, timings) = match work {
        Work::Decompose { image, params, seed } => {
            let loaded = models.decompose(&mut watcher)?;
            let load = loading();
            let mut control = Control::new(progress, &cancelled);
            let made = loaded
                .pipeline
                .run(&image, &params, seed, &mut control, |_, _| ())
                .map_err(|error| pipeline_error(&device, error))?;
            (
                made.images,
                made.caption,
                Some(made.resolution),
                loaded.pipeline.note().map(str::to_owned),
                loaded.record.clone(),
                [load, control.into_timings()].concat(),
            )
        }
        Work::Edit { images, params, seed } => {
            let loaded = models.edit(&mut watcher)?;
            let load = loading();
            let mut control = Control::new(progress, &cancelled);
            let made = loaded
                .pipeline
                .run(&images, &params, seed, &mut control, |_, _| ())
                .map_err(|error| pipeline_error(&device, error))?;
            (
                vec![made],
                None,
                None,
                loaded.pipeline.note().map(str::to_owned),
                loaded.record.clone(),
                [load, control.into_timings()].concat(),
            )
        }
    };
    Ok(Outcome { images, caption, note, resolution, model: record, device: models.description(), timings })
}

fn pipeline_error(device: &str, error: PipelineError) -> JobError {
    match error {
        PipelineError::Cancelled => JobError::Cancelled,
        PipelineError::NonFinite { step } => JobError::NonFinite { step },
        PipelineError::Invalid { field, reason } => JobError::invalid(field, reason),
        PipelineError::Text(error) => text_error(device, error),
        PipelineError::Device(error) => device_error(device, &error),
    }
}

fn text_error(device: &str, error: TextError) -> JobError {
    match error {
        TextError::Device(error) => device_error(device, &error),
        TextError::NonFinite { .. } | TextError::Tokenizer(_) | TextError::NoHead => {
            JobError::Device { device: device.to_owned(), reason: error.to_string() }
        }
        TextError::TooLong { .. } | TextError::Placeholders { .. } => JobError::invalid("params", error.to_string()),
        TextError::Picture { .. } => JobError::invalid("input", error.to_string()),
    }
}
