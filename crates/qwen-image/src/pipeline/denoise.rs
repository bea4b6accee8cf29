//! The denoise loop that both pipelines share.

use candle_core::{DType, Device, Result as CandleResult, Tensor};

use super::{
    callbacks::{Callbacks, Stage},
    error::{PipelineError, Result},
    guidance::Guidance,
    sampler::Sampler,
};
use crate::models::{
    Schedule,
    transformer::{Branch, Frame, Pass, TokenRotations, Transformer},
};

/// Runs a started pass in this step: every block, or fewer if a step cache knows the rest.
pub type RunPass<'a> = dyn FnMut(usize, Pass<'_>) -> CandleResult<Vec<Tensor>> + 'a;

/// Every block of a pass: no cache.
pub fn every_block(_step: usize, pass: Pass<'_>) -> CandleResult<Vec<Tensor>> {
    pass.run_all()
}

/// One run of the loop.
pub struct Denoise<'a> {
    pub transformer: &'a Transformer,
    pub device: &'a Device,
    pub dtype: DType,
    pub schedule: &'a Schedule,
    /// All frames in order: first the noisy ones, then the condition.
    pub frames: &'a [Frame],
    /// Packed latents of the condition, `(1, c, channels)`.
    pub condition: &'a Tensor,
    /// Prompt embeddings, `(1, t, joint)`.
    pub prompt: &'a Tensor,
    /// The same for the negative prompt. Absent: no guidance.
    pub negative: Option<&'a Tensor>,
    pub guidance: Guidance,
    pub sampler: Sampler,
}

/// The state of a guidance branch across steps.
struct BranchInputs {
    text: Tensor,
    rotations: TokenRotations,
}

impl Denoise<'_> {
    /// Takes packed noise `(1, n, channels)` to packed latents, in float32 throughout; the transformer's input is
    /// its own number format. `run_pass` is [`every_block`], or a step cache; the callbacks' hook sees the latents
    /// after every step, and may change them.
    pub fn run(&self, noise: Tensor, run_pass: &mut RunPass<'_>, callbacks: &mut Callbacks<'_>) -> Result<Tensor> {
        let inputs = std::iter::once(self.prompt)
            .chain(self.negative)
            .map(|embeds| self.branch_inputs(embeds))
            .collect::<Result<Vec<_>>>()?;
        let branches: Vec<_> =
            inputs.iter().map(|BranchInputs { text, rotations }| Branch { text, rotations }).collect();
        let condition = self.condition.to_dtype(self.dtype)?;
        let steps = self.schedule.steps();
        let timesteps: Vec<f32> = self.schedule.timesteps[..steps].iter().map(|timestep| timestep / 1000.0).collect();
        let mut modulation_cache = self.transformer.modulation_cache(&timesteps, self.device)?;
        let mut latents = noise;
        for step in 0..steps {
            callbacks.report(Stage::Denoise, step, steps)?;
            let input = Tensor::cat(&[&latents.to_dtype(self.dtype)?, &condition], 1)?;
            let modulations = modulation_cache.take(step)?;
            let targets = latents.dim(1)?;
            let mut velocities = Vec::with_capacity(branches.len());
            for branches in self.guidance.passes(&branches) {
                let pass = self.transformer.begin(&input, branches, &modulations, targets)?;
                for velocity in run_pass(step, pass)? {
                    velocities.push(velocity.to_dtype(DType::F32)?);
                }
            }
            let velocity = self.guidance.combine(velocities)?;
            latents = self.sampler.step(latents, velocity, self.schedule, step)?;
            callbacks.step_ended(step + 1, &mut latents)?;
            // A sum is finite only if every term is; reading it also waits for the device, which paces the steps.
            if !latents.abs()?.sum_all()?.to_scalar::<f32>()?.is_finite() {
                return Err(PipelineError::NonFinite { step: step + 1 });
            }
        }
        callbacks.report(Stage::Denoise, steps, steps)?;
        Ok(latents)
    }

    fn branch_inputs(&self, embeds: &Tensor) -> Result<BranchInputs> {
        let text = self.transformer.project_text(&embeds.to_dtype(self.dtype)?)?;
        let rotations = self.transformer.rotations(self.frames, embeds.dim(1)?, self.device)?;
        Ok(BranchInputs { text, rotations })
    }
}
