//! Moves the latents along the velocity from one noise level to the next.

use std::str::FromStr;

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::models::{Schedule, Spacing};

/// The solver of the flow's differential equation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampler {
    /// First order: diffusers' `FlowMatchEulerDiscreteScheduler`.
    #[default]
    Euler,
    /// The two-step Adams-Bashforth predictor and Adams-Moulton corrector on the velocity, of third order with one pass
    /// a step. It has its own spacing of the noise levels ([`Spacing::DenseEnds`]) and needs fewer steps than the
    /// others; diffusers does not have it.
    Abm2,
    /// A predictor and corrector of second order on the denoised latents, with one pass a step: diffusers'
    /// `UniPCMultistepScheduler` with `use_flow_sigmas`, `prediction_type="flow_prediction"`, `solver_order=2` and
    /// `solver_type="bh2"` (<https://arxiv.org/abs/2302.04867>).
    UniPc,
}

impl Sampler {
    /// All samplers.
    pub const ALL: [Self; 3] = [Self::Euler, Self::Abm2, Self::UniPc];

    /// The name in options, messages and manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Euler => "euler",
            Self::Abm2 => "abm2",
            Self::UniPc => "unipc",
        }
    }

    /// Where this sampler's noise levels lie, if a call does not name them.
    pub fn spacing(self) -> Spacing {
        match self {
            Self::Euler | Self::UniPc => Spacing::Checkpoint,
            Self::Abm2 => Spacing::DenseEnds,
        }
    }

    /// A solver at the start of a run.
    pub fn start(self, schedule: &Schedule) -> Solver<'_> {
        Solver { sampler: self, schedule, last: None, before_last: None }
    }
}

impl FromStr for Sampler {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|sampler| sampler.as_str() == name)
            .ok_or_else(|| format!("`{name}` is not a sampler: `euler`, `abm2` or `unipc`"))
    }
}

/// A sampler during a run.
pub struct Solver<'a> {
    sampler: Sampler,
    schedule: &'a Schedule,
    /// The previous step, and the value of the one before it.
    last: Option<PastStep>,
    before_last: Option<Tensor>,
}

/// What is kept of a step.
struct PastStep {
    /// The corrected latents at the start of the step.
    latents: Tensor,
    /// The velocity there, or for UniPC the denoised latents.
    value: Tensor,
    /// The order of the prediction that followed.
    order: usize,
}

