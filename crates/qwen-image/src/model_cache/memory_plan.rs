//! The placement of a model's parts, chosen by the free GPU memory before anything is loaded.
//!
//! There are three modes, from the fastest to the smallest. The whole model stays on the device. Or its parts take
//! turns: text encoder, transformer, VAE. Or its blocks take turns as well, except for as many as fit permanently. What
//! is not on the device is in host memory, from which one transfer brings it back.

use std::fmt;

use super::{device_options::DeviceOptions, host_memory::human_memory};
use crate::{
    models::{PartSize, Sizes},
    pipeline::{ComponentPlacement, DeviceMap},
};

/// The configured offload mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CpuOffload {
    /// As much as the free memory requires.
    #[default]
    Auto,
    /// Everything stays on the device.
    Never,
    /// A part is on the device only while it computes, as with diffusers' `enable_model_cpu_offload`.
    Model,
    /// Blocks are streamed to the device as well, as with diffusers' `enable_sequential_cpu_offload`.
    Sequential,
}

/// From the fastest to the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PlacementMode {
    Resident,
    InTurn,
    /// With resident blocks.
    Streamed,
    /// Without resident blocks.
    Smallest,
}

impl PlacementMode {
    /// The next smaller mode.
    pub fn down(self) -> Option<Self> {
        match self {
            Self::Resident => Some(Self::InTurn),
            Self::InTurn => Some(Self::Streamed),
            Self::Streamed => Some(Self::Smallest),
            Self::Smallest => None,
        }
    }
}

/// The sizes for the choice, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct PlanRequest {
    pub sizes: Sizes,
    /// Free on the device.
    pub free: u64,
    /// Held there by models of this program.
    pub held: u64,
    /// The part of that which could be offloaded.
    pub leavable: u64,
    /// Free host memory.
    pub host: u64,
    pub offload: CpuOffload,
    /// The budget of the device, for all models.
    pub budget: Option<u64>,
    /// The fastest allowed mode; a smaller one after the device ran out of memory.
    pub from: PlacementMode,
}

impl PlanRequest {
    /// For a device with so much free memory and no models.
    pub fn new(options: &DeviceOptions, sizes: Sizes, free: u64) -> Self {
        Self {
            sizes,
            free,
            held: 0,
            leavable: 0,
            host: options.host_memory(),
            offload: options.cpu_offload,
            budget: options.vram_budget,
            from: PlacementMode::Resident,
        }
    }

    /// The same for the transformer on the device of the negative branch, where `held` bytes are those of other
    /// models. The first device's parts take `host` bytes of the host's memory.
    pub fn of_negative_branch(&self, free: u64, held: u64, host: u64) -> Self {
        let sizes = self.sizes.of_negative_branch();
        Self { sizes, free, held, leavable: held, host: self.host.saturating_sub(host), ..*self }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    pub mode: PlacementMode,
    pub placement: DeviceMap,
    /// Whether the other model has to be offloaded first.
    pub alone: bool,
    /// The peak memory on the device, in bytes.
    pub device: u64,
    /// The memory kept on the host, in bytes.
    pub host: u64,
    /// The size of the weights, in bytes.
    pub weights: u64,
    /// How many of the transformer's blocks are resident while it computes, and their total.
    pub blocks: (usize, usize),
}

/// Nothing fits, with the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanError {
    /// What the smallest allowed mode needs on the device, and what is available.
    Device { needed: u64, available: u64, budget: bool, offload: CpuOffload },
    /// The same for host memory.
    Host { needed: u64, available: u64 },
}

/// The part of the free memory that is not used, for libraries and fragmentation.
const SPARE: u64 = 32;
const MOST_SPARE: u64 = 1 << 30;

pub fn plan(question: &PlanRequest) -> Result<MemoryPlan, PlanError> {
    let PlanRequest { sizes, free, held, leavable, host, offload, budget, from } = *question;
    let spare = (free / SPARE).min(MOST_SPARE);
    let cap = |on_card: u64, held: u64| {
        let on_card = on_card.saturating_sub(spare);
        budget.map_or(on_card, |budget| on_card.min(budget.saturating_sub(held)))
    };
    let beside = cap(free, held);
    let alone = cap(free + leavable, held - leavable.min(held));
    let allowed = |mode: PlacementMode| {
        mode >= from
            && match offload {
                CpuOffload::Auto => true,
                CpuOffload::Never => mode == PlacementMode::Resident,
                // The user asked for little device memory, so speed does not matter.
                CpuOffload::Model => mode == PlacementMode::InTurn || from > PlacementMode::InTurn,
                CpuOffload::Sequential => mode >= PlacementMode::Streamed,
            }
    };
    // Without a budget, `sequential` means as little as possible.
    let least_only = offload == CpuOffload::Sequential && budget.is_none();

    let mut refused = None;
    for mode in [PlacementMode::Resident, PlacementMode::InTurn, PlacementMode::Streamed, PlacementMode::Smallest] {
        if !allowed(mode) || (mode == PlacementMode::Streamed && least_only) {
            continue;
        }
        let rooms = if leavable > 0 { vec![(beside, false), (alone, true)] } else { vec![(beside, false)] };
        for (room, alone) in rooms {
            let made = place(&sizes, mode, room);
            if made.device > room {
                refused =
                    Some(PlanError::Device { needed: made.device, available: room, budget: budget.is_some(), offload });
                continue;
            }
            if made.host > host {
                return Err(PlanError::Host { needed: made.host, available: host });
            }
            return Ok(MemoryPlan { alone, ..made });
        }
    }
    Err(refused.unwrap_or(PlanError::Device { needed: 0, available: alone, budget: budget.is_some(), offload }))
}

