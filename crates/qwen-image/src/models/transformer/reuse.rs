//! What a transformer with other LoRAs can take over from the one that was loaded before.

use super::{
    BLOCKS, ENDS, OuterLayers, SETS, Transformer,
    block::{Block, MODULATION_LAYERS},
};
use crate::{
    models::{Weights, lora::OverlayIdentity},
    nn::{HostWeights, Linear},
};

/// The parts of a transformer that stay as they are; the others were freed.
#[derive(Default)]
pub struct Reusable {
    ends: Option<OuterLayers>,
    blocks: Vec<ReusableBlock>,
}

/// What stays of a block.
#[derive(Default)]
pub struct ReusableBlock {
    /// All of it.
    pub whole: Option<Block>,
    /// Otherwise a third of its weights, which few LoRAs change.
    pub modulations: Option<[Linear; 2]>,
    /// If it is streamed.
    pub copies: [Option<HostWeights>; SETS],
}

impl Reusable {
    /// Of an older transformer, for one with these LoRAs and so many resident blocks.
    pub fn of(old: Option<Transformer>, overlays: &OverlayIdentity, resident: usize) -> Self {
        let Some(old) = old.filter(|old| old.resident == resident) else { return Self::default() };
        let Transformer { ends, blocks, resident, streamed, overlays: before, .. } = old;
        let ends = before.agrees_outside(overlays, &format!("{BLOCKS}.")).then_some(ends);
        let [modulations, bodies] = streamed.map_or_else(Default::default, |swap| swap.into_sets());
        let copies = modulations.into_iter().zip(bodies).map(Some);
        let copies = std::iter::repeat_with(|| None).take(resident).chain(copies);
        let keep = |(index, (block, copies)): (usize, (Block, Option<(HostWeights, HostWeights)>))| {
            let same = |layers: &str| before.agrees_on(overlays, &format!("{BLOCKS}.{index}.{layers}"));
            let (modulations, body) = copies.unzip();
            if same("") {
                ReusableBlock { whole: Some(block), modulations: None, copies: [modulations, body] }
            } else if MODULATION_LAYERS.into_iter().all(same) {
                let layers = Some(block.into_modulations());
                ReusableBlock { whole: None, modulations: layers, copies: [modulations, None] }
            } else {
                ReusableBlock::default()
            }
        };
        Self { ends, blocks: blocks.into_iter().zip(copies).enumerate().map(keep).collect() }
    }

    /// Tells a checkpoint which of its tensors are not needed, before they are read ahead.
    pub fn skip(&self, w: &Weights<'_>) {
        for (index, block) in self.blocks.iter().enumerate() {
            let w = w.pp(BLOCKS).pp(index);
            if block.whole.is_some() {
                w.skip("");
            } else if block.modulations.is_some() {
                MODULATION_LAYERS.iter().for_each(|name| w.skip(name));
            }
        }
        if self.ends.is_some() {
            ENDS.iter().for_each(|name| w.skip(name));
        }
    }

    /// What stays of a block.
    pub fn block(&mut self, index: usize) -> ReusableBlock {
        self.blocks.get_mut(index).map(std::mem::take).unwrap_or_default()
    }

    pub fn ends(&mut self) -> Option<OuterLayers> {
        self.ends.take()
    }
}
