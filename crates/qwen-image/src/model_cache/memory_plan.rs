//! Where a model's parts go: chosen from what the card has free, before anything is loaded.
//!
//! Three ways, from the fastest to the smallest. All of it stays on the device. Or the parts take turns there: text
//! encoder, transformer, VAE. Or blocks take turns too, behind as many that stay as there is room for. What is not on
//! the device waits in host memory, from which it comes with one transfer.

use std::fmt;

use super::host_memory::size;
use crate::{
    models::{PartSize, Sizes},
    pipeline::{ComponentPlacement, Placement},
};

/// What may leave the device, as it is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CpuOffload {
    /// As much as memory asks for.
    #[default]
    Auto,
    Never,
    Model,
    Sequential,
}

/// From the fastest to the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PlacementMode {
    Resident,
    InTurn,
    /// With blocks that stay.
    Streamed,
    /// Without any.
    Smallest,
}

impl PlacementMode {
    /// The next smaller one.
    pub fn down(self) -> Option<Self> {
        match self {
            Self::Resident => Some(Self::InTurn),
            Self::InTurn => Some(Self::Streamed),
            Self::Streamed => Some(Self::Smallest),
            Self::Smallest => None,
        }
    }
}

/// What there is to choose from, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct PlanRequest {
    pub sizes: Sizes,
    /// Free on the card.
    pub free: u64,
    /// What models of this program hold there.
    pub held: u64,
    /// What of that could leave.
    pub leavable: u64,
    /// Free in the host's memory.
    pub host: u64,
    pub offload: CpuOffload,
    /// Of the card, for all models.
    pub budget: Option<u64>,
    /// The fastest mode to take; smaller ones after the device ran out of memory.
    pub from: PlacementMode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    pub mode: PlacementMode,
    pub placement: Placement,
    /// The other model has to leave first.
    pub alone: bool,
    /// Most bytes on the device.
    pub device: u64,
    /// Bytes kept on the host.
    pub host: u64,
    /// Blocks of the transformer that stay on the device while it computes, of how many.
    pub blocks: (usize, usize),
}

/// Nothing fits; the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanError {
    /// What the smallest allowed mode needs of the device, and what there is.
    Device { needed: u64, available: u64, budget: bool, offload: CpuOffload },
    /// The same of the host's memory.
    Host { needed: u64, available: u64 },
}

/// Part of what is free that is left alone: libraries take some for themselves, and pieces do not fit without gaps.
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
                // The user asked for little on the device, so speed does not decide.
                CpuOffload::Model => mode == PlacementMode::InTurn || from > PlacementMode::InTurn,
                CpuOffload::Sequential => mode >= PlacementMode::Streamed,
            }
    };
    // Without a budget `sequential` means as little as possible.
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
        PlacementMode::Resident => (Placement::KEPT, weights + work, 0),
        PlacementMode::InTurn => {
            let all = Placement {
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
            let placement = Placement { text_encoder: text, transformer: blocks, vae: ComponentPlacement::IN_TURN };
            (placement, text_needs.max(transformer_needs).max(vae.weights() + vae.work), weights)
        }
    };
    let blocks = (placement.transformer.blocks.resident(transformer.blocks), transformer.blocks);
    MemoryPlan { mode, placement, alone: false, device, host, blocks }
}

/// A part with as many blocks on the device as fit into `most`, and what it then needs.
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
        write!(f, "; at most {} there", size(self.device))?;
        if self.host > 0 {
            write!(f, ", {} on the host", size(self.host))?;
        }
        Ok(())
    }
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
                write!(f, "it needs about {}{how}, but {} {of}; {advice}", size(needed), size(available))
            }
            Self::Host { needed, available } => write!(
                f,
                "the offloaded parts would take {} of host memory, but {} are free; set memory_budget if more \
                 may be used",
                size(needed),
                size(available)
            ),
        }
    }
}

#[cfg(test)]
#[path = "memory_plan_tests.rs"]
mod tests;
