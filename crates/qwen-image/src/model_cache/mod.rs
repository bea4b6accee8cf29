//! Manages the models in memory: a checkpoint is found, measured, planned and loaded on first use, then kept in a slot.
//! If a GPU cannot hold all models, those that are not needed move to host memory.

mod adapters;
mod device;
mod device_options;
mod find;
mod host_memory;
mod identity;
mod memory_plan;
mod open_devices;
mod room;
mod shared_text_encoder;
mod slot;
mod what_if;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    ops::ControlFlow,
    path::Path,
};

use self::{
    adapters::AdapterFiles,
    find::{find, mebibytes},
    memory_plan::PlacementMode,
    open_devices::OpenDevices,
    room::Planned,
    shared_text_encoder::same_text_encoder,
};
pub use self::{
    adapters::ChosenLora,
    device::{ComputeDType, DeviceChoice, Devices, describe_device, describe_placement, open_device},
    device_options::DeviceOptions,
    host_memory::{available_memory, human_memory},
    identity::{local_weights, stamp},
    memory_plan::CpuOffload,
    slot::{LoadedModel, LoadedPipeline, Slot, SlotKey},
    what_if::{PublishedForm, WhatIf, estimate_for_gpu, published_forms},
};
use crate::{
    Callbacks, Error, Stage,
    hub::{HubConfig, ModelRef},
    models::{LoadContext, Offloadable, WeightOptions, text_encoder::TextEncoder},
    nn,
    pipeline::{
        Conditioning, DeviceMap, LoadOptions, PipelineKind, QwenImageEditPlusPipeline, QwenImageLayeredPipeline,
    },
};

/// The models of one device, or of two that compute the branches of guidance together.
pub struct ModelCache {
    options: DeviceOptions,
    hub: HubConfig,
    conditioning: Conditioning,
    devices: Option<OpenDevices>,
    adapter_files: AdapterFiles,
    slots: BTreeMap<SlotKey, Slot>,
    /// The fastest mode that is still allowed; smaller after the device ran out of memory.
    fastest: PlacementMode,
    uses: u64,
    on_change: Box<OnModelsChanged>,
}

/// Called with the models in memory whenever one is loaded or unloaded.
pub type OnModelsChanged = dyn FnMut(&[LoadedModel]) + Send;

impl ModelCache {
    /// Does not open or load anything yet.
    pub fn new(options: DeviceOptions, hub: HubConfig, conditioning: Conditioning) -> Self {
        Self {
            options,
            hub,
            conditioning,
            devices: None,
            adapter_files: AdapterFiles::default(),
            slots: BTreeMap::new(),
            fastest: PlacementMode::Resident,
            uses: 0,
            on_change: Box::new(|_| ()),
        }
    }

    /// The slot of a checkpoint without adapters, in the number format of this device. `files` replace weights of it.
    pub fn key(&self, pipeline: PipelineKind, checkpoint: &ModelRef, files: WeightOptions) -> SlotKey {
        SlotKey { pipeline, checkpoint: checkpoint.clone(), files, adapters: Vec::new(), dtype: self.options.dtype }
    }

    /// `on_change` is called with the models in memory whenever one is loaded or unloaded.
    pub fn on_change(&mut self, on_change: Box<OnModelsChanged>) {
        self.on_change = on_change;
    }

    /// Whether a checkpoint is in memory, with any LoRAs.
    pub fn has_base(&self, key: &SlotKey) -> bool {
        self.slots.keys().any(|other| other.has_base_of(key))
    }

    /// Opens the devices and runs their self-tests; returns their description.
    pub fn self_test(&mut self) -> Result<String, Error> {
        let devices = self.devices()?;
        for (name, device) in devices.named(&self.options) {
            device::self_test(&name, device, self.options.dtype.candle())?;
        }
        Ok(self.describe_with(None))
    }

    pub fn device_name(&self) -> String {
        self.options.device.name()
    }

