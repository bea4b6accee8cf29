//! Which models are in memory, and where: a checkpoint is found, measured, planned and loaded at its first use, then
//! kept. On a GPU that has no room for both, the one that is not needed leaves for the host's memory.

use std::{
    cell::{Cell, RefCell},
    ops::ControlFlow,
    path::Path,
};

use candle_core::{DType, Device};

use super::{
    memory,
    models::{Loaded, Models, Watcher, device_error, model_error},
    plan::{Plan, Question, plan},
    shared::same_text_encoder,
};
use crate::{
    job::{JobError, ModelRecord, Stage},
    models::{self, Loading, ModelError, Part, PartSize, text_encoder::TextEncoder},
    nn::{self, CardMemory},
    pipeline::{Checkpoint, DecomposePipeline, EditPipeline, LoadOptions, Pipeline, Placement, sizes},
};

impl Models {
    pub fn decompose(&mut self, watcher: &mut Watcher<'_>) -> Result<&Loaded<DecomposePipeline>, JobError> {
        if self.decompose.is_some() {
            self.come_back(Pipeline::Layered)?;
        } else {
            let loaded = self.load(Pipeline::Layered, watcher, DecomposePipeline::load_with)?;
            // The new one can also write captions.
            let encoder = loaded.pipeline.checkpoint().text_encoder.clone();
            if let Some(edit) = &mut self.edit
                && same_text_encoder(&edit.folder, &loaded.folder)
            {
                edit.pipeline.share_text_encoder(encoder);
            }
            self.tell.send_modify(|resident| resident.decompose = Some(loaded.record.id.clone()));
            self.decompose = Some(loaded);
        }
        self.decompose.as_ref().ok_or_else(unreachable_model)
    }

    pub fn edit(&mut self, watcher: &mut Watcher<'_>) -> Result<&Loaded<EditPipeline>, JobError> {
        if self.edit.is_some() {
            self.come_back(Pipeline::EditPlus)?;
        } else {
            let loaded = self.load(Pipeline::EditPlus, watcher, EditPipeline::load_with)?;
            self.tell.send_modify(|resident| resident.edit = Some(loaded.record.id.clone()));
            self.edit = Some(loaded);
        }
        self.edit.as_ref().ok_or_else(unreachable_model)
    }

    /// After the device ran out of memory: lets all models go, and plans smaller from now on. False when there is
    /// nothing smaller.
    pub fn shrink(&mut self) -> bool {
        let used = [self.decompose.as_ref().and_then(|loaded| loaded.plan), self.edit.as_ref().and_then(|l| l.plan)];
        let slowest = used.into_iter().flatten().map(|plan| plan.mode).max().unwrap_or(self.from);
        let Ok((device, _)) = self.device() else { return false };
        let Some(next) = slowest.max(self.from).down() else { return false };
        self.from = next;
        self.decompose = None;
        self.edit = None;
        self.tell.send_modify(|resident| *resident = super::Resident::default());
        if let Err(error) = nn::free_unused(&device) {
            tracing::warn!(%error, "memory was not given back");
        }
        true
    }

