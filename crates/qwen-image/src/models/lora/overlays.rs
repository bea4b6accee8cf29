//! What LoRAs change of one transformer, layer by layer.

use std::{collections::BTreeMap, sync::Arc};

use candle_core::{DType, Device, Tensor};

use super::{
    Adapter, LoraError, LoraFile,
    error::{LISTED, ShapeMismatch},
    keys::{LoraKey, LoraPart, ModuleNames, Modules},
};
use crate::nn::LowRank;

/// Changes to a component's weights as they are loaded: the name of each matrix, without `.weight`, and what is added
/// to it in float32, in this order.
#[derive(Debug, Clone, Default)]
pub struct Overlays {
    changes: BTreeMap<String, Vec<Change>>,
    applied: Vec<AppliedLora>,
}

/// The change of one layer by one LoRA.
#[derive(Debug, Clone)]
struct Change {
    file: Arc<LoraFile>,
    down: String,
    up: String,
    /// The user's strength times the file's own scale.
    strength: f64,
}

/// A LoRA that is applied, for the record.
#[derive(Debug, Clone, PartialEq)]
pub struct AppliedLora {
    /// The hub id and file, or the path.
    pub file: String,
    /// Of the file, in lower-case hexadecimal.
    pub sha256: String,
    /// 1: as trained.
    pub strength: f64,
    /// The largest, if layers have several.
    pub rank: usize,
    /// How many layers it changes.
    pub modules: usize,
}

impl Overlays {
    /// No changes.
    pub const fn new() -> Self {
        Self { changes: BTreeMap::new(), applied: Vec::new() }
    }

    /// Maps the LoRAs' tensors to the layers of a transformer.
    ///
    /// # Errors
    /// [`LoraError::UnknownKeys`] for keys that the transformer does not have; [`LoraError::WrongShapes`] for matrices
    /// of other sizes; [`LoraError::Kind`] for another kind of adapter; [`LoraError::Incomplete`], [`LoraError::Twice`]
    /// and [`LoraError::Empty`] for files with too few or too many matrices.
    pub fn of(adapters: &[Adapter], modules: &Modules) -> Result<Self, LoraError> {
        let names = ModuleNames::new(modules);
        let mut overlays = Self::new();
        for Adapter { name, file, strength } in adapters {
            let layers = layers(file, &names, modules)?;
            overlays.applied.push(AppliedLora {
                file: name.clone(),
                sha256: file.sha256().to_owned(),
                strength: *strength,
                rank: layers.values().map(|layer| layer.rank).max().unwrap_or_default(),
                modules: layers.len(),
            });
            for (module, LoraLayer { down, up, scale, .. }) in layers {
                let change = Change { file: file.clone(), down, up, strength: strength * scale };
                overlays.changes.entry(module).or_default().push(change);
            }
        }
        Ok(overlays)
    }

    /// The LoRAs, in the order in which they are added.
    pub fn applied(&self) -> &[AppliedLora] {
        &self.applied
    }

    /// The changes of a layer, read onto a device in float32.
    pub(crate) fn of_layer(&self, module: &str, device: &Device) -> candle_core::Result<Vec<LowRank>> {
        let changes = self.changes.get(module).map(Vec::as_slice).unwrap_or_default();
        let read = |change: &Change| {
            let matrix = |key: &str| change.file.load(key, device)?.to_dtype(DType::F32);
            Ok(LowRank { down: matrix(&change.down)?, up: matrix(&change.up)?, strength: change.strength })
        };
        changes.iter().map(read).collect()
    }

    /// What is changed, without the files' contents, to compare with later overlays.
    pub(crate) fn identity(&self) -> OverlayIdentity {
        let identity =
            |change: &Change| (change.file.sha256().to_owned(), change.down.clone(), change.strength.to_bits());
        let all = self.changes.iter();
        OverlayIdentity(all.map(|(module, changes)| (module.clone(), changes.iter().map(identity).collect())).collect())
    }
}

/// Which changes each layer has: the file's hash, the key of one matrix, and the strength's bits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OverlayIdentity(BTreeMap<String, Vec<(String, String, u64)>>);

impl OverlayIdentity {
    /// Whether both change the layers whose names begin like this in the same way.
    pub fn agrees_on(&self, other: &Self, prefix: &str) -> bool {
        let below = |identity: &'_ Self| -> Vec<_> {
            let from = identity.0.range(prefix.to_owned()..);
            from.take_while(|(module, _)| module.starts_with(prefix))
                .map(|(module, changes)| (module.clone(), changes.clone()))
                .collect()
        };
        below(self) == below(other)
    }

    /// Whether both change the layers outside of the blocks in the same way.
    pub fn agrees_outside(&self, other: &Self, prefix: &str) -> bool {
        let outside = |identity: &'_ Self| -> Vec<_> {
            let all = identity.0.iter().filter(|(module, _)| !module.starts_with(prefix));
            all.map(|(module, changes)| (module.clone(), changes.clone())).collect()
        };
        outside(self) == outside(other)
    }
}

struct LoraLayer {
    down: String,
    up: String,
    rank: usize,
    scale: f64,
}

/// The keys of a layer's tensors.
#[derive(Default)]
struct LayerKeys(BTreeMap<LoraPart, String>);