    /// `cpu f32 cpu-blocked`: device, number format and attention kernel, for manifests; on a GPU also the placement of
    /// a model; then the device of the negative branch, if it has its own.
    pub fn describe_with(&self, slot: Option<&Slot>) -> String {
        let plan = slot.and_then(|slot| slot.plan.as_ref()).map(|plan| format!(", {plan}"));
        let mut text = self.description() + &plan.unwrap_or_default();
        if let Some(second) = self.options.cfg_parallel_device {
            let plan = slot.and_then(|slot| slot.negative_plan.as_ref());
            text += &open_devices::negative_branch(second, plan);
        }
        text
    }

    /// Loads a checkpoint with these LoRAs, which its key has, too, and makes room for its work. If it is in memory
    /// with others, only what they change is loaded.
    pub fn load(&mut self, key: &SlotKey, loras: &[ChosenLora], callbacks: &mut Callbacks<'_>) -> Result<(), Error> {
        if self.slots.contains_key(key) {
            self.make_room_for(key)?;
        } else if let Some(other) = self.slots.keys().find(|other| other.has_base_of(key)).cloned() {
            self.make_room_for(&other)?;
            let slot = self.change_loras(&other, key, loras, callbacks)?;
            self.slots.insert(key.clone(), slot);
            self.changed();
        } else {
            let slot = self.read(key, loras, callbacks)?;
            if key.pipeline == PipelineKind::Layered {
                self.share_text_encoder(&slot);
            }
            self.slots.insert(key.clone(), slot);
            self.changed();
        }
        self.uses += 1;
        if let Some(slot) = self.slots.get_mut(key) {
            slot.used = self.uses;
        }
        Ok(())
    }

    /// A checkpoint that is in memory.
    ///
    /// # Errors
    /// If it was not loaded before.
    pub fn get(&self, key: &SlotKey) -> Result<&Slot, Error> {
        self.slots.get(key).ok_or_else(|| Error::DeviceUntrusted {
            device: self.device_name(),
            reason: format!("{} could not be kept in memory", key.checkpoint),
        })
    }

    /// After the device ran out of memory: unloads all models, and plans smaller modes from now on. Returns false if
    /// there is no smaller mode.
    pub fn shrink(&mut self) -> bool {
        let used = self.slots.values().flat_map(|slot| [&slot.plan, &slot.negative_plan]).flatten();
        let slowest = used.map(|plan| plan.mode).max().unwrap_or(self.fastest);
        let Ok(devices) = self.devices() else { return false };
        let Some(next) = slowest.max(self.fastest).down() else { return false };
        self.fastest = next;
        self.slots.clear();
        self.changed();
        for (device, opened) in devices.named(&self.options) {
            if let Err(error) = nn::free_unused(opened) {
                tracing::warn!(device, %error, "could not release memory");
            }
        }
        true
    }

    fn changed(&mut self) {
        let models: Vec<_> = self.slots.values().map(|slot| slot.model.clone()).collect();
        (self.on_change)(&models);
    }

    fn description(&self) -> String {
        match &self.devices {
            Some(devices) => {
                let attention = nn::attention_kernel(&devices.main, self.options.dtype.candle());
                format!("{} {} {attention}", self.device_name(), self.options.dtype.as_str())
            }
            None => self.device_name(),
        }
    }

    fn devices(&mut self) -> Result<OpenDevices, Error> {
        if let Some(open) = &self.devices {
            return Ok(open.clone());
        }
        let devices = OpenDevices::open(&self.options)?;
        self.devices = Some(devices.clone());
        Ok(devices)
    }