    fn load<P>(
        &mut self,
        pipeline: Pipeline,
        watcher: &mut Watcher<'_>,
        load: impl FnOnce(&Path, LoadOptions<'_>) -> models::Loaded<P>,
    ) -> Result<Loaded<P>, JobError> {
        let (device, dtype) = self.device()?;
        let model = if pipeline == Pipeline::Layered { &self.config.model } else { &self.config.edit_model };
        let found = self.find(model, pipeline, watcher)?;
        let mut text_encoder = self.text_encoder_for(pipeline, &found.folder);
        let ask =
            |models: &Self, shared: bool| models.plan(pipeline, &found.folder, &found.record, shared, &device, dtype);
        let (bytes, plan) = match ask(self, text_encoder.is_some()) {
            // Neither the device nor the host has room for both: the other one is loaded anew when it is needed.
            Err(JobError::ModelTooLarge { .. }) if device.is_cuda() && self.other(pipeline).is_some() => {
                text_encoder = None;
                self.forget_other(pipeline);
                ask(self, false)?
            }
            answer => answer?,
        };
        if let Some(plan) = &plan {
            tracing::info!(model = found.record.id, %plan, "planned");
            if plan.alone {
                self.other_leaves(pipeline, text_encoder.is_some())?;
            }
        }
        let watch = watching(bytes, watcher);
        let options = LoadOptions {
            loading: Loading { device: &device, dtype, watch: Some(&watch) },
            placement: plan.map_or(Placement::KEPT, |plan| plan.placement),
            fp8: self.fp8(),
            text_encoder,
        };
        let start = std::time::Instant::now();
        let pipeline =
            load(&found.folder, options).map_err(|error| model_error(&found.record.id, &self.device_name(), error))?;
        tracing::info!(model = found.record.id, seconds = start.elapsed().as_secs_f64(), "loaded");
        Ok(Loaded { pipeline, record: found.record, plan, bytes, folder: found.folder })
    }

    /// The other model's text encoder, if it can serve this one too. Only that of the layered model writes captions.
    fn text_encoder_for(&self, pipeline: Pipeline, folder: &Path) -> Option<Part<TextEncoder>> {
        let decompose = self.decompose.as_ref().filter(|_| pipeline == Pipeline::EditPlus)?;
        same_text_encoder(&decompose.folder, folder).then(|| decompose.pipeline.checkpoint().text_encoder.clone())
    }

    /// Bytes of the weights, and on a GPU where they go.
    fn plan(
        &self,
        pipeline: Pipeline,
        folder: &Path,
        record: &ModelRecord,
        shared: bool,
        device: &Device,
        dtype: DType,
    ) -> Result<(u64, Option<Plan>), JobError> {
        let name = self.device_name();
        let failed = |error| device_error(&name, &error);
        let Some(CardMemory { free, .. }) = nn::card_memory(device).map_err(failed)? else {
            // A budget is for all models; free memory is what the resident ones have left.
            let held: u64 = self.decompose.as_ref().map_or(0, |l| l.bytes) + self.edit.as_ref().map_or(0, |l| l.bytes);
            let budget = self.config.memory_budget.map(|budget| budget.saturating_sub(held));
            return Ok((memory::check(&record.id, folder, dtype, budget)?, None));
        };
        let invalid = |error: ModelError| model_error(&record.id, &name, error);
        let mut sizes = sizes(folder, pipeline, dtype, self.fp8()).map_err(invalid)?;
        if shared {
            sizes.text_encoder = PartSize { work: sizes.text_encoder.work, ..PartSize::default() };
        }
        let held = self.other(pipeline).map_or(Ok(0), Checkpoint::bytes_on_device).map_err(failed)?;
        let kept = if shared { self.shared_bytes().map_err(failed)? } else { 0 };
        let question = Question {
            sizes,
            free,
            held,
            leavable: held - kept,
            host: self.config.memory_budget.unwrap_or_else(memory::available_memory),
            offload: self.config.offload,
            budget: self.config.vram_budget,
            from: self.from,
        };
        match plan(&question) {
            Ok(plan) => Ok((sizes.parts().iter().map(PartSize::weights).sum(), Some(plan))),
            Err(refused) => Err(JobError::ModelTooLarge { model: record.id.clone(), reason: refused.to_string() }),
        }
    }

    /// A loaded model may have left for the other one. What is away comes when it is entered; here it gets its room.
    fn come_back(&mut self, pipeline: Pipeline) -> Result<(), JobError> {
        let Some((checkpoint, Some(plan), weights)) = self.this(pipeline) else { return Ok(()) };
        let (device, _) = self.device.clone().ok_or_else(unreachable_model)?;
        let name = self.device_name();
        let failed = |error| device_error(&name, &error);
        let here = checkpoint.bytes_on_device().map_err(failed)?;
        let needed = if plan.placement == Placement::KEPT { weights.saturating_sub(here) } else { plan.device };
        let work = plan.device.saturating_sub(weights);
        let card = nn::card_memory(&device).map_err(failed)?.map_or(u64::MAX, |card| card.free);
        let other = self.other(pipeline).map_or(Ok(0), Checkpoint::bytes_on_device).map_err(failed)?;
        let twice = if self.shares_text_encoder() { self.shared_bytes().map_err(failed)? } else { 0 };
        let held = here + other - twice;
        let free = self.config.vram_budget.map_or(card, |budget| card.min(budget.saturating_sub(held)));
        if needed > 0 && needed + work > free {
            self.other_leaves(pipeline, self.shares_text_encoder())?;
        }
        Ok(())
    }

    /// Makes room: the other model's weights go to the host, or wholly where the host has no room for them.
    fn other_leaves(&mut self, pipeline: Pipeline, shared: bool) -> Result<(), JobError> {
        let name = self.device_name();
        let failed = |error| device_error(&name, &error);
        let Some(other) = self.other(pipeline) else { return Ok(()) };
        let encoder = if shared { other.text_encoder.bytes_on_device().map_err(failed)? } else { 0 };
        let bytes = other.bytes_on_device().map_err(failed)? - encoder;
        let host = self.config.memory_budget.unwrap_or_else(memory::available_memory);
        let start = std::time::Instant::now();
        if bytes <= host {
            other.leave(!shared).map_err(failed)?;
        } else {
            self.forget_other(pipeline);
        }
        tracing::info!(bytes, kept = bytes <= host, seconds = start.elapsed().as_secs_f64(), "the other model left");
        Ok(())
    }

    fn forget_other(&mut self, pipeline: Pipeline) {
        match pipeline {
            Pipeline::Layered => {
                self.edit = None;
                self.tell.send_modify(|resident| resident.edit = None);
            }
            Pipeline::EditPlus => {
                self.decompose = None;
                self.tell.send_modify(|resident| resident.decompose = None);
            }
        }
    }

    fn this(&self, pipeline: Pipeline) -> Option<(&Checkpoint, Option<Plan>, u64)> {
        match pipeline {
            Pipeline::Layered => {
                self.decompose.as_ref().map(|loaded| (loaded.pipeline.checkpoint(), loaded.plan, loaded.bytes))
            }
            Pipeline::EditPlus => {
                self.edit.as_ref().map(|loaded| (loaded.pipeline.checkpoint(), loaded.plan, loaded.bytes))
            }
        }
    }

    fn other(&self, pipeline: Pipeline) -> Option<&Checkpoint> {
        match pipeline {
            Pipeline::Layered => self.edit.as_ref().map(|loaded| loaded.pipeline.checkpoint()),
            Pipeline::EditPlus => self.decompose.as_ref().map(|loaded| loaded.pipeline.checkpoint()),
        }
    }

    fn shares_text_encoder(&self) -> bool {
        let encoders = (self.this(Pipeline::Layered), self.this(Pipeline::EditPlus));
        matches!(encoders, (Some(one), Some(other)) if one.0.text_encoder.is(&other.0.text_encoder))
    }

    fn shared_bytes(&self) -> candle_core::Result<u64> {
        self.decompose.as_ref().map_or(Ok(0), |loaded| loaded.pipeline.checkpoint().text_encoder.bytes_on_device())
    }
}

/// Tells how many MiB of `total` bytes are there, in some hundred steps.
fn watching<'a>(total: u64, watcher: &'a mut Watcher<'_>) -> impl Fn(u64) -> ControlFlow<()> + 'a {
    let (done, told) = (Cell::new(0), Cell::new(0));
    let cancel = watcher.cancel;
    let progress = RefCell::new(&mut *watcher.progress);
    move |bytes| {
        done.set(done.get() + bytes);
        if done.get() - told.get() >= total / 200 {
            told.set(done.get());
            let mebibytes = |bytes: u64| u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
            (progress.borrow_mut())(Stage::Load, mebibytes(done.get().min(total)), mebibytes(total));
        }
        if cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

fn unreachable_model() -> JobError {
    JobError::Device { device: "engine".to_owned(), reason: "the model was not kept".to_owned() }
}
