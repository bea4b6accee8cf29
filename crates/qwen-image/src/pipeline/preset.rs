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
    /// Second order, 20 steps, 40 passes: about as near to the converged solution as `Exact`.
    Balanced,
    /// Second order, 12 steps, 24 passes.
    Fast,
}

/// What a preset stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PresetValues {
    pub sampler: Sampler,
    pub num_inference_steps: u32,
    pub step_cache: u32,
    pub cfg_until: f64,
}

impl Preset {
    pub const ALL: [Self; 3] = [Self::Exact, Self::Balanced, Self::Fast];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Balanced => "balanced",
            Self::Fast => "fast",
        }
    }

    pub fn values(self) -> PresetValues {
        let DecomposeOptions { num_inference_steps, step_cache, cfg_until, .. } = DecomposeOptions::default();
        let exact = PresetValues { sampler: Sampler::Euler, num_inference_steps, step_cache, cfg_until };
        match self {
            Self::Exact => exact,
            Self::Balanced => PresetValues { sampler: Sampler::Abm2, num_inference_steps: 20, ..exact },
            Self::Fast => PresetValues { sampler: Sampler::Abm2, num_inference_steps: 12, ..exact },
        }
    }
}

impl FromStr for Preset {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|preset| preset.as_str() == name)
            .ok_or_else(|| format!("`{name}` is not a preset: `exact`, `balanced` or `fast`"))
    }
}
