//! The denoise loop that both pipelines share.

use candle_core::{DType, Device, Tensor};

use super::{
    callbacks::{Callbacks, Stage},
    error::{PipelineError, Result},
    guidance::Guidance,
    held::HeldLatents,
    sampling::{SamplingPlan, SamplingRecord},
    step_cache::StepCache,
};
use crate::models::transformer::{Branch, Frame, StepModulations, TokenRotations, Transformer};

/// One run of the loop.
pub struct Denoise<'a> {
    /// Predicts the velocity.
    pub transformer: &'a Transformer,
    /// Where it computes.
    pub device: &'a Device,
    /// The number format of the transformer's inputs.
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

/// The state of a guidance branch across steps.
struct BranchInputs {
    text: Tensor,
    rotations: TokenRotations,
}

impl Denoise<'_> {
    /// Turns packed noise `(1, n, channels)` into packed latents, in float32 throughout; only the transformer's input
    /// is in its own number format. The callbacks' hook sees the latents after every step, and may change them.
    ///
    /// # Errors
    /// [`PipelineError::NonFinite`] if the latents are no numbers any more; [`PipelineError::Cancelled`];
    /// [`PipelineError::Device`].
    pub fn run(self, noise: Tensor, callbacks: &mut Callbacks<'_>) -> Result<(Tensor, SamplingRecord)> {
        let inputs = std::iter::once(self.prompt)
            .chain(self.negative)
            .map(|embeds| self.branch_inputs(embeds))
            .collect::<Result<Vec<_>>>()?;
        let branches: Vec<_> =
            inputs.iter().map(|BranchInputs { text, rotations }| Branch { text, rotations }).collect();
        let condition = self.condition.to_dtype(self.dtype)?;
        let SamplingPlan { sampler, schedule, step_cache, guided_steps } = &self.plan;
        let steps = schedule.steps();
        let timesteps: Vec<f32> = schedule.timesteps.iter().map(|timestep| timestep / 1000.0).collect();
        let mut modulation_cache = self.transformer.modulation_cache(&timesteps, self.device)?;
        let mut solver = sampler.start(schedule);
        let mut cache = StepCache::new(*step_cache, self.frames[0].patches(), steps);
        let mut passes = 0;
        let hold = |latents: Tensor, step: usize| match self.held {
            Some(held) => held.hold(&latents, f64::from(schedule.sigmas[step])),
            None => Ok(latents),
        };
        let mut latents = hold(noise, 0)?;
        for step in 0..steps {
            callbacks.report(Stage::Denoise, step, steps)?;
            let branches = if step < *guided_steps { &branches[..] } else { &branches[..1] };
            let sigma = f64::from(schedule.sigmas[step]);
            let velocities = match cache.skip(step, sigma, &latents, branches.len())? {
                Some(velocities) => velocities,
                None => {
                    let input = Tensor::cat(&[&latents.to_dtype(self.dtype)?, &condition], 1)?;
                    let velocities =
                        self.velocities(&input, branches, &modulation_cache.take(step)?, latents.dim(1)?)?;
                    cache.computed(sigma, &latents, &velocities)?;
                    passes += branches.len() as u32;
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
        Ok((latents, SamplingRecord { sampler, sigmas: self.plan.schedule.sigmas, skipped_steps, passes }))
    }

    /// The velocities of the first `targets` tokens, one for each branch, in float32.
    fn velocities(
        &self,
        input: &Tensor,
        branches: &[Branch<'_>],
        modulations: &StepModulations,
        targets: usize,
    ) -> Result<Vec<Tensor>> {
        let mut velocities = Vec::with_capacity(branches.len());
        for branches in self.guidance.passes(branches) {
            for velocity in self.transformer.begin(input, branches, modulations, targets)?.run_all()? {
                velocities.push(velocity.to_dtype(DType::F32)?);
            }
        }
        Ok(velocities)
    }

    fn branch_inputs(&self, embeds: &Tensor) -> Result<BranchInputs> {
        let text = self.transformer.project_text(&embeds.to_dtype(self.dtype)?)?;
        let rotations = self.transformer.rotations(self.frames, embeds.dim(1)?, self.device)?;
        Ok(BranchInputs { text, rotations })
    }
}