fn place(sizes: &Sizes, mode: PlacementMode, room: u64) -> MemoryPlan {
    let Sizes { text_encoder, transformer, vae } = sizes;
    let parts = sizes.parts();
    let weights: u64 = parts.iter().map(PartSize::weights).sum();
    let work = parts.iter().map(|part| part.work).max().unwrap_or(0);
    let (placement, device, host) = match mode {
        PlacementMode::Resident => (DeviceMap::KEPT, weights + work, 0),
        PlacementMode::InTurn => {
            let all = DeviceMap {
                text_encoder: ComponentPlacement::IN_TURN,
                transformer: ComponentPlacement::IN_TURN,
                vae: ComponentPlacement::IN_TURN,
            };
            (all, parts.iter().map(|part| part.weights() + part.work).max().unwrap_or(0), weights)
        }
        PlacementMode::Streamed | PlacementMode::Smallest => {
            let most = if mode == PlacementMode::Smallest { 0 } else { room };
            let (text, text_needs) = stream(text_encoder, most);
            let (blocks, transformer_needs) = stream(transformer, most);
            let placement = DeviceMap { text_encoder: text, transformer: blocks, vae: ComponentPlacement::IN_TURN };
            (placement, text_needs.max(transformer_needs).max(vae.weights() + vae.work), weights)
        }
    };
    let blocks = (placement.transformer.blocks.resident(transformer.blocks), transformer.blocks);
    MemoryPlan { mode, placement, alone: false, device, host, weights, blocks }
}

/// The number of resident blocks that fit into `most`, and the memory that the part then needs.
fn stream(part: &PartSize, most: u64) -> (ComponentPlacement, u64) {
    if part.weights() + part.work <= most {
        return (ComponentPlacement::IN_TURN, part.weights() + part.work);
    }
    let least = part.ends + 2 * part.room + part.work;
    let stay = most.saturating_sub(least).checked_div(part.block).unwrap_or(0).min(part.blocks as u64);
    (ComponentPlacement::streamed(stay as usize), least + stay * part.block)
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mode {
            PlacementMode::Resident => write!(f, "all on the device")?,
            PlacementMode::InTurn => write!(f, "parts take turns")?,
            PlacementMode::Streamed | PlacementMode::Smallest => {
                write!(f, "blocks streamed, {} of {} resident", self.blocks.0, self.blocks.1)?;
            }
        }
        write!(f, "; at most {} there", human_memory(self.device))?;
        if self.host > 0 {
            write!(f, ", {} on the host", human_memory(self.host))?;
        }
        Ok(())
    }
}

/// What is said about a device of the negative branch that has no room.
pub fn on_negative_device(device: &str, refused: &PlanError) -> String {
    format!("for the negative branch on {device}, {refused}")
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Device { needed, available, budget, offload } => {
                let of = if budget { "are left of vram_budget" } else { "are free on the device" };
                let (how, advice) = match offload {
                    CpuOffload::Never => (", all of it at once", "allow offloading parts (cpu_offload = \"auto\")"),
                    CpuOffload::Model => (" for its largest part", "allow streaming blocks (cpu_offload = \"auto\")"),
                    CpuOffload::Auto | CpuOffload::Sequential => (
                        " even with its blocks streamed",
                        "use a smaller checkpoint, or a device with more memory free",
                    ),
                };
                write!(
                    f,
                    "it needs about {}{how}, but {} {of}; {advice}",
                    human_memory(needed),
                    human_memory(available)
                )
            }
            Self::Host { needed, available } => write!(
                f,
                "the offloaded parts would take {} of host memory, but {} are free; set memory_budget if more \
                 may be used",
                human_memory(needed),
                human_memory(available)
            ),
        }
    }
}

#[cfg(test)]
#[path = "memory_plan_tests.rs"]
mod tests;