impl Solver<'_> {
    /// The latents after `step`, counted from 0, from those before it and their velocity. All tensors are
    /// `(1, tokens, channels)`, float32.
    pub fn step(&mut self, latents: Tensor, velocity: Tensor, step: usize) -> Result<Tensor> {
        match self.sampler {
            Sampler::Euler => latents + (velocity * self.dt(step))?,
            Sampler::Abm2 => self.abm2(latents, velocity, step),
            Sampler::UniPc => self.unipc(latents, velocity, step),
        }
    }

    /// Corrects the latents along the parabola through the last three velocities (Adams-Moulton), then predicts the
    /// next ones along the line through the last two (Adams-Bashforth). The steps may have different lengths. With the
    /// parabola, 20 steps come 1 to 2 dB nearer to the converged solution than with a line; a parabola for the
    /// prediction, too, is worse.
    fn abm2(&mut self, latents: Tensor, velocity: Tensor, step: usize) -> Result<Tensor> {
        let dt = self.dt(step);
        let (corrected, ahead) = match self.last.take() {
            Some(last) => {
                let before = self.dt(step - 1);
                let slope = ((&velocity - &last.value)? / before)?;
                let mut corrected = (last.latents + ((&last.value + &velocity)? * (before / 2.0))?)?;
                if let Some(oldest) = self.before_last.take() {
                    let longer = self.dt(step - 2);
                    let curve = (&slope - ((&last.value - oldest)? / longer)?)? / (before + longer);
                    corrected = (corrected - (curve? * (before.powi(3) / 6.0))?)?;
                }
                self.before_last = Some(last.value);
                (corrected, (&velocity + (slope * (dt / 2.0))?)?)
            }
            None => (latents, velocity.clone()),
        };
        let next = (&corrected + (ahead * dt)?)?;
        self.last = Some(PastStep { latents: corrected, value: velocity, order: 2 });
        Ok(next)
    }

    /// The change of the noise level in a step.
    fn dt(&self, step: usize) -> f64 {
        f64::from(self.schedule.sigmas[step + 1] - self.schedule.sigmas[step])
    }

    /// Corrects the latents with what the model says about them, then predicts the next ones. The formulas are those
    /// of the paper's algorithms 5 and 6 (data prediction) with `B(h) = e^h - 1`.
    fn unipc(&mut self, latents: Tensor, velocity: Tensor, step: usize) -> Result<Tensor> {
        let denoised = (&latents - (velocity * self.sigma(step))?)?;
        let corrected = match &self.last {
            Some(last) => self.correct(last, &denoised, step)?,
            None => latents,
        };
        let order = match self.last {
            Some(_) if step + 1 < self.schedule.steps() => 2,
            _ => 1,
        };
        let mut next = self.first_order(&corrected, &denoised, step)?;
        if let (2, Some(last)) = (order, &self.last) {
            let ratio = self.step_ratio(step);
            let slope = ((&last.value - &denoised)? / ratio)?;
            next = (next + (slope * (0.5 * self.weight(step)))?)?;
        }
        self.before_last =
            self.last.replace(PastStep { latents: corrected, value: denoised, order }).map(|last| last.value);
        Ok(next)
    }

    /// The latents at the start of `step` again, now that the denoised ones there are known.
    fn correct(&self, last: &PastStep, denoised: &Tensor, step: usize) -> Result<Tensor> {
        let from = step - 1;
        let first = self.first_order(&last.latents, &last.value, from)?;
        let change = (denoised - &last.value)?;
        let correction = match (&self.before_last, last.order) {
            (Some(before), 2) => {
                let ratio = self.step_ratio(from);
                let slope = ((before - &last.value)? / ratio)?;
                let [previous, this] = self.corrector_weights(from, ratio);
                ((slope * previous)? + (change * this)?)?
            }
            _ => (change * 0.5)?,
        };
        first + (correction * self.weight(from))?
    }

    /// The exact solution over `step` if the denoised latents did not change.
    fn first_order(&self, latents: &Tensor, denoised: &Tensor, step: usize) -> Result<Tensor> {
        (latents * (self.sigma(step + 1) / self.sigma(step)))? + (denoised * self.weight(step))?
    }

    fn sigma(&self, step: usize) -> f64 {
        f64::from(self.schedule.sigmas[step])
    }

    /// Half the logarithm of the signal-to-noise ratio at the start of a step; infinite at noise level 0.
    fn lambda(&self, step: usize) -> f64 {
        (1.0 - self.sigma(step)).ln() - self.sigma(step).ln()
    }

    /// The length of a step in `lambda`, negated.
    fn minus_h(&self, step: usize) -> f64 {
        self.lambda(step) - self.lambda(step + 1)
    }

    /// `alpha (1 - e^-h)`: the weight of the denoised latents in a step.
    fn weight(&self, step: usize) -> f64 {
        -(1.0 - self.sigma(step + 1)) * self.minus_h(step).exp_m1()
    }

    /// The previous step's length over this one's, negated.
    fn step_ratio(&self, step: usize) -> f64 {
        (self.lambda(step - 1) - self.lambda(step)) / (self.lambda(step + 1) - self.lambda(step))
    }

    /// The weights of both differences in the corrector of second order: the solution of its two equations.
    fn corrector_weights(&self, step: usize, ratio: f64) -> [f64; 2] {
        let h = self.minus_h(step);
        let b = h.exp_m1();
        let phi_2 = b / h - 1.0;
        let phi_3 = phi_2 / h - 0.5;
        let (first, second) = (phi_2 / b, 2.0 * phi_3 / b);
        let previous = (second - first) / (ratio - 1.0);
        [previous, first - previous]
    }
}
