//! CFG parallelism: a second copy of the transformer computes the negative branch of a step on its own device, while
//! the first one computes the positive branch. Both devices are of one kind, so the result is the same, byte for byte.

use std::path::Path;

use candle_core::Device;

use super::{
    components::load_transformer,
    error::{PipelineError, Result},
    guidance::BranchOrder,
    placement::ComponentPlacement,
};
use crate::{
    models::{Entered, LoadContext, LoadResult, ModelError, Offloadable, lora::Adapter, transformer::Transformer},
    nn,
};

/// The transformer of the negative branch.
pub struct CfgParallel {
    /// The copy of the main one.
    pub transformer: Offloadable<Transformer>,
    /// Where it computes.
    pub device: Device,
}

/// Where it is loaded.
#[derive(Debug, Clone, Copy)]
pub struct CfgParallelOptions<'a> {
    /// The device of the negative branch.
    pub device: &'a Device,
    /// The placement there.
    pub placement: ComponentPlacement,
}

impl CfgParallel {
    /// Loads it as the first one was loaded; `context` is that one's. `old` is the same with other LoRAs.
    pub(super) fn load(
        folder: &Path,
        context: LoadContext<'_>,
        options: CfgParallelOptions<'_>,
        fp8: bool,
        loras: &[Adapter],
        old: Option<Self>,
    ) -> LoadResult<Self> {
        let CfgParallelOptions { device, placement } = options;
        let old = old.and_then(|old| old.transformer.into_model());
        let loaded = load_transformer(folder, LoadContext { device, ..context }, placement, fp8, loras, old);
        let (transformer, _) = loaded.map_err(|error| match error {
            ModelError::Device(source) => {
                ModelError::NegativeBranch { device: nn::device_name(device), source: Box::new(source) }
            }
            error => error,
        })?;
        Ok(Self { transformer, device: device.clone() })
    }

    fn enter(&self) -> Result<(Entered<'_, Transformer>, &Device)> {
        let entered = self.transformer.enter().map_err(PipelineError::in_negative_branch(&self.device))?;
        Ok((entered, &self.device))
    }
}

/// The transformers of a run, on their devices until this is dropped.
pub struct Transformers<'a> {
    /// That of the positive branch, or of both.
    pub main: Entered<'a, Transformer>,
    /// Its device.
    pub device: &'a Device,
    /// That of the negative branch, if it has its own, and its device.
    pub negative: Option<(Entered<'a, Transformer>, &'a Device)>,
}

impl<'a> Transformers<'a> {
    /// Brings them to their devices; the second one only if there is `guided` work for it.
    pub(super) fn enter(
        main: &'a Offloadable<Transformer>,
        device: &'a Device,
        second: Option<&'a CfgParallel>,
        guided: bool,
    ) -> Result<Self> {
        let negative = second.filter(|_| guided).map(CfgParallel::enter).transpose()?;
        Ok(Self { main: main.enter()?, device, negative })
    }

    /// How to compute the branches of a step with the weights' current placement.
    pub fn order(&self) -> BranchOrder {
        match &self.negative {
            Some(_) => BranchOrder::Parallel,
            None if self.main.is_streamed() => BranchOrder::Joint,
            None => BranchOrder::Serial,
        }
    }
}

#[cfg(test)]
#[path = "cfg_parallel_tests.rs"]
mod tests;
