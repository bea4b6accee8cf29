//! The noise levels of a run, as diffusers' flow schedulers make them.

use std::path::Path;

use serde::Deserialize;

use super::{LoadResult, ModelError, read_json};

/// `scheduler/scheduler_config.json`; defaults as in diffusers.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Scheduler {
    #[serde(rename = "_class_name")]
    class: String,
    num_train_timesteps: f32,
    #[serde(alias = "flow_shift")]
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
    #[serde(flatten)]
    unipc: UniPc,
}

/// The keys of `UniPCMultistepScheduler` only.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
struct UniPc {
    use_flow_sigmas: bool,
    prediction_type: String,
    solver_order: u32,
    solver_type: String,
    predict_x0: bool,
    lower_order_final: bool,
    final_sigmas_type: String,
    disable_corrector: Vec<u32>,
    thresholding: bool,
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
            class: EULER.to_owned(),
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
            unipc: UniPc::default(),
        }
    }
}

impl Default for UniPc {
    fn default() -> Self {
        Self {
            use_flow_sigmas: false,
            prediction_type: "epsilon".to_owned(),
            solver_order: 2,
            solver_type: "bh2".to_owned(),
            predict_x0: true,
            lower_order_final: true,
            final_sigmas_type: "zero".to_owned(),
            disable_corrector: Vec::new(),
            thresholding: false,
        }
    }
}

const EULER: &str = "FlowMatchEulerDiscreteScheduler";
const UNIPC: &str = "UniPCMultistepScheduler";
/// diffusers' distance of UniPC's first noise level from 1.
const UNIPC_EPS: f64 = 1e-6;

/// Where the noise levels of a run lie between 1 and 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spacing {
    /// As the checkpoint's scheduler has them.
    Checkpoint,
    /// Closer to each other near 1 and near 0, where the velocity turns most: even levels to the power of
    /// [`END_POWER`], with a shift that is [`START_SHIFT`] times the checkpoint's, and not stretched to a terminal
    /// level.
    DenseEnds,
}

/// Draws the levels of [`Spacing::DenseEnds`] towards 0. Measured, as [`START_SHIFT`], on both small checkpoints:
/// `docs/performance.md`.
pub const END_POWER: f64 = 1.8;
/// Draws the levels of [`Spacing::DenseEnds`] towards 1.
pub const START_SHIFT: f64 = 2.5;

/// The noise levels of a run: one more than there are steps, from nearly 1 to exactly 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// The noise levels, falling to 0.
    pub sigmas: Vec<f32>,
    /// The levels times the number of training steps, one per step.
    pub timesteps: Vec<f32>,
    /// The levels before they were rounded, without the last one.
    levels: Vec<f64>,
    num_train_timesteps: f32,
}

