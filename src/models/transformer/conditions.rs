//! What timesteps mean to the blocks.

use candle_core::{Device, Result, Tensor};

use super::{MODULATIONS, Transformer, block::Modulation, block::Modulations};
use crate::nn;

/// What a timestep means to every block. Both branches of guidance share it.
#[derive(Debug)]
pub struct Conditioning {
    pub(super) blocks: Vec<Modulation>,
    /// Scale and shift of the last norm, `(1, 1, 2 dim)`.
    pub(super) out: Tensor,
}

/// The timesteps of a run. Where blocks are streamed all of it is computed at once, so that the weights for it travel
/// once for all steps; elsewhere when it is needed.
#[derive(Debug)]
pub struct Conditions<'a> {
    transformer: &'a Transformer,
    device: &'a Device,
    timesteps: &'a [f32],
    /// One for each timestep, each given away once.
    computed: Option<Vec<Option<Conditioning>>>,
}

impl Conditions<'_> {
    /// Of a step, which is asked for once.
    pub fn take(&mut self, step: usize) -> Result<Conditioning> {
        match self.computed.as_mut().and_then(|computed| computed.get_mut(step)?.take()) {
            Some(computed) => Ok(computed),
            None => self.transformer.condition(self.timesteps[step], self.device),
        }
    }
}

/// Activated embeddings of a timestep, and of 0 where that is needed, each `(1, 1, dim)`.
struct Embedded {
    now: Tensor,
    clean: Option<Tensor>,
}

impl Transformer {
    /// Prepares for timesteps; each is the scheduler's divided by 1000, so it is the noise level, 1 to 0.
    pub fn conditions<'a>(&'a self, timesteps: &'a [f32], device: &'a Device) -> Result<Conditions<'a>> {
        let computed = match self.streamed {
            Some(_) => Some(self.condition_all(timesteps, device)?.into_iter().map(Some).collect()),
            None => None,
        };
        Ok(Conditions { transformer: self, device, timesteps, computed })
    }

    /// Of a single timestep.
    pub fn condition(&self, timestep: f32, device: &Device) -> Result<Conditioning> {
        let mut all = self.condition_all(&[timestep], device)?;
        all.pop().ok_or_else(|| candle_core::Error::Msg("a timestep without a meaning".to_owned()))
    }

    fn condition_all(&self, timesteps: &[f32], device: &Device) -> Result<Vec<Conditioning>> {
        let embeds = timesteps.iter().map(|&timestep| self.embed(timestep, device)).collect::<Result<Vec<_>>>()?;
        let mut all = embeds
            .iter()
            .map(|Embedded { now, .. }| Ok(Conditioning { blocks: Vec::new(), out: self.ends.norm_out.forward(now)? }))
            .collect::<Result<Vec<_>>>()?;
        let (resident, others) = self.blocks.split_at(self.resident);
        for block in resident {
            for (conditioning, Embedded { now, clean }) in all.iter_mut().zip(&embeds) {
                conditioning.blocks.push(block.modulation(now, clean.as_ref())?);
            }
        }
        if let Some(streamed) = &self.streamed {
            streamed.pass(MODULATIONS, false, |place, copy, room| {
                let mut block = others[place].clone();
                copy.point(&mut Modulations(&mut block), room)?;
                for (conditioning, Embedded { now, clean }) in all.iter_mut().zip(&embeds) {
                    conditioning.blocks.push(block.modulation(now, clean.as_ref())?);
                }
                Ok(())
            })?;
        }
        Ok(all)
    }

    fn embed(&self, timestep: f32, device: &Device) -> Result<Embedded> {
        let dtype = self.dtype();
        let embed = |t: f32| self.ends.time.forward(t, device, dtype).and_then(|t| nn::silu(&t));
        // With `zero_cond_t` everything but the first frame is modulated as if it were free of noise.
        Ok(Embedded { now: embed(timestep)?, clean: self.config.zero_cond_t.then(|| embed(0.0)).transpose()? })
    }
}
