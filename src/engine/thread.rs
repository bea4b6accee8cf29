//! The loop of the engine's thread: one command at a time, until the last handle is dropped.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

use qwen_image::{
    AppliedLora, Callbacks, DecomposeOptions, EditInputs, EditOptions, Error, LoadedModel, PipelineKind,
    QwenImagePipeline, Used, compute_pool,
};
use tokio::sync::{mpsc, watch};

use super::{AllowedLoras, Busy, CancelToken, EngineCommand, EngineConfig, Outcome, ProgressFn, Resident, Work};
use crate::job::{Caption, JobError, LoraRecord, ModelRecord, SamplingRecord, Stage, StageTiming};

pub fn run(config: EngineConfig, mut inbox: mpsc::Receiver<EngineCommand>, tell: watch::Sender<Resident>, busy: &Busy) {
    let _pool = compute_pool();
    let allowed = config.allowed_loras;
    let mut pipeline = QwenImagePipeline::lazy(config.model, config.pipeline);
    if let Ok(pipeline) = &mut pipeline {
        pipeline.on_models_changed(move |models| tell_resident(&tell, models));
    }
    while let Some(command) = inbox.blocking_recv() {
        busy.begin();
        let panicked = answer(&mut pipeline, &allowed, command);
        busy.end();
        if panicked {
            // Its state is no longer reliable: the process must be restarted.
            return;
        }
    }
}

/// Whether the work panicked.
fn answer(pipeline: &mut Result<QwenImagePipeline, Error>, allowed: &AllowedLoras, command: EngineCommand) -> bool {
    let pipeline = match pipeline {
        Ok(pipeline) => pipeline,
        Err(error) => {
            let reason = error.to_string();
            command.refuse(JobError::device("engine", reason));
            return false;
        }
    };
    // The caller may be gone; the result is then dropped.
    match command {
        EngineCommand::Test { reply } => drop(reply.send(pipeline.self_test().map_err(JobError::from))),
        EngineCommand::LoadEdit { cancel, mut progress, reply } => {
            let mut callbacks = callbacks(&mut progress, &cancel);
            drop(reply.send(pipeline.load_edit_model_with(&mut callbacks).map_err(JobError::from)));
        }
        EngineCommand::Run { work, cancel, mut progress, reply } => {
            let served = catch_unwind(AssertUnwindSafe(|| serve(pipeline, allowed, work, &cancel, &mut progress)));
            let panicked = served.is_err();
            drop(reply.send(served.unwrap_or_else(|panic| Err(panic_error(panic.as_ref())))));
            return panicked;
        }
    }
    false
}

fn panic_error(panic: &(dyn Any + Send)) -> JobError {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    let reason = format!("its thread panicked: {}", text.unwrap_or("unknown reason"));
    JobError::device("engine", reason)
}

fn serve(
    pipeline: &mut QwenImagePipeline,
    allowed: &AllowedLoras,
    work: Work,
    cancel: &CancelToken,
    progress: &mut ProgressFn,
) -> Result<Outcome, JobError> {
    let mut callbacks = callbacks(progress, cancel);
    let (images, caption, resolution, sampling, notes, used) = match work {
        Work::Decompose { image, params, seed } => {
            let loras = allowed.of(params.loras.as_deref())?;
            let options = DecomposeOptions { seed: Some(seed), loras, ..params.options() };
            let (made, used) = pipeline.decompose_with(&image, &options, &mut callbacks)?;
            (made.images, made.caption, Some(made.resolution), made.sampling, made.notes, used)
        }
        Work::Edit { image, references, params, seed } => {
            let inputs = EditInputs { image: &image, references: &references };
            let loras = allowed.of(params.loras.as_deref())?;
            let options = EditOptions { seed: Some(seed), loras, ..params.options() };
            let (made, used) = pipeline.edit_with(inputs, &params.instruction, &options, &mut callbacks)?;
            (vec![made.image], None, None, made.sampling, made.notes, used)
        }
    };
    let Used { model, device, notes: about } = used;
    Ok(Outcome {
        images,
        caption: caption.map(|caption| Caption { text: caption.text, tokens: caption.tokens }),
        resolution,
        notes: [about, notes].concat(),
        sampling: sampling_record(&model, sampling),
        model: record(model),
        device,
        timings: callbacks.timings().iter().map(timing).collect(),
    })
}

fn callbacks<'a>(progress: &'a mut ProgressFn, cancel: &'a CancelToken) -> Callbacks<'a> {
    Callbacks::default()
        .on_progress(|at, done, of| progress(stage(at), done, of))
        .cancelled_by(|| cancel.is_cancelled())
}

fn record(model: LoadedModel) -> ModelRecord {
    let LoadedModel { pipeline, id, revision, default, text_positions, image_processor, loras } = model;
    ModelRecord {
        pipeline: pipeline.class_name().to_owned(),
        id,
        revision,
        default,
        text_positions: text_positions.map(|positions| positions.as_str().to_owned()),
        image_processor: Some(image_processor.as_str().to_owned()),
        loras: loras.into_iter().map(lora).collect(),
    }
}

fn lora(lora: AppliedLora) -> LoraRecord {
    let AppliedLora { file, sha256, strength, rank, modules } = lora;
    LoraRecord { file, sha256, strength, rank, modules }
}

fn sampling_record(model: &LoadedModel, sampling: qwen_image::SamplingRecord) -> SamplingRecord {
    let qwen_image::SamplingRecord { sampler, sigmas, skipped_steps, passes } = sampling;
    let (pipeline, sampler) = (model.pipeline.class_name().to_owned(), sampler.as_str().to_owned());
    SamplingRecord { pipeline, sampler, sigmas, skipped_steps, passes }
}

fn timing(timing: &qwen_image::StageTiming) -> StageTiming {
    StageTiming { stage: stage(timing.stage), seconds: timing.seconds }
}

fn stage(stage: qwen_image::Stage) -> Stage {
    match stage {
        qwen_image::Stage::Load => Stage::Load,
        qwen_image::Stage::Caption => Stage::Caption,
        qwen_image::Stage::TextEncode => Stage::TextEncode,
        qwen_image::Stage::VaeEncode => Stage::VaeEncode,
        qwen_image::Stage::Denoise => Stage::Denoise,
        qwen_image::Stage::VaeDecode => Stage::VaeDecode,
    }
}

fn tell_resident(tell: &watch::Sender<Resident>, models: &[LoadedModel]) {
    let id_of =
        |pipeline: PipelineKind| models.iter().find(|model| model.pipeline == pipeline).map(|model| model.id.clone());
    tell.send_replace(Resident { decompose: id_of(PipelineKind::Layered), edit: id_of(PipelineKind::EditPlus) });
}