fn layers(
    file: &LoraFile,
    names: &ModuleNames<'_>,
    modules: &Modules,
) -> Result<BTreeMap<String, LoraLayer>, LoraError> {
    let path = || file.path().to_owned();
    let mut found: BTreeMap<String, LayerKeys> = BTreeMap::new();
    let (mut unknown, mut count) = (Vec::new(), 0);
    for (key, entry) in file.entries() {
        match names.find(key) {
            LoraKey::Of(module, part) => {
                if let Some(first) = found.entry(module).or_default().0.insert(part, key.clone()) {
                    return Err(LoraError::Twice { path: path(), first, second: key.clone() });
                }
            }
            LoraKey::Other(kind) => return Err(LoraError::Kind { path: path(), key: key.clone(), kind }),
            LoraKey::Unknown => {
                count += 1;
                if unknown.len() < LISTED {
                    unknown.push((key.clone(), entry.shape.clone()));
                }
            }
        }
    }
    if count > 0 {
        return Err(LoraError::UnknownKeys { path: path(), keys: unknown, count, of: file.entries().len() });
    }
    if found.is_empty() {
        return Err(LoraError::Empty { path: path() });
    }
    let mut layers = BTreeMap::new();
    let (mut misfits, mut count) = (Vec::new(), 0);
    for (module, parts) in found {
        let Some(&(outputs, inputs)) = modules.get(&module) else { continue };
        match layer(file, &module, &parts, outputs, inputs)? {
            Ok(layer) => drop(layers.insert(module, layer)),
            Err(misfit) => {
                count += 1;
                if misfits.len() < LISTED {
                    misfits.push(misfit);
                }
            }
        }
    }
    if count > 0 {
        return Err(LoraError::WrongShapes { path: path(), misfits, count });
    }
    Ok(layers)
}

fn layer(
    file: &LoraFile,
    module: &str,
    LayerKeys(parts): &LayerKeys,
    outputs: usize,
    inputs: usize,
) -> Result<Result<LoraLayer, ShapeMismatch>, LoraError> {
    let path = || file.path().to_owned();
    let key_of = |part: LoraPart, missing: &'static str| match (parts.get(&part), parts.values().next()) {
        (Some(key), _) => Ok(key.clone()),
        (None, there) => Err(LoraError::Incomplete { path: path(), key: there.cloned().unwrap_or_default(), missing }),
    };
    let (down, up) = (
        key_of(LoraPart::Down, "`lora_A` or `lora_down` matrix")?,
        key_of(LoraPart::Up, "`lora_B` or `lora_up` matrix")?,
    );
    let shape = |key: &str| file.entries().get(key).map(|entry| entry.shape.clone()).unwrap_or_default();
    let refuse = |key: &str, reason: String| LoraError::InvalidTensor { path: path(), key: key.to_owned(), reason };
    for key in [&down, &up] {
        let shape = shape(key);
        if let [rows, width, rest @ ..] = shape.as_slice()
            && !rest.is_empty()
        {
            let reason = if rest.iter().all(|size| *size == 1) {
                format!("has shape {shape:?}, as for a convolution; give the layer's matrix as [{rows}, {width}]")
            } else {
                format!("has shape {shape:?}; a layer of this transformer has a matrix")
            };
            return Err(refuse(key, reason));
        }
        if shape.contains(&0) {
            return Err(refuse(key, format!("has shape {shape:?}, which is of rank 0; the LoRA has nothing to add")));
        }
    }
    let misfit = |key: String, expected: String| Ok(Err(ShapeMismatch { found: shape(&key), key, expected }));
    let rank = match shape(&down)[..] {
        [rank, width] if width == inputs => rank,
        _ => return misfit(down, format!("[rank, {inputs}]")),
    };
    match shape(&up)[..] {
        [height, other] if height == outputs && other == rank => {}
        [height, other] if height == outputs => {
            let reason =
                format!("has shape [{height}, {other}], so rank {other}, but `{down}` of this layer has rank {rank}");
            return Err(refuse(&up, format!("{reason}; the file is damaged")));
        }
        _ => return misfit(up, format!("[{outputs}, {rank}]")),
    }
    let scale = match parts.get(&LoraPart::Alpha) {
        None => {
            file.scale.check_rank(module, rank).map_err(|reason| refuse(&down, reason))?;
            file.scale.factor(module, rank)
        }
        Some(key) => alpha(file, key)? / rank as f64,
    };
    Ok(Ok(LoraLayer { down, up, rank, scale }))
}

/// A tensor with one number.
fn alpha(file: &LoraFile, key: &str) -> Result<f64, LoraError> {
    let read = || -> candle_core::Result<Vec<f64>> {
        let tensor: Tensor = file.load(key, &Device::Cpu)?;
        tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
    };
    let refuse =
        |reason: String| LoraError::InvalidTensor { path: file.path().to_owned(), key: key.to_owned(), reason };
    match read().map_err(|error| refuse(error.to_string()))?[..] {
        [alpha] if alpha.is_finite() => Ok(alpha),
        [alpha] => Err(refuse(format!("is {alpha}; it must be a finite number"))),
        ref several => Err(refuse(format!("has {} numbers; it must be one", several.len()))),
    }
}
