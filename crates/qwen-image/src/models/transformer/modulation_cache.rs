//! AdaLN modulations, precomputed for each timestep.

use candle_core::{Device, Result, Tensor};

use super::{
    MODULATIONS, Transformer,
    block::{Block, Modulation, Modulations},
};
use crate::nn;

/// The modulations of every block at one timestep. Both branches of guidance share them.
#[derive(Debug)]
pub struct StepModulations {
    pub(super) blocks: Vec<Modulation>,
    /// Scale and shift of the last norm, `(1, 1, 2 dim)`.
    pub(super) out: Tensor,
}

/// How many timesteps' modulations are computed together, so that their weights, a third of the model, are read once
/// for all of them.
const TOGETHER: usize = 16;

/// The timesteps of a run. If blocks are streamed, all modulations are computed at once, so that their weights are
/// transferred once for all steps; otherwise `TOGETHER` at a time.
#[derive(Debug)]
pub struct ModulationCache<'a> {
    transformer: &'a Transformer,
    device: &'a Device,
    timesteps: &'a [f32],
    /// One per timestep; each is taken once.
    computed: Vec<Option<StepModulations>>,
}

impl ModulationCache<'_> {
    /// The modulations of a step; each step is requested once.
    pub fn take(&mut self, step: usize) -> Result<StepModulations> {
        if self.computed[step].is_none() {
            let start = step / TOGETHER * TOGETHER;
            let group = start..(start + TOGETHER).min(self.timesteps.len());
            let all = self.transformer.modulate_all(&self.timesteps[group], self.device)?;
            for (place, modulations) in self.computed[start..].iter_mut().zip(all) {
                *place = Some(modulations);
            }
        }
        self.computed[step].take().ok_or_else(|| candle_core::Error::Msg("a timestep without modulations".to_owned()))
    }
}

/// Activated embeddings of some timesteps, `(1, timesteps, dim)`, and of 0 if needed, `(1, 1, dim)`.
struct TimestepEmbeddings {
    count: usize,
    now: Tensor,
    clean: Option<Tensor>,
}

impl Transformer {
    /// Prepares for timesteps; each is the scheduler's divided by 1000, so it is the noise level, 1 to 0.
    pub fn modulation_cache<'a>(&'a self, timesteps: &'a [f32], device: &'a Device) -> Result<ModulationCache<'a>> {
        let computed = match self.streamed {
            Some(_) => self.modulate_all(timesteps, device)?.into_iter().map(Some).collect(),
            None => timesteps.iter().map(|_| None).collect(),
        };
        Ok(ModulationCache { transformer: self, device, timesteps, computed })
    }

    /// The modulations of a single timestep.
    pub fn modulations(&self, timestep: f32, device: &Device) -> Result<StepModulations> {
        let mut all = self.modulate_all(&[timestep], device)?;
        all.pop().ok_or_else(|| candle_core::Error::Msg("a timestep without modulations".to_owned()))
    }

    fn modulate_all(&self, timesteps: &[f32], device: &Device) -> Result<Vec<StepModulations>> {
        let groups = timesteps.chunks(TOGETHER).map(|group| self.embed(group, device)).collect::<Result<Vec<_>>>()?;
        let mut all = Vec::with_capacity(timesteps.len());
        for group in &groups {
            let out = self.ends.norm_out.forward(&group.now)?;
            for index in 0..group.count {
                all.push(StepModulations { blocks: Vec::new(), out: out.narrow(1, index, 1)? });
            }
        }
        let (resident, others) = self.blocks.split_at(self.resident);
        for block in resident {
            add_block(&mut all, &groups, block)?;
        }
        if let Some(streamed) = &self.streamed {
            streamed.pass(MODULATIONS, false, |place, copy, room| {
                let mut block = others[place].clone();
                copy.point(&mut Modulations(&mut block), room)?;
                add_block(&mut all, &groups, &block)
            })?;
        }
        Ok(all)
    }

    fn embed(&self, timesteps: &[f32], device: &Device) -> Result<TimestepEmbeddings> {
        let dtype = self.dtype();
        let embed = |t: f32| self.ends.time.forward(t, device, dtype).and_then(|t| nn::silu(&t));
        let now = timesteps.iter().map(|&timestep| embed(timestep)).collect::<Result<Vec<_>>>()?;
        // With `zero_cond_t`, everything except the first frame is modulated as if it had no noise.
        let clean = self.config.zero_cond_t.then(|| embed(0.0)).transpose()?;
        Ok(TimestepEmbeddings { count: timesteps.len(), now: Tensor::cat(&now, 1)?, clean })
    }
}

/// Adds a block's modulations at each of the timesteps.
fn add_block(all: &mut [StepModulations], groups: &[TimestepEmbeddings], block: &Block) -> Result<()> {
    let mut all = all.iter_mut();
    for group in groups {
        let modulation = block.modulation(&group.now, group.clean.as_ref())?;
        for (index, modulations) in all.by_ref().take(group.count).enumerate() {
            modulations.blocks.push(modulation.of(index)?);
        }
    }
    Ok(())
}
