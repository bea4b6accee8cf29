//! Which models stay on the device, and which leave it for the one that is needed now.

use candle_core::Device;

use super::{
    ModelCache, SlotKey,
    find::FoundCheckpoint,
    host_memory,
    memory_plan::{MemoryPlan, PlanRequest, on_negative_device, plan},
    open_devices::OpenDevices,
};
use crate::{
    ComputeDType, DeviceChoice, Error,
    models::{ModelError, Offloadable, PartSize, text_encoder::TextEncoder, transformer::Transformer},
    nn,
    pipeline::{DeviceMap, sizes},
};

/// The placement of a checkpoint.
pub(super) struct Planned {
    /// The size of the weights on all devices.
    pub bytes: u64,
    /// None on a CPU.
    pub plan: Option<MemoryPlan>,
    /// On the device of the negative branch, if that is a GPU of its own.
    pub negative_plan: Option<MemoryPlan>,
}

impl ModelCache {
    /// The size of the weights, and on a GPU their placement.
    pub(super) fn plan(
        &self,
        key: &SlotKey,
        found: &FoundCheckpoint,
        shared: bool,
        devices: &OpenDevices,
    ) -> Result<Planned, Error> {
        let (name, model) = (self.device_name(), &found.id);
        let failed = |source| Error::device(&name, source);
        let dtype = key.dtype.candle();
        if let Some(file) = &key.files.transformer {
            // Its size says nothing if it is another model's.
            Transformer::check_file(&found.folder.join("transformer"), file)
                .map_err(|error| Error::model(model, &name, error))?;
        }
        let sizes = || {
            sizes(&found.folder, &key.files, key.pipeline, dtype, key.dtype == ComputeDType::Fp8)
                .map_err(|error: ModelError| Error::model(model, &name, error))
        };
        let Some(card) = nn::card_memory(&devices.main).map_err(failed)? else {
            // A budget is for all models; free memory excludes those already loaded.
            let held: u64 = self.slots.values().map(|slot| slot.bytes).sum();
            let budget = self.options.memory_budget.map(|budget| budget.saturating_sub(held));
            let copies = if devices.negative.is_some() { sizes()?.transformer.weights() } else { 0 };
            let bytes = host_memory::check(model, &found.folder, &key.files, dtype, copies, budget)?;
            return Ok(Planned { bytes, plan: None, negative_plan: None });
        };
        let mut sizes = sizes()?;
        let mut kept = 0;
        if shared {
            sizes.text_encoder = PartSize { work: sizes.text_encoder.work, ..PartSize::default() };
            let encoder = self.text_encoder_for(key, &found.folder);
            kept = encoder.map_or(Ok(0), |encoder| encoder.bytes_on_device()).map_err(failed)?;
        }
        let held = self.bytes_on_device().map_err(failed)?;
        let request = PlanRequest {
            sizes,
            held,
            leavable: held.saturating_sub(kept),
            from: self.fastest,
            ..PlanRequest::new(&self.options, sizes, card.free)
        };
        let too_large = |reason: String| Error::TooLarge { model: model.clone(), reason };
        let made = plan(&request).map_err(|refused| too_large(refused.to_string()))?;
        let negative_plan = match &devices.negative {
            Some(device) => Some(self.negative_plan(device, &request, made.host)?.map_err(too_large)?),
            None => None,
        };
        let bytes = made.weights + negative_plan.map_or(0, |plan| plan.weights);
        Ok(Planned { bytes, plan: Some(made), negative_plan })
    }

    /// The placement on the GPU of the negative branch, beside `host` bytes on the host; or why it does not fit.
    fn negative_plan(
        &self,
        device: &Device,
        main: &PlanRequest,
        host: u64,
    ) -> Result<Result<MemoryPlan, String>, Error> {
        let name = self.options.cfg_parallel_device.map(DeviceChoice::name).unwrap_or_default();
        let failed = |source| Error::device(&name, source);
        let free = nn::card_memory(device).map_err(failed)?.map_or(u64::MAX, |card| card.free);
        let held = self.bytes_on_negative_device().map_err(failed)?;
        Ok(plan(&main.of_negative_branch(free, held, host)).map_err(|refused| on_negative_device(&name, &refused)))
    }

