//! Moves the latents along the velocity from one noise level to the next.

use candle_core::{Result, Tensor};

use crate::models::Schedule;

/// The solver of the flow's differential equation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sampler {
    /// `x + (sigma' - sigma) v`: diffusers' `FlowMatchEulerDiscreteScheduler`.
    #[default]
    Euler,
}

impl Sampler {
    /// The latents after a step, counted from 0. Both tensors are `(1, tokens, channels)`, float32.
    pub fn step(self, latents: Tensor, velocity: Tensor, schedule: &Schedule, step: usize) -> Result<Tensor> {
        match self {
            Self::Euler => {
                let dt = f64::from(schedule.sigmas[step + 1] - schedule.sigmas[step]);
                latents + (velocity * dt)?
            }
        }
    }
}
