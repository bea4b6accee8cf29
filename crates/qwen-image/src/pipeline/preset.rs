//! Named points on the curve of quality over passes. `docs/performance.md` has the measurements.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{options::DecomposeOptions, sampler::Sampler};

/// A choice of sampler, steps, step cache and guidance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// As diffusers: Euler, 50 steps, 100 passes.
    Exact,
    /// Third order, 20 steps, 40 passes: nearer to the converged solution than `Exact`.
    Balanced,
    /// Third order, 12 steps, 24 passes.
    Fast,
    /// A LoRA for few steps without guidance: 4 or 8 passes.
    Lightning,
}

/// What a preset stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PresetValues {
    /// The solver.
    pub sampler: Sampler,
    /// Denoise steps.
    pub num_inference_steps: u32,
    /// The most steps in a row that the step cache may skip.
    pub step_cache: u32,
    /// The share of the steps that have guidance, 0 to 1.
    pub cfg_until: f64,
    /// None: the preset leaves it as it is.
    pub cfg_scale: Option<f64>,
}

/// The steps of [`Preset::Lightning`] if neither the user nor a LoRA's name says.
pub const LIGHTNING_STEPS: u32 = 4;

impl Preset {
    /// All presets, from the most to the fewest passes.
    pub const ALL: [Self; 4] = [Self::Exact, Self::Balanced, Self::Fast, Self::Lightning];

    /// The name in options, messages and manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Balanced => "balanced",
            Self::Fast => "fast",
            Self::Lightning => "lightning",
        }
    }

    /// The options that the preset sets.
    pub fn values(self) -> PresetValues {
        let DecomposeOptions { num_inference_steps, step_cache, cfg_until, .. } = DecomposeOptions::default();
        let exact =
            PresetValues { sampler: Sampler::Euler, num_inference_steps, step_cache, cfg_until, cfg_scale: None };
        match self {
            Self::Exact => exact,
            Self::Balanced => PresetValues { sampler: Sampler::Abm2, num_inference_steps: 20, ..exact },
            Self::Fast => PresetValues { sampler: Sampler::Abm2, num_inference_steps: 12, ..exact },
            Self::Lightning => {
                PresetValues { num_inference_steps: LIGHTNING_STEPS, cfg_scale: Some(1.0), step_cache: 0, ..exact }
            }
        }
    }

    /// The noise levels of this preset, one more than there are steps; none if they are the checkpoint's own.
    pub fn sigmas(self, steps: u32) -> Option<Vec<f64>> {
        (self == Self::Lightning).then(|| lightning_sigmas(steps))
    }
}

/// The noise levels for which the Lightning LoRAs were made: evenly spaced from 1, shifted by
/// `base_shift = max_shift = ln 3` whatever the size, and not stretched to a terminal level
/// (`generate_with_diffusers.py` of Qwen-Image-Lightning).
fn lightning_sigmas(steps: u32) -> Vec<f64> {
    let even = (0..steps).map(|step| 1.0 - f64::from(step) / f64::from(steps));
    even.map(|sigma| 3.0 * sigma / (1.0 + 2.0 * sigma)).chain([0.0]).collect()
}

impl FromStr for Preset {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|preset| preset.as_str() == name)
            .ok_or_else(|| format!("`{name}` is not a preset: `exact`, `balanced`, `fast` or `lightning`"))
    }
}