    /// A loaded model may have been offloaded for another one. Its parts come back when they are used; this only makes
    /// room for them.
    pub(super) fn make_room_for(&mut self, key: &SlotKey) -> Result<(), Error> {
        let (Some(slot), Some(devices)) = (self.slots.get(key), &self.devices) else { return Ok(()) };
        let components = slot.components();
        let encoder = components.text_encoder.clone();
        let mut crowded = false;
        if let Some(plan) = &slot.plan {
            let held = || Ok((components.bytes_on_device()?, self.bytes_on_device()?));
            let lacks = self.lacks_room(&devices.main, plan, held);
            crowded |= lacks.map_err(|source| Error::device(&self.device_name(), source))?;
        }
        if let (Some(plan), Some(device), Some(second)) =
            (&slot.negative_plan, &devices.negative, self.options.cfg_parallel_device)
        {
            let held = || Ok((components.bytes_on_negative_device()?, self.bytes_on_negative_device()?));
            let lacks = self.lacks_room(device, plan, held);
            crowded |= lacks.map_err(|source| Error::device(&second.name(), source))?;
        }
        if crowded {
            self.others_leave(key, Some(&encoder))?;
        }
        Ok(())
    }

    /// Whether a device has too little room for a model. `held` are the bytes there of the model, and of all models.
    fn lacks_room(
        &self,
        device: &Device,
        plan: &MemoryPlan,
        held: impl FnOnce() -> candle_core::Result<(u64, u64)>,
    ) -> candle_core::Result<bool> {
        let (here, held) = held()?;
        let needed = if plan.placement == DeviceMap::KEPT { plan.weights.saturating_sub(here) } else { plan.device };
        let work = plan.device.saturating_sub(plan.weights);
        let card = nn::card_memory(device)?.map_or(u64::MAX, |card| card.free);
        let free = self.options.vram_budget.map_or(card, |budget| card.min(budget.saturating_sub(held)));
        Ok(needed > 0 && needed + work > free)
    }

    /// Makes room: moves the other models' weights to the host, or unloads them if the host has no room. `keep` is a
    /// text encoder that the model at `key` also uses.
    pub(super) fn others_leave(&mut self, key: &SlotKey, keep: Option<&Offloadable<TextEncoder>>) -> Result<(), Error> {
        let name = self.device_name();
        let failed = |source| Error::device(&name, source);
        let mut others: Vec<_> = self.slots.iter().filter(|(other, _)| *other != key).collect();
        others.sort_by_key(|(_, slot)| slot.used);
        let mut forgotten = Vec::new();
        for (other, slot) in others {
            let components = slot.components();
            let shared = keep.is_some_and(|keep| keep.is(&components.text_encoder));
            let encoder = if shared { components.text_encoder.bytes_on_device().map_err(failed)? } else { 0 };
            let negative = components.bytes_on_negative_device().map_err(failed)?;
            let bytes = components.bytes_on_device().map_err(failed)? - encoder + negative;
            let start = std::time::Instant::now();
            let kept = bytes <= self.options.host_memory();
            if kept {
                components.leave(!shared).map_err(failed)?;
            } else {
                forgotten.push(other.clone());
            }
            tracing::info!(
                bytes,
                kept,
                seconds = start.elapsed().as_secs_f64(),
                "another model was moved off the device"
            );
        }
        if !forgotten.is_empty() {
            self.slots.retain(|key, _| !forgotten.contains(key));
            self.changed();
        }
        Ok(())
    }

    fn bytes_on_negative_device(&self) -> candle_core::Result<u64> {
        self.slots.values().map(|slot| slot.components().bytes_on_negative_device()).sum()
    }

    /// The weights on the device in bytes; a shared text encoder counts once.
    fn bytes_on_device(&self) -> candle_core::Result<u64> {
        let mut encoders: Vec<&Offloadable<TextEncoder>> = Vec::new();
        let mut bytes = 0;
        for slot in self.slots.values() {
            let components = slot.components();
            bytes += components.bytes_on_device()?;
            if encoders.iter().any(|known| known.is(&components.text_encoder)) {
                bytes -= components.text_encoder.bytes_on_device()?;
            } else {
                encoders.push(&components.text_encoder);
            }
        }
        Ok(bytes)
    }
}