impl Scheduler {
    /// Reads `scheduler_config.json` in a checkpoint's `scheduler/`.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if it cannot be read, or asks for something that is not supported.
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
            None => match config.check_class().and_then(|()| config.check_ranges()) {
                Ok(()) => Ok(config),
                Err(reason) => Err(ModelError::invalid(path, reason)),
            },
        }
    }

    /// Whether the checkpoint names diffusers' `UniPCMultistepScheduler`.
    pub fn is_unipc(&self) -> bool {
        self.class == UNIPC
    }

    fn check_class(&self) -> Result<(), String> {
        match self.class.as_str() {
            EULER => Ok(()),
            UNIPC => self.unipc.check(),
            other => Err(format!("`_class_name` is {other}; {EULER} or {UNIPC} is needed")),
        }
    }

    /// Refuses numbers with which the noise levels would not fall from 1 to 0.
    fn check_ranges(&self) -> Result<(), String> {
        let refuse = |key: &str, value: f64, needed: &str| Err(format!("`{key}` is {value}, but must be {needed}"));
        let positive = |value: f64| value.is_finite() && value > 0.0;
        // Dynamic shifting has no use for the other shift.
        let shift = Some(self.shift).filter(|_| !self.use_dynamic_shifting).unwrap_or(1.0);
        for (key, value) in [("num_train_timesteps", f64::from(self.num_train_timesteps)), ("shift", shift)] {
            if !positive(value) {
                return refuse(key, value, "a number above 0");
            }
        }
        if let Some(terminal) = self.shift_terminal.filter(|terminal| !(0.0..1.0).contains(terminal)) {
            return refuse("shift_terminal", terminal, "at least 0 and less than 1");
        }
        for (key, value) in [
            ("base_shift", self.base_shift),
            ("max_shift", self.max_shift),
            ("base_image_seq_len", self.base_image_seq_len),
            ("max_image_seq_len", self.max_image_seq_len),
        ] {
            if !value.is_finite() {
                return refuse(key, value, "a finite number");
            }
            // The exponential form takes any number; this one divides by it.
            if self.use_dynamic_shifting && matches!(self.time_shift_type, TimeShift::Linear) && value <= 0.0 {
                return refuse(key, value, "above 0 with the linear `time_shift_type`");
            }
        }
        if self.use_dynamic_shifting && self.max_image_seq_len <= self.base_image_seq_len {
            return refuse("max_image_seq_len", self.max_image_seq_len, "above `base_image_seq_len`");
        }
        Ok(())
    }

    /// The levels of the layered pipeline: from 1 in steps of `1 / steps`, shifted by the square root of the
    /// condition's tokens over 256.
    pub fn layered(&self, steps: usize, condition_tokens: usize, spacing: Spacing) -> Schedule {
        let sigmas = (0..steps).map(|i| 1.0 - i as f64 / steps as f64);
        self.schedule(sigmas.collect(), (condition_tokens as f64 / 256.0).sqrt(), spacing)
    }

    /// The levels of the edit pipeline: from 1 to `1 / steps`, shifted linearly in the picture's tokens.
    pub fn edit(&self, steps: usize, tokens: usize, spacing: Spacing) -> Schedule {
        let last = 1.0 / steps as f64;
        let sigmas = (0..steps).map(|i| 1.0 + (last - 1.0) * i as f64 / (steps.max(2) - 1) as f64);
        let slope = (self.max_shift - self.base_shift) / (self.max_image_seq_len - self.base_image_seq_len);
        let mu = self.base_shift + slope * (tokens as f64 - self.base_image_seq_len);
        self.schedule(sigmas.collect(), mu, spacing)
    }

    /// The given levels as they are, without a shift. They must have passed [`Schedule::check`].
    pub fn explicit(&self, sigmas: &[f64]) -> Schedule {
        Schedule::new(sigmas[..sigmas.len() - 1].to_vec(), self.num_train_timesteps)
    }

    fn schedule(&self, mut sigmas: Vec<f64>, mu: f64, spacing: Spacing) -> Schedule {
        if spacing == Spacing::DenseEnds {
            sigmas.iter_mut().for_each(|sigma| *sigma = sigma.powf(END_POWER));
        }
        for sigma in &mut sigmas {
            *sigma = match (self.use_dynamic_shifting, self.time_shift_type) {
                (true, TimeShift::Exponential) => mu.exp() / (mu.exp() + (1.0 / *sigma - 1.0)),
                (true, TimeShift::Linear) => mu / (mu + (1.0 / *sigma - 1.0)),
                (false, _) => self.shift * *sigma / (1.0 + (self.shift - 1.0) * *sigma),
            };
        }
        if spacing == Spacing::DenseEnds {
            sigmas.iter_mut().for_each(|sigma| *sigma = START_SHIFT * *sigma / (1.0 + (START_SHIFT - 1.0) * *sigma));
            return Schedule::new(sigmas, self.num_train_timesteps);
        }
        // One step has nothing to stretch: the reference divides 0 by 0 there.
        if let (Some(terminal), Some(&last)) = (self.shift_terminal.filter(|&t| t != 0.0), sigmas.last())
            && last < 1.0
        {
            let scale = (1.0 - last) / (1.0 - terminal);
            sigmas.iter_mut().for_each(|sigma| *sigma = 1.0 - (1.0 - *sigma) / scale);
        }
        Schedule::new(sigmas, self.num_train_timesteps)
    }
}

impl UniPc {
    /// Only the form for flow models is supported.
    fn check(&self) -> Result<(), String> {
        let needs = |key: &str, value: &str| Err(format!("`{key}` must be {value} in a {UNIPC} for flow models"));
        match self {
            Self { use_flow_sigmas: false, .. } => needs("use_flow_sigmas", "true"),
            Self { prediction_type, .. } if prediction_type != "flow_prediction" => {
                needs("prediction_type", "\"flow_prediction\"")
            }
            Self { solver_order, .. } if *solver_order != 2 => needs("solver_order", "2"),
            Self { solver_type, .. } if solver_type != "bh2" => needs("solver_type", "\"bh2\""),
            Self { predict_x0: false, .. } => needs("predict_x0", "true"),
            Self { lower_order_final: false, .. } => needs("lower_order_final", "true"),
            Self { final_sigmas_type, .. } if final_sigmas_type != "zero" => needs("final_sigmas_type", "\"zero\""),
            Self { disable_corrector, .. } if !disable_corrector.is_empty() => needs("disable_corrector", "[]"),
            Self { thresholding: true, .. } => needs("thresholding", "false"),
            Self { .. } => Ok(()),
        }
    }
}

