//! `FlowMatchEulerDiscreteScheduler`: the noise levels of a run, and the step between two of them.

use std::path::Path;

use serde::Deserialize;

use super::{LoadResult, ModelError, read_json};

/// `scheduler/scheduler_config.json`; defaults as in diffusers.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Scheduler {
    num_train_timesteps: f32,
    shift: f64,
    use_dynamic_shifting: bool,
    base_shift: f64,
    max_shift: f64,
    base_image_seq_len: f64,
    max_image_seq_len: f64,
    shift_terminal: Option<f64>,
    time_shift_type: TimeShift,
    invert_sigmas: bool,
    use_karras_sigmas: bool,
    use_exponential_sigmas: bool,
    use_beta_sigmas: bool,
    stochastic_sampling: bool,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TimeShift {
    Exponential,
    Linear,
}

impl Default for Scheduler {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000.0,
            shift: 1.0,
            use_dynamic_shifting: false,
            base_shift: 0.5,
            max_shift: 1.15,
            base_image_seq_len: 256.0,
            max_image_seq_len: 4096.0,
            shift_terminal: None,
            time_shift_type: TimeShift::Exponential,
            invert_sigmas: false,
            use_karras_sigmas: false,
            use_exponential_sigmas: false,
            use_beta_sigmas: false,
            stochastic_sampling: false,
        }
    }
}

/// The noise levels of a run: one more than there are steps, from nearly 1 to exactly 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    pub sigmas: Vec<f32>,
    /// The levels times the number of training steps, one per step.
    pub timesteps: Vec<f32>,
}

impl Scheduler {
    pub fn load(folder: &Path) -> LoadResult<Self> {
        let path = folder.join("scheduler_config.json");
        let config: Self = read_json(&path)?;
        let unsupported = [
            ("invert_sigmas", config.invert_sigmas),
            ("use_karras_sigmas", config.use_karras_sigmas),
            ("use_exponential_sigmas", config.use_exponential_sigmas),
            ("use_beta_sigmas", config.use_beta_sigmas),
            ("stochastic_sampling", config.stochastic_sampling),
        ];
        match unsupported.iter().find(|(_, set)| *set) {
            Some((name, _)) => Err(ModelError::invalid(path, format!("`{name}` is true, which is not supported"))),
            None => Ok(config),
        }
    }

    /// The levels of the layered pipeline: from 1 in steps of `1 / steps`, shifted by the square root of the
    /// condition's tokens over 256.
    pub fn layered(&self, steps: usize, condition_tokens: usize) -> Schedule {
        let sigmas = (0..steps).map(|i| 1.0 - i as f64 / steps as f64);
        self.schedule(sigmas.collect(), (condition_tokens as f64 / 256.0).sqrt())
    }

    /// The levels of the edit pipeline: from 1 to `1 / steps`, shifted linearly in the picture's tokens.
    pub fn edit(&self, steps: usize, tokens: usize) -> Schedule {
        let last = 1.0 / steps as f64;
        let sigmas = (0..steps).map(|i| 1.0 + (last - 1.0) * i as f64 / (steps.max(2) - 1) as f64);
        let slope = (self.max_shift - self.base_shift) / (self.max_image_seq_len - self.base_image_seq_len);
        self.schedule(sigmas.collect(), self.base_shift + slope * (tokens as f64 - self.base_image_seq_len))
    }

    fn schedule(&self, mut sigmas: Vec<f64>, mu: f64) -> Schedule {
        for sigma in &mut sigmas {
            *sigma = match (self.use_dynamic_shifting, self.time_shift_type) {
                (true, TimeShift::Exponential) => mu.exp() / (mu.exp() + (1.0 / *sigma - 1.0)),
                (true, TimeShift::Linear) => mu / (mu + (1.0 / *sigma - 1.0)),
                (false, _) => self.shift * *sigma / (1.0 + (self.shift - 1.0) * *sigma),
            };
        }
        // One step has nothing to stretch: the reference divides 0 by 0 there.
        if let (Some(terminal), Some(&last)) = (self.shift_terminal.filter(|&t| t != 0.0), sigmas.last())
            && last < 1.0
        {
            let scale = (1.0 - last) / (1.0 - terminal);
            sigmas.iter_mut().for_each(|sigma| *sigma = 1.0 - (1.0 - *sigma) / scale);
        }
        let mut sigmas: Vec<f32> = sigmas.into_iter().map(|sigma| sigma as f32).collect();
        let timesteps = sigmas.iter().map(|sigma| sigma * self.num_train_timesteps).collect();
        sigmas.push(0.0);
        Schedule { sigmas, timesteps }
    }
}

impl Schedule {
    pub fn steps(&self) -> usize {
        self.timesteps.len()
    }
}