    fn read(&mut self, key: &SlotKey, loras: &[ChosenLora], callbacks: &mut Callbacks<'_>) -> Result<Slot, Error> {
        let devices = self.devices()?;
        let found = find(&self.hub, &key.checkpoint, &key.files, callbacks)?;
        // Before anything is read, so that what changes meanwhile is noticed.
        let weights = identity::weights_of(&found.folder, found.revision.as_deref(), &key.files).unwrap_or_default();
        let adapters = self.read_loras(loras, &devices)?;
        let mut text_encoder = self.text_encoder_for(key, &found.folder);
        let planned = match self.plan(key, &found, text_encoder.is_some(), &devices) {
            // Neither the device nor the host can hold all models: the others are loaded again when needed.
            Err(Error::TooLarge { .. }) if devices.main.is_cuda() && !self.slots.is_empty() => {
                text_encoder = None;
                self.slots.clear();
                self.changed();
                self.plan(key, &found, false, &devices)?
            }
            answer => answer?,
        };
        let Planned { bytes, plan, negative_plan } = planned;
        let id = &found.id;
        for (plan, device) in [&plan, &negative_plan].into_iter().flatten().zip(devices.named(&self.options)) {
            tracing::info!(model = id, device = device.0, %plan, "planned");
        }
        if [&plan, &negative_plan].into_iter().flatten().any(|plan| plan.alone) {
            self.others_leave(key, text_encoder.as_ref())?;
        }
        let watch = watch(bytes, callbacks);
        let options = LoadOptions {
            context: LoadContext { watch: Some(&watch), ..LoadContext::new(&devices.main, key.dtype.candle()) },
            placement: plan.map_or(DeviceMap::KEPT, |plan| plan.placement),
            cfg_parallel: devices.cfg_parallel(negative_plan.as_ref()),
            fp8: key.dtype == ComputeDType::Fp8,
            files: &key.files,
            text_encoder,
            conditioning: self.conditioning,
            loras: &adapters,
        };
        let start = std::time::Instant::now();
        let pipeline = match key.pipeline {
            PipelineKind::Layered => {
                QwenImageLayeredPipeline::load_with(&found.folder, options).map(LoadedPipeline::Layered)
            }
            PipelineKind::EditPlus => {
                QwenImageEditPlusPipeline::load_with(&found.folder, options).map(LoadedPipeline::EditPlus)
            }
        }
        .map_err(|source| Error::model(id, &self.device_name(), source))?;
        tracing::info!(model = id, seconds = start.elapsed().as_secs_f64(), "loaded");
        let model = LoadedModel::new(key.pipeline, &found, weights, pipeline.components());
        let text_encoder_file = key.files.text_encoder.clone();
        Ok(Slot { pipeline, model, plan, negative_plan, bytes, folder: found.folder, text_encoder_file, used: 0 })
    }

    /// A loaded text encoder that this checkpoint can share. Only those of layered models can write captions.
    fn text_encoder_for(&self, key: &SlotKey, folder: &Path) -> Option<Offloadable<TextEncoder>> {
        let serves =
            |slot: &&Slot| slot.model.pipeline == PipelineKind::Layered || key.pipeline == PipelineKind::EditPlus;
        let file = key.files.text_encoder.as_deref();
        let mut slots = self.slots.values().filter(serves);
        let same = slots.find(|slot| same_text_encoder(slot.text_encoder(), (folder, file)))?;
        Some(same.components().text_encoder.clone())
    }

    /// Shares a new layered model's text encoder, which can also write captions, with all models that have the same
    /// one.
    fn share_text_encoder(&mut self, layered: &Slot) {
        let encoder = &layered.components().text_encoder;
        for slot in self.slots.values_mut() {
            if same_text_encoder(slot.text_encoder(), layered.text_encoder()) {
                slot.components_mut().text_encoder = encoder.clone();
            }
        }
    }
}

/// Reports how many MiB of `total` bytes are loaded, in a few hundred steps.
fn watch<'a>(total: u64, callbacks: &'a mut Callbacks<'_>) -> impl Fn(u64) -> ControlFlow<()> + 'a {
    let (done, told) = (Cell::new(0), Cell::new(0));
    let callbacks = RefCell::new(callbacks);
    move |bytes| {
        done.set(done.get() + bytes);
        let mut callbacks = callbacks.borrow_mut();
        if done.get() - told.get() >= total / 200 {
            told.set(done.get());
            callbacks.progress(Stage::Load, mebibytes(done.get().min(total)), mebibytes(total));
        }
        if callbacks.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
