//! The loop of a device's thread: one command at a time, until the last handle is dropped.

use std::{
    any::Any,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use qwen_image::{
    AppliedLora, Callbacks, DecomposeOptions, DecomposeOutput, EditInputs, EditOptions, EditOutput, LoadedModel,
    PipelineKind, PipelineOptions, QwenImagePipeline, RunRecord, compute_pool, hub::ModelRef,
};
use tokio::sync::mpsc;
use tracing::{error, warn};

use super::{
    AllowedLoras, BusyTime, CallContext, CancelToken, DeviceCommand, EngineOutput, ProgressFn, Resident, SeedOutput,
    SeedOutputs, Work, pool::Pool,
};
use crate::job::{
    Caption, DriftRecord, EditRecord, JobError, LoraRecord, ModelRecord, SamplingRecord, Stage, StageTiming,
};

pub struct Thread {
    pub model: ModelRef,
    pub options: PipelineOptions,
    pub allowed_loras: AllowedLoras,
    pub name_layers: bool,
    /// The device's name, or both if there are two.
    pub name: String,
    /// The device's number in the pool.
    pub index: usize,
    /// Whether there are no other devices.
    pub alone: bool,
    pub pool: Arc<Pool>,
    pub busy: BusyTime,
}

/// What becomes of the device after a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    GoOn,
    /// All models are unloaded, as if the process were restarted.
    Renew,
    /// It is not used any more.
    Leave,
}

impl Thread {
    pub fn run(self, mut inbox: mpsc::Receiver<DeviceCommand>) {
        let _pool = compute_pool();
        let mut pipeline = self.pipeline();
        while let Some(command) = inbox.blocking_recv() {
            self.busy.begin();
            let after = self.answer(&mut pipeline, command);
            self.busy.end();
            match after {
                After::GoOn => {}
                After::Renew => {
                    self.pool.models_changed(self.index, Resident::default());
                    drop(pipeline);
                    pipeline = self.pipeline();
                }
                After::Leave => return,
            }
        }
    }

    fn pipeline(&self) -> Result<QwenImagePipeline, JobError> {
        let pipeline = QwenImagePipeline::lazy(self.model.clone(), self.options.clone());
        let mut pipeline = pipeline.map_err(|error| JobError::device("engine", error.to_string()))?;
        let (pool, index) = (self.pool.clone(), self.index);
        pipeline.on_models_changed(move |models| pool.models_changed(index, resident(models)));
        Ok(pipeline)
    }

    fn answer(&self, pipeline: &mut Result<QwenImagePipeline, JobError>, command: DeviceCommand) -> After {
        let pipeline = pipeline.as_mut().map_err(|error| error.clone());
        // The callers may be gone; the results are then dropped. A device leaves before its caller hears of it, because
        // the caller asks whether there are others.
        match command {
            DeviceCommand::Test { reply } => {
                let tested = pipeline.and_then(|pipeline| pipeline.self_test().map_err(JobError::from));
                let after = self.after(&tested, false);
                drop(reply.send(tested));
                after
            }
            DeviceCommand::LoadEdit { task: CallContext { cancel, mut progress, lent }, reply } => {
                let loaded = pipeline.and_then(|pipeline| {
                    let mut callbacks = callbacks(&mut progress, &cancel);
                    pipeline.load_edit_model_with(&mut callbacks).map_err(JobError::from)
                });
                let after = self.after(&loaded, false);
                drop(lent);
                drop(reply.send(loaded));
                after
            }
            DeviceCommand::Run { work, seeds, task: CallContext { cancel, mut progress, lent }, reply } => {
                let (served, panicked) = match pipeline {
                    Ok(pipeline) => {
                        let served = catch_unwind(AssertUnwindSafe(|| {
                            self.serve(pipeline, *work, seeds, &cancel, &mut progress)
                        }));
                        let panicked = served.is_err();
                        (served.unwrap_or_else(|panic| Err(panic_error(panic.as_ref()))), panicked)
                    }
                    Err(error) => (Err(error), false),
                };
                let after = self.after(&served, panicked);
                drop(lent);
                drop(reply.send(served));
                after
            }
        }
    }

