//! The LoRAs of a call: found, hashed, and changed in a model that is in memory.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use super::{
    ModelCache, OpenDevices, Slot, SlotKey,
    find::{find, with_progress},
    slot::AdapterKey,
    watch,
};
use crate::{
    Callbacks, ComputeDType, Error,
    hub::{self, Lora, LoraSource},
    models::{
        LoadContext,
        lora::{Adapter, LoraError, LoraFile},
    },
    pipeline::{DeviceMap, LoadOptions, overlays},
};

/// A LoRA that was found, with its content's hash.
#[derive(Debug, Clone)]
pub struct ChosenLora {
    name: String,
    path: PathBuf,
    sha256: String,
    strength: f64,
    /// If its content is in memory.
    file: Option<Arc<LoraFile>>,
}

/// What is known of files, so that a job whose LoRAs are in memory reads none of them.
#[derive(Debug, Default)]
pub struct AdapterFiles {
    /// The hub's files are looked up once in the life of the process, like the models.
    found: HashMap<LoraSource, PathBuf>,
    hashes: HashMap<PathBuf, (Stamp, String)>,
    /// Contents, the last used one last: jobs often take turns with a few LoRAs.
    contents: Vec<Arc<LoraFile>>,
}

/// The most that the contents of LoRAs take in host memory, in bytes: two of rank 64 for all layers.
const CONTENTS: usize = 2 << 30;

impl AdapterFiles {
    fn content(&self, sha256: &str) -> Option<Arc<LoraFile>> {
        self.contents.iter().find(|file| file.sha256() == sha256).cloned()
    }

    fn keep(&mut self, file: &Arc<LoraFile>) {
        self.contents.retain(|kept| kept.sha256() != file.sha256());
        self.contents.push(file.clone());
        while self.contents.iter().map(|file| file.size()).sum::<usize>() > CONTENTS {
            self.contents.remove(0);
        }
    }
}

/// Changes when a file is replaced or rewritten.
type Stamp = (u64, Option<SystemTime>);

impl ModelCache {
    /// The slot of a checkpoint with LoRAs. Those with the strength 0 are left out.
    pub fn with_loras(
        &mut self,
        base: &SlotKey,
        loras: &[Lora],
        callbacks: &mut Callbacks<'_>,
    ) -> Result<(SlotKey, Vec<ChosenLora>), Error> {
        let applied = loras.iter().filter(|lora| lora.strength != 0.0);
        let chosen = applied.map(|lora| self.choose(lora, callbacks)).collect::<Result<Vec<_>, _>>()?;
        let key = |lora: &ChosenLora| AdapterKey { sha256: lora.sha256.clone(), strength: lora.strength.to_bits() };
        Ok((SlotKey { adapters: chosen.iter().map(key).collect(), ..base.clone() }, chosen))
    }

    /// The folder of a checkpoint; it is downloaded if needed, but not loaded.
    pub fn folder_of(&self, base: &SlotKey, callbacks: &mut Callbacks<'_>) -> Result<PathBuf, Error> {
        match self.slots.iter().find(|(key, _)| key.has_base_of(base)) {
            Some((_, slot)) => Ok(slot.folder.clone()),
            None => Ok(find(&self.hub, &base.checkpoint, &base.files, callbacks)?.folder),
        }
    }

    fn choose(&mut self, Lora { source, strength }: &Lora, callbacks: &mut Callbacks<'_>) -> Result<ChosenLora, Error> {
        let path = match self.adapter_files.found.get(source) {
            Some(path) => path.clone(),
            None => {
                let path = with_progress(callbacks, |events| hub::resolve_lora(&self.hub, source, events))?;
                if matches!(source, LoraSource::Hub { .. }) {
                    self.adapter_files.found.insert(source.clone(), path.clone());
                }
                path
            }
        };
        let stamp = stamp(&path)?;
        let known = self.adapter_files.hashes.get(&path).filter(|(known, _)| *known == stamp);
        let (sha256, file) = match known {
            Some((_, sha256)) => (sha256.clone(), self.adapter_files.content(sha256)),
            None => {
                let file = LoraFile::read(&path)?;
                let sha256 = file.sha256().to_owned();
                self.adapter_files.hashes.insert(path.clone(), (stamp, sha256.clone()));
                (sha256, Some(Arc::new(file)))
            }
        };
        Ok(ChosenLora { name: source.to_string(), path, sha256, strength: *strength, file })
    }

    /// Takes a model out of memory and returns it with other LoRAs. If these do not fit it, it stays.
    pub(super) fn change_loras(
        &mut self,
        old: &SlotKey,
        key: &SlotKey,
        loras: &[ChosenLora],
        callbacks: &mut Callbacks<'_>,
    ) -> Result<Slot, Error> {
        let name = self.device_name();
        let devices = self.devices()?;
        let adapters = self.read_loras(loras, &devices)?;
        let Some(Slot { folder, model, .. }) = self.slots.get(old) else { return self.read(key, loras, callbacks) };
        let id = model.id.clone();
        overlays(folder, &adapters).map_err(|source| Error::model(&id, &name, source))?;
        let Some(slot) = self.slots.remove(old) else { return self.read(key, loras, callbacks) };
        self.changed();
        let Slot { pipeline, model, plan, negative_plan, bytes, folder, text_encoder_file, used } = slot;
        let watch = watch(bytes, callbacks);
        let options = LoadOptions {
            placement: plan.map_or(DeviceMap::KEPT, |plan| plan.placement),
            cfg_parallel: devices.cfg_parallel(negative_plan.as_ref()),
            fp8: key.dtype == ComputeDType::Fp8,
            files: &key.files,
            conditioning: self.conditioning,
            loras: &adapters,
            ..LoadOptions::new(LoadContext {
                watch: Some(&watch),
                ..LoadContext::new(&devices.main, key.dtype.candle())
            })
        };
        let start = std::time::Instant::now();
        let pipeline = pipeline.with_loras(&folder, options).map_err(|source| Error::model(&id, &name, source))?;
        tracing::info!(model = id, seconds = start.elapsed().as_secs_f64(), "LoRAs changed");
        let model = super::LoadedModel { loras: pipeline.components().loras.clone(), ..model };
        Ok(Slot { pipeline, model, plan, negative_plan, bytes, folder, text_encoder_file, used })
    }

    /// Reads the files that are not in memory yet.
    pub(super) fn read_loras(&mut self, loras: &[ChosenLora], devices: &OpenDevices) -> Result<Vec<Adapter>, Error> {
        let adapters = read(loras)?;
        // Elsewhere, changing the weights takes much longer than reading a file.
        if devices.main.is_cuda() {
            adapters.iter().for_each(|adapter| self.adapter_files.keep(&adapter.file));
        }
        Ok(adapters)
    }
}

fn read(loras: &[ChosenLora]) -> Result<Vec<Adapter>, LoraError> {
    let one = |lora: &ChosenLora| {
        let file = match &lora.file {
            Some(file) => file.clone(),
            None => Arc::new(LoraFile::read(&lora.path)?),
        };
        if file.sha256() != lora.sha256 {
            let reason = "was changed while it was read; try again".to_owned();
            return Err(LoraError::Invalid { path: lora.path.clone(), reason });
        }
        Ok(Adapter { name: lora.name.clone(), file, strength: lora.strength })
    };
    loras.iter().map(one).collect()
}

fn stamp(path: &Path) -> Result<Stamp, LoraError> {
    let meta = fs::metadata(path).map_err(|source| LoraError::Io { path: path.to_owned(), source })?;
    Ok((meta.len(), meta.modified().ok()))
}