impl Schedule {
    /// Checks explicit noise levels.
    ///
    /// # Errors
    /// A text for the user if they do not fall from at most 1 to exactly 0.
    pub fn check(sigmas: &[f64]) -> Result<(), String> {
        let [first, .., last] = sigmas else {
            return Err(format!("{sigmas:?} has no step: at least two noise levels are needed, the last one 0"));
        };
        if !(*first > 0.0 && *first <= 1.0) {
            return Err(format!("begins with {first}; the first noise level must be above 0 and at most 1"));
        }
        // NaN does not fall, either.
        let falls = |pair: &[f64]| (pair[1] as f32) < pair[0] as f32;
        if let Some(pair) = sigmas.windows(2).find(|pair| !falls(pair)) {
            return Err(format!("has {} after {}; noise levels must fall", pair[1], pair[0]));
        }
        if *last != 0.0 {
            return Err(format!("ends with {last}; the last noise level must be 0"));
        }
        Ok(())
    }

    /// The schedule as `UniPCMultistepScheduler` has it: whole timesteps, and a first level of 1 is a little lower,
    /// because the logarithm of the signal-to-noise ratio has no value there.
    #[must_use]
    pub fn for_unipc(mut self) -> Self {
        if let Some(first) = self.levels.first_mut().filter(|level| (**level - 1.0).abs() < UNIPC_EPS) {
            *first -= UNIPC_EPS;
        }
        let scale = self.num_train_timesteps;
        let timesteps = self.levels.iter().map(|level| (level * f64::from(scale)).trunc() as f32).collect();
        Self { timesteps, ..Self::new(self.levels, scale) }
    }

    /// From the levels without the last one, which is 0.
    fn new(levels: Vec<f64>, num_train_timesteps: f32) -> Self {
        let mut sigmas: Vec<f32> = levels.iter().map(|&level| level as f32).collect();
        let timesteps = sigmas.iter().map(|sigma| sigma * num_train_timesteps).collect();
        sigmas.push(0.0);
        Self { sigmas, timesteps, levels, num_train_timesteps }
    }

    /// The number of steps.
    pub fn steps(&self) -> usize {
        self.timesteps.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Scheduler, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("scheduler_config.json"), text).unwrap();
        let path = format!("{}: ", folder.path().join("scheduler_config.json").display());
        Scheduler::load(folder.path()).map_err(|error| error.to_string().replace(&path, ""))
    }

    #[test]
    fn numbers_that_make_noise_levels_rise_are_refused_by_their_key() {
        for sound in [
            "{}",
            r#"{"shift": 3.0, "shift_terminal": null}"#,
            r#"{"use_dynamic_shifting": true, "base_shift": 0.5, "max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02}"#,
        ] {
            assert!(load(sound).is_ok(), "{sound}: {:?}", load(sound));
        }
        for (text, wanted) in [
            (r#"{"shift_terminal": 2}"#, "`shift_terminal` is 2, but must be at least 0 and less than 1"),
            (r#"{"shift_terminal": 1}"#, "`shift_terminal` is 1, but"),
            (r#"{"shift_terminal": -1}"#, "`shift_terminal` is -1, but"),
            (r#"{"shift": 0}"#, "`shift` is 0, but must be a number above 0"),
            (r#"{"shift": -3}"#, "`shift` is -3, but"),
            (r#"{"num_train_timesteps": 0}"#, "`num_train_timesteps` is 0, but"),
            (
                r#"{"use_dynamic_shifting": true, "base_image_seq_len": 8192, "max_image_seq_len": 8192}"#,
                "`max_image_seq_len` is 8192, but must be above `base_image_seq_len`",
            ),
            (
                r#"{"use_dynamic_shifting": true, "time_shift_type": "linear", "base_shift": -0.5}"#,
                "`base_shift` is -0.5, but must be above 0 with the linear",
            ),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.starts_with(wanted), "{text}: {error}");
        }
    }
}
