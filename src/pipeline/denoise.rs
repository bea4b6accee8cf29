//! The denoise loop that both pipelines share.

use candle_core::{D, DType, Device, Tensor};

use super::{
    control::Control,
    error::{PipelineError, Result},
};
use crate::{
    job::Stage,
    models::{
        Schedule,
        transformer::{Branch, Frame, TokenRotations, Transformer},
    },
};

/// One run of the loop.
pub struct Denoise<'a> {
    pub transformer: &'a Transformer,
    pub device: &'a Device,
    pub dtype: DType,
    pub schedule: &'a Schedule,
    /// All frames in order: the noisy ones, then the condition's.
    pub frames: &'a [Frame],
    /// Packed latents of the condition, `(1, c, channels)`.
    pub condition: &'a Tensor,
    /// Prompt embeddings, `(1, t, joint)`.
    pub prompt: &'a Tensor,
    /// The same of the negative prompt; absent: no guidance.
    pub negative: Option<&'a Tensor>,
    pub cfg_scale: f64,
    /// Rescale the guided velocity of each token to the norm of the unguided one.
    pub normalize: bool,
}

/// What a guidance branch keeps over the steps.
struct Kept {
    text: Tensor,
    rotations: TokenRotations,
}

impl Denoise<'_> {
    /// Takes packed noise `(1, n, channels)` to packed latents, in float32 throughout; the transformer's input is
    /// its own number format. `watch` sees the latents after every step, counted from 1.
    pub fn run(
        &self,
        noise: Tensor,
        control: &mut Control<'_>,
        mut watch: impl FnMut(usize, &Tensor),
    ) -> Result<Tensor> {
        let kept = std::iter::once(self.prompt)
            .chain(self.negative)
            .map(|embeds| self.keep(embeds))
            .collect::<Result<Vec<_>>>()?;
        let branches: Vec<_> = kept.iter().map(|Kept { text, rotations }| Branch { text, rotations }).collect();
        let condition = self.condition.to_dtype(self.dtype)?;
        let steps = self.schedule.steps();
        let timesteps: Vec<f32> = self.schedule.timesteps[..steps].iter().map(|timestep| timestep / 1000.0).collect();
        let mut conditions = self.transformer.conditions(&timesteps, self.device)?;
        let mut latents = noise;
        for step in 0..steps {
            control.report(Stage::Denoise, step, steps)?;
            let input = Tensor::cat(&[&latents.to_dtype(self.dtype)?, &condition], 1)?;
            let conditioning = conditions.take(step)?;
            let targets = latents.dim(1)?;
            // A block that comes to the device for this step serves both branches; otherwise one after the other
            // needs less memory.
            let together = if self.transformer.is_streamed() { branches.len() } else { 1 };
            let mut velocities = Vec::with_capacity(branches.len());
            for branches in branches.chunks(together) {
                for velocity in self.transformer.forward_branches(&input, branches, &conditioning, targets)? {
                    velocities.push(velocity.to_dtype(DType::F32)?);
                }
            }
            let velocity = match velocities.as_slice() {
                [positive, negative] => guide(positive, negative, self.cfg_scale, self.normalize)?,
                _ => velocities.swap_remove(0),
            };
            let dt = f64::from(self.schedule.sigmas[step + 1] - self.schedule.sigmas[step]);
            latents = (latents + (velocity * dt)?)?;
            // A sum is finite only when every term is; it also waits for the device, so that steps are paced.
            if !latents.abs()?.sum_all()?.to_scalar::<f32>()?.is_finite() {
                return Err(PipelineError::NonFinite { step: step + 1 });
            }
            watch(step + 1, &latents);
        }
        control.report(Stage::Denoise, steps, steps)?;
        Ok(latents)
    }

    fn keep(&self, embeds: &Tensor) -> Result<Kept> {
        let text = self.transformer.project_text(&embeds.to_dtype(self.dtype)?)?;
        let rotations = self.transformer.rotations(self.frames, embeds.dim(1)?, self.device)?;
        Ok(Kept { text, rotations })
    }
}

/// `negative + scale (positive - negative)`, rescaled per token to the norm of `positive` with `normalize`.
fn guide(positive: &Tensor, negative: &Tensor, scale: f64, normalize: bool) -> candle_core::Result<Tensor> {
    let guided = (negative + ((positive - negative)? * scale)?)?;
    if !normalize {
        return Ok(guided);
    }
    let norm = |x: &Tensor| x.sqr()?.sum_keepdim(D::Minus1)?.sqrt();
    guided.broadcast_mul(&norm(positive)?.broadcast_div(&norm(&guided)?)?)
}
