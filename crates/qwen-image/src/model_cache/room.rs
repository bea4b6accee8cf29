//! Which models stay on the device, and which leave it for the one that is needed now.

use candle_core::Device;

use super::{
    ModelCache, SlotKey,
    find::FoundCheckpoint,
    host_memory,
    memory_plan::{MemoryPlan, PlanRequest, plan},
};
use crate::{
    ComputeDType, Error,
    models::{ModelError, Offloadable, PartSize, text_encoder::TextEncoder},
    nn::{self, CardMemory},
    pipeline::{DeviceMap, sizes},
};

impl ModelCache {
    /// The size of the weights, and on a GPU their placement.
    pub(super) fn plan(
        &self,
        key: &SlotKey,
        found: &FoundCheckpoint,
        shared: bool,
        device: &Device,
    ) -> Result<(u64, Option<MemoryPlan>), Error> {
        let (name, model) = (self.device_name(), &found.id);
        let failed = |source| Error::device(&name, source);
        let dtype = key.dtype.candle();
        let Some(CardMemory { free, .. }) = nn::card_memory(device).map_err(failed)? else {
            // A budget is for all models; free memory excludes those already loaded.
            let held: u64 = self.slots.values().map(|slot| slot.bytes).sum();
            let budget = self.limits.memory_budget.map(|budget| budget.saturating_sub(held));
            return Ok((host_memory::check(model, &found.folder, &key.files, dtype, budget)?, None));
        };
        let invalid = |error: ModelError| Error::model(model, &name, error);
        let fp8 = key.dtype == ComputeDType::Fp8;
        let mut sizes = sizes(&found.folder, &key.files, key.pipeline, dtype, fp8).map_err(invalid)?;
        let mut kept = 0;
        if shared {
            sizes.text_encoder = PartSize { work: sizes.text_encoder.work, ..PartSize::default() };
            let encoder = self.text_encoder_for(key, &found.folder);
            kept = encoder.map_or(Ok(0), |encoder| encoder.bytes_on_device()).map_err(failed)?;
        }
        let held = self.bytes_on_device().map_err(failed)?;
        let request = PlanRequest {
            sizes,
            free,
            held,
            leavable: held.saturating_sub(kept),
            host: self.limits.host_memory(),
            offload: self.limits.cpu_offload,
            budget: self.limits.vram_budget,
            from: self.fastest,
        };
        match plan(&request) {
            Ok(plan) => Ok((sizes.parts().iter().map(PartSize::weights).sum(), Some(plan))),
            Err(refused) => Err(Error::TooLarge { model: model.clone(), reason: refused.to_string() }),
        }
    }

    /// A loaded model may have been offloaded for another one. Its parts come back when they are used; this only makes
    /// room for them.
    pub(super) fn make_room_for(&mut self, key: &SlotKey) -> Result<(), Error> {
        let name = self.device_name();
        let failed = |source| Error::device(&name, source);
        let Some(slot) = self.slots.get(key) else { return Ok(()) };
        let (Some(plan), Some(device)) = (slot.plan, &self.device) else { return Ok(()) };
        let here = slot.components().bytes_on_device().map_err(failed)?;
        let needed = if plan.placement == DeviceMap::KEPT { slot.bytes.saturating_sub(here) } else { plan.device };
        let work = plan.device.saturating_sub(slot.bytes);
        let card = nn::card_memory(device).map_err(failed)?.map_or(u64::MAX, |card| card.free);
        let held = self.bytes_on_device().map_err(failed)?;
        let free = self.limits.vram_budget.map_or(card, |budget| card.min(budget.saturating_sub(held)));
        let encoder = slot.components().text_encoder.clone();
        if needed > 0 && needed + work > free {
            self.others_leave(key, Some(&encoder))?;
        }
        Ok(())
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
            let bytes = components.bytes_on_device().map_err(failed)? - encoder;
            let start = std::time::Instant::now();
            let kept = bytes <= self.limits.host_memory();
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
