//! How a run gets from noise to latents: noise levels, sampler, guidance and step cache, from a call's options.

use super::{
    error::{PipelineError, Result},
    options::{
        CFG_SCALE, CFG_UNTIL, DEFAULT_NUM_INFERENCE_STEPS, DecomposeOptions, EditOptions, NUM_INFERENCE_STEPS,
        STEP_CACHE,
    },
    sampler::Sampler,
};
use crate::models::{Schedule, Scheduler, Spacing};

/// The sampling options that both kinds of calls have.
pub(crate) struct SamplingOptions<'a> {
    pub num_inference_steps: u32,
    pub sampler: Option<Sampler>,
    pub sigmas: Option<&'a [f64]>,
    pub step_cache: u32,
    pub cfg_scale: f64,
    pub cfg_until: f64,
}

/// How a run was sampled.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SamplingRecord {
    /// The solver.
    pub sampler: Sampler,
    /// The noise levels, one more than there are steps.
    pub sigmas: Vec<f32>,
    /// The steps that the step cache skipped, from 1.
    pub skipped_steps: Vec<u32>,
    /// How often the transformer was evaluated, counting each branch of guidance.
    pub passes: u32,
    /// How many of these ran on the device of the negative branch, each at the same time as another one.
    pub parallel_passes: u32,
}

/// What the denoise loop follows.
#[derive(Debug, Clone)]
pub struct SamplingPlan {
    /// The solver.
    pub sampler: Sampler,
    /// The noise levels.
    pub schedule: Schedule,
    /// The most steps in a row that the step cache may skip.
    pub step_cache: u32,
    /// How many steps have guidance, from the start.
    pub guided_steps: usize,
}

impl<'a> From<&'a DecomposeOptions> for SamplingOptions<'a> {
    fn from(options: &'a DecomposeOptions) -> Self {
        Self {
            num_inference_steps: options.num_inference_steps,
            sampler: options.sampler,
            sigmas: options.sigmas.as_deref(),
            step_cache: options.step_cache,
            cfg_scale: options.cfg_scale,
            cfg_until: options.cfg_until,
        }
    }
}

impl<'a> From<&'a EditOptions> for SamplingOptions<'a> {
    fn from(options: &'a EditOptions) -> Self {
        Self {
            num_inference_steps: options.num_inference_steps,
            sampler: options.sampler,
            sigmas: options.sigmas.as_deref(),
            step_cache: options.step_cache,
            cfg_scale: options.cfg_scale,
            cfg_until: options.cfg_until,
        }
    }
}

impl SamplingOptions<'_> {
    pub fn check(&self) -> Result<()> {
        let steps = self.num_inference_steps;
        if !NUM_INFERENCE_STEPS.contains(&steps) {
            return Err(PipelineError::not_between("num_inference_steps", steps, NUM_INFERENCE_STEPS));
        }
        let scale = self.cfg_scale;
        if !CFG_SCALE.contains(&scale) {
            let (least, most) = CFG_SCALE.into_inner();
            let reason =
                format!("{scale} is not a number between {least} and {most}; 4 is usual, 1 turns guidance off");
            return Err(PipelineError::invalid("cfg_scale", reason));
        }
        if !CFG_UNTIL.contains(&self.cfg_until) {
            let (least, most) = CFG_UNTIL.into_inner();
            let reason = format!("{} is not a share of the steps, a number between {least} and {most}", self.cfg_until);
            return Err(PipelineError::invalid("cfg_until", reason));
        }
        if !STEP_CACHE.contains(&self.step_cache) {
            return Err(PipelineError::not_between("step_cache", self.step_cache, STEP_CACHE));
        }
        if let Some(sigmas) = self.sigmas {
            let most = *NUM_INFERENCE_STEPS.end() as usize;
            if sigmas.len() > most + 1 {
                return Err(PipelineError::invalid(
                    "sigmas",
                    format!("has {} steps of at most {most}", sigmas.len() - 1),
                ));
            }
            Schedule::check(sigmas).map_err(|reason| PipelineError::invalid("sigmas", reason))?;
            let made_for = sigmas.len() - 1;
            if steps != DEFAULT_NUM_INFERENCE_STEPS && steps as usize != made_for {
                let reason = format!("is {steps}, but sigmas has levels for {made_for} steps; leave one of them out");
                return Err(PipelineError::invalid("num_inference_steps", reason));
            }
        }
        Ok(())
    }

    /// Whether any step has guidance.
    pub fn is_guided(&self) -> bool {
        self.cfg_scale > 1.0 && self.cfg_until > 0.0
    }

    /// The plan for a checkpoint's scheduler; `shifted` makes its schedule of a number of steps.
    pub fn plan(&self, scheduler: &Scheduler, shifted: impl FnOnce(usize, Spacing) -> Schedule) -> SamplingPlan {
        let sampler = self.sampler.unwrap_or(match scheduler.is_unipc() {
            true => Sampler::UniPc,
            false => Sampler::Euler,
        });
        let schedule = match self.sigmas {
            Some(sigmas) => scheduler.explicit(sigmas),
            None => shifted(self.num_inference_steps as usize, sampler.spacing()),
        };
        let schedule = match sampler {
            Sampler::Euler | Sampler::Abm2 => schedule,
            Sampler::UniPc => schedule.for_unipc(),
        };
        let guided_steps = (self.cfg_until * schedule.steps() as f64).round() as usize;
        SamplingPlan { sampler, schedule, step_cache: self.step_cache, guided_steps }
    }
}
