//! What a transformer with other LoRAs can take over from the one that was loaded before.

use super::{BLOCKS, OuterLayers, SETS, Transformer, block::Block};
use crate::{models::lora::OverlayIdentity, nn::HostWeights};

/// The parts of a transformer that stay as they are; the others were freed.
#[derive(Default)]
pub struct Reusable {
    ends: Option<OuterLayers>,
    blocks: Vec<Option<Block>>,
    /// How many blocks are resident.
    resident: usize,
    copies: [Vec<Option<HostWeights>>; SETS],
}

impl Reusable {
    /// Of an older transformer, for one with these LoRAs and so many resident blocks.
    pub fn of(old: Option<Transformer>, overlays: &OverlayIdentity, resident: usize) -> Self {
        let Some(old) = old.filter(|old| old.resident == resident) else { return Self::default() };
        let Transformer { ends, blocks, resident, streamed, overlays: before, .. } = old;
        let same = |index: usize| before.agrees_on(overlays, &format!("{BLOCKS}.{index}."));
        let kept: Vec<bool> = (0..blocks.len()).map(same).collect();
        let keep = |index: usize| kept.get(index).copied().unwrap_or(false);
        let ends = before.agrees_outside(overlays, &format!("{BLOCKS}.")).then_some(ends);
        let blocks = blocks.into_iter().enumerate().map(|(index, block)| keep(index).then_some(block)).collect();
        let sets = streamed.map_or_else(Default::default, |swap| swap.into_sets());
        let copies = sets.map(|set: Vec<HostWeights>| {
            set.into_iter().enumerate().map(|(at, copy)| keep(resident + at).then_some(copy)).collect()
        });
        Self { ends, blocks, resident, copies }
    }

    /// A block, and its host copies if it is streamed.
    pub fn block(&mut self, index: usize) -> Option<(Block, Option<[HostWeights; SETS]>)> {
        let block = self.blocks.get_mut(index)?.take()?;
        let Some(at) = index.checked_sub(self.resident) else { return Some((block, None)) };
        let [modulations, bodies] = &mut self.copies;
        let copies = [modulations.get_mut(at)?.take()?, bodies.get_mut(at)?.take()?];
        Some((block, Some(copies)))
    }

    pub fn ends(&mut self) -> Option<OuterLayers> {
        self.ends.take()
    }
}
