//! The denoise loop that both pipelines share.

use candle_core::{DType, Tensor};

use super::{
    branches::Branches,
    callbacks::{Callbacks, Stage},
    cfg_parallel::Transformers,
    error::{PipelineError, Result},
    guidance::Guidance,
    held::HeldLatents,
    sampling::{SamplingPlan, SamplingRecord},
    step_cache::StepCache,
};
use crate::models::transformer::Frame;

/// One run of the loop.
pub struct Denoise<'a> {
    /// The transformers, which predict the velocity.
    pub transformers: &'a Transformers<'a>,
    /// The number format of the transformers' inputs.
    pub dtype: DType,
    /// The solver, the noise levels, the step cache, and the steps with guidance.
    pub plan: SamplingPlan,
    /// All frames in order: first the noisy ones, which have one size, then the condition.
    pub frames: &'a [Frame],
    /// Packed latents of the condition, `(1, c, channels)`.
    pub condition: &'a Tensor,
    /// Prompt embeddings, `(1, t, joint)`.
    pub prompt: &'a Tensor,
    /// The same for the negative prompt. Absent: no guidance.
    pub negative: Option<&'a Tensor>,
    /// How the branches are combined.
    pub guidance: Guidance,
    /// The latents that must not change.
    pub held: Option<&'a HeldLatents>,
}

impl Denoise<'_> {
    /// Turns packed noise `(1, n, channels)` into packed latents, in float32 throughout; only the transformer's input
    /// is in its own number format. The callbacks' hook sees the latents after every step, and may change them.
    ///
    /// # Errors
    /// [`PipelineError::NonFinite`] if the latents are no numbers any more; [`PipelineError::Cancelled`];
    /// [`PipelineError::Device`].
    pub fn run(self, noise: Tensor, callbacks: &mut Callbacks<'_>) -> Result<(Tensor, SamplingRecord)> {
        let embeds = std::iter::once(self.prompt)
            .chain(self.negative)
            .map(|embeds| embeds.to_dtype(self.dtype))
            .collect::<candle_core::Result<Vec<_>>>()?;
        let condition = self.condition.to_dtype(self.dtype)?;
        let SamplingPlan { sampler, schedule, step_cache, guided_steps } = &self.plan;
        let steps = schedule.steps();
        let timesteps: Vec<f32> = schedule.timesteps.iter().map(|timestep| timestep / 1000.0).collect();
        let mut branches = Branches::new(self.transformers, self.guidance, &embeds, self.frames, &timesteps)?;
        let mut solver = sampler.start(schedule);
        let mut cache = StepCache::new(*step_cache, self.frames[0].patches(), steps);
        let hold = |latents: Tensor, step: usize| match self.held {
            Some(held) => held.hold(&latents, f64::from(schedule.sigmas[step])),
            None => Ok(latents),
        };
        let mut latents = hold(noise, 0)?;
        for step in 0..steps {
            callbacks.report(Stage::Denoise, step, steps)?;
            let guided = step < *guided_steps;
            let sigma = f64::from(schedule.sigmas[step]);
            let velocities = match cache.skip(step, sigma, &latents, branches.count(guided))? {
                Some(velocities) => velocities,
                None => {
                    let input = Tensor::cat(&[&latents.to_dtype(self.dtype)?, &condition], 1)?;
                    let velocities = branches.velocities(step, &input, guided, latents.dim(1)?)?;
                    cache.computed(sigma, &latents, &velocities)?;
                    velocities
                }
            };
            latents = hold(solver.step(latents, self.guidance.combine(velocities)?, step)?, step + 1)?;
            callbacks.step_ended(step + 1, &mut latents)?;
            // A sum is finite only if every term is; reading it also waits for the device, which paces the steps.
            if !latents.abs()?.sum_all()?.to_scalar::<f32>()?.is_finite() {
                return Err(PipelineError::NonFinite { step: step + 1 });
            }
        }
        callbacks.report(Stage::Denoise, steps, steps)?;
        let (sampler, skipped_steps) = (*sampler, cache.skipped().to_vec());
        let (passes, parallel_passes) = branches.passes();
        let sigmas = self.plan.schedule.sigmas;
        Ok((latents, SamplingRecord { sampler, sigmas, skipped_steps, passes, parallel_passes }))
    }
}