    fn serve(
        &self,
        pipeline: &mut QwenImagePipeline,
        work: Work,
        seeds: Option<SeedOutputs>,
        cancel: &CancelToken,
        progress: &mut ProgressFn,
    ) -> Result<EngineOutput, JobError> {
        let mut callbacks = callbacks(progress, cancel);
        let mut only = None;
        let (seeds, each) = match seeds {
            Some(SeedOutputs { seeds, each }) => (seeds, Some(each)),
            None => (vec![work.seed()], None),
        };
        let mut deliver = |output: SeedOutput| {
            let Some(each) = &each else {
                only = Some(output);
                return ControlFlow::Continue(());
            };
            // Waits until the receiver has room, so that few pictures are in memory.
            if each.blocking_send(output).is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let RunRecord { model, device, notes } = match work {
            Work::Decompose { image, params, seed: _ } => {
                let (loras, name_layers) = (self.allowed_loras.of(params.loras.as_deref())?, self.name_layers);
                let options = DecomposeOptions { loras, name_layers, ..params.options() };
                pipeline.decompose_seeds(&image, &options, &seeds, &mut callbacks, |made| deliver(made.into()))?
            }
            Work::Edit { image, references, mask, params, seed: _ } => {
                let inputs = EditInputs { image: &image, references: &references, mask: mask.as_ref() };
                let mut options =
                    EditOptions { loras: self.allowed_loras.of(params.loras.as_deref())?, ..params.options() };
                // A mask that lets everything change is none, and has no edge.
                options.feather = options.feather.filter(|_| mask.is_some() || options.keep_rest);
                let deliver = |made: EditOutput| deliver(made.into());
                pipeline.edit_seeds(inputs, &params.instruction, &options, &seeds, &mut callbacks, deliver)?
            }
        };
        let timings = callbacks.timings().iter().map(timing).collect();
        let outcome = EngineOutput {
            images: Vec::new(),
            layer_names: Vec::new(),
            caption: None,
            notes,
            resolution: None,
            edit: None,
            sampling: None,
            weights: model.weights.clone(),
            model: record(model),
            device,
            timings,
        };
        let Some(SeedOutput { seed: _, images, layer_names, caption, notes, resolution, edit, sampling }) = only else {
            return Ok(outcome);
        };
        let (notes, sampling) = ([outcome.notes, notes].concat(), Some(sampling));
        Ok(EngineOutput { images, layer_names, caption, notes, resolution, edit, sampling, ..outcome })
    }

    /// The only device stays, unless its models' state is not reliable any more: its caller restarts the process.
    fn after<T>(&self, result: &Result<T, JobError>, panicked: bool) -> After {
        match result {
            Err(JobError::OutOfMemory { device, .. }) if !self.alone => {
                warn!(device, "out of memory: unloading all models of this device");
                After::Renew
            }
            Err(JobError::Device { reason, .. }) if panicked || !self.alone => {
                error!(device = self.name, reason, "this device is not used any more");
                self.pool.leave(self.index);
                After::Leave
            }
            Ok(_) | Err(_) => After::GoOn,
        }
    }
}

fn panic_error(panic: &(dyn Any + Send)) -> JobError {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    let reason = format!("its thread panicked: {}", text.unwrap_or("unknown reason"));
    JobError::device("engine", reason)
}

impl Work {
    fn seed(&self) -> u64 {
        match self {
            Self::Decompose { seed, .. } | Self::Edit { seed, .. } => *seed,
        }
    }
}

impl From<DecomposeOutput> for SeedOutput {
    fn from(made: DecomposeOutput) -> Self {
        let DecomposeOutput { images, layer_names, caption, resolution, seed, sampling, notes } = made;
        Self {
            seed,
            images,
            layer_names,
            caption: caption.map(|caption| Caption { text: caption.text, tokens: caption.tokens }),
            notes,
            resolution: Some(resolution),
            edit: None,
            sampling: sampling_record(PipelineKind::Layered, sampling),
        }
    }
}

impl From<EditOutput> for SeedOutput {
    fn from(made: EditOutput) -> Self {
        let edit = edit_record(&made);
        let EditOutput { image, seed, sampling, notes, .. } = made;
        Self {
            seed,
            images: vec![image],
            layer_names: Vec::new(),
            caption: None,
            notes,
            resolution: None,
            edit,
            sampling: sampling_record(PipelineKind::EditPlus, sampling),
        }
    }
}

fn callbacks<'a>(progress: &'a mut ProgressFn, cancel: &'a CancelToken) -> Callbacks<'a> {
    Callbacks::default()
        .on_progress(|at, done, of| progress(stage(at), done, of))
        .cancelled_by(|| cancel.is_cancelled())
}

fn record(model: LoadedModel) -> ModelRecord {
    let LoadedModel { pipeline, id, revision, weights: _, default, text_positions, image_processor, loras } = model;
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

fn sampling_record(pipeline: PipelineKind, sampling: qwen_image::SamplingRecord) -> SamplingRecord {
    let qwen_image::SamplingRecord { sampler, sigmas, skipped_steps, passes, parallel_passes: _ } = sampling;
    let (pipeline, sampler) = (pipeline.class_name().to_owned(), sampler.as_str().to_owned());
    SamplingRecord { pipeline, sampler, sigmas, skipped_steps, passes }
}

/// Rounded to what can be measured.
fn edit_record(made: &EditOutput) -> Option<EditRecord> {
    let rounded = |value: f64, to: f64| (value * to).round() / to;
    let drift = made.drift.map(|qwen_image::DriftRecord { shift, zoom, undone }| DriftRecord {
        shift: shift.map(|shift| rounded(shift, 1e3)),
        zoom: rounded(zoom, 1e5),
        undone,
    });
    let [changed, alpha_changed] =
        [made.changed, made.alpha_changed].map(|share| share.map(|share| rounded(share, 1e5)));
    let record = EditRecord { drift, changed, alpha_changed };
    (record != EditRecord::default()).then_some(record)
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

fn resident(models: &[LoadedModel]) -> Resident {
    let id_of =
        |pipeline: PipelineKind| models.iter().find(|model| model.pipeline == pipeline).map(|model| model.id.clone());
    Resident { decompose: id_of(PipelineKind::Layered), edit: id_of(PipelineKind::EditPlus) }
}
