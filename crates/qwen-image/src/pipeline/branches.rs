//! The guidance branches of a run: which transformer computes each of them, and their velocities at a step.

use std::slice;

use candle_core::{DType, Device, Tensor};

use super::{
    cfg_parallel::Transformers,
    error::{PipelineError, Result},
    guidance::Guidance,
};
use crate::models::transformer::{Branch, Frame, ModulationCache, StepModulations, TokenRotations, Transformer};

/// All branches of a run, with what stays the same in every step.
pub struct Branches<'a> {
    guidance: Guidance,
    /// The positive branch, and the negative one if it has no transformer of its own.
    main: Lane<'a>,
    /// The negative branch, if it has a transformer of its own.
    negative: Option<Lane<'a>>,
}

/// The branches of one transformer.
struct Lane<'a> {
    transformer: &'a Transformer,
    device: &'a Device,
    inputs: Vec<BranchInputs>,
    modulations: ModulationCache<'a>,
    passes: u32,
}

struct BranchInputs {
    text: Tensor,
    rotations: TokenRotations,
}

impl<'a> Branches<'a> {
    /// The branches of `embeds`, `(1, t, joint)` each: the prompt's, then the negative prompt's if there is guidance.
    /// `timesteps` are the scheduler's, divided by 1000.
    pub fn new(
        transformers: &'a Transformers<'_>,
        guidance: Guidance,
        embeds: &[Tensor],
        frames: &[Frame],
        timesteps: &'a [f32],
    ) -> Result<Self> {
        let Transformers { main, device, negative } = transformers;
        let Some((second, second_device)) = negative.as_ref().filter(|_| embeds.len() > 1) else {
            let main = Lane::new(main, device, embeds, frames, timesteps)?;
            return Ok(Self { guidance, main, negative: None });
        };
        let (positive_embeds, negative_embeds) = embeds.split_at(1);
        let main = Lane::new(main, device, positive_embeds, frames, timesteps)?;
        let there = |embeds: &Tensor| copied(embeds, second_device);
        let negative_embeds = negative_embeds.iter().map(there).collect::<candle_core::Result<Vec<_>>>();
        let negative = negative_embeds
            .and_then(|embeds| Lane::new(second, second_device, &embeds, frames, timesteps))
            .map_err(PipelineError::in_negative_branch(second_device))?;
        Ok(Self { guidance, main, negative: Some(negative) })
    }

    /// How often the transformers were evaluated: all of them, and the one of the negative branch.
    pub fn passes(&self) -> (u32, u32) {
        let negative = self.negative.as_ref().map_or(0, |lane| lane.passes);
        (self.main.passes + negative, negative)
    }

    /// The number of branches of a step.
    pub fn count(&self, guided: bool) -> usize {
        if guided { self.main.inputs.len() + usize::from(self.negative.is_some()) } else { 1 }
    }

    /// The velocities of the first `targets` tokens at a step, one for each branch, in float32 on the main device.
    /// `input` are the tokens of all frames, `(1, s, channels)`. Each step is requested once.
    pub fn velocities(&mut self, step: usize, input: &Tensor, guided: bool, targets: usize) -> Result<Vec<Tensor>> {
        let count = if guided { self.main.inputs.len() } else { 1 };
        match &mut self.negative {
            Some(negative) if guided => at_once(&mut self.main, negative, step, input, targets),
            Some(_) | None => Ok(self.main.in_turn(self.guidance, step, input, count, targets)?),
        }
    }
}

/// The velocities of both branches. A GPU computes by itself what is queued for it, so this thread keeps both busy: it
/// queues one block here, one there. (A thread for each would have to live as long as the pipeline, because CUDA's
/// libraries keep their state by thread.)
fn at_once(
    main: &mut Lane<'_>,
    negative: &mut Lane<'_>,
    step: usize,
    input: &Tensor,
    targets: usize,
) -> Result<Vec<Tensor>> {
    let there = PipelineError::in_negative_branch(negative.device);
    let (here_modulations, there_modulations) =
        (main.modulations.take(step)?, negative.modulations.take(step).map_err(&there)?);
    let there_input = copied(input, negative.device).map_err(&there)?;
    let (positive_branch, negative_branch) = (main.branch(0), negative.branch(0));
    let mut second = negative
        .transformer
        .begin(&there_input, slice::from_ref(&negative_branch), &there_modulations, targets)
        .map_err(&there)?;
    let mut first = main.transformer.begin(input, slice::from_ref(&positive_branch), &here_modulations, targets)?;
    while second.next_block().map_err(&there)? | first.next_block()? {}
    let mut velocities = in_float32(first.finish()?)?;
    let from_there = |tensor: &Tensor| copied(tensor, main.device);
    let second = second.finish().and_then(in_float32).map_err(&there)?;
    velocities.extend(second.iter().map(from_there).collect::<candle_core::Result<Vec<_>>>().map_err(&there)?);
    main.passes += 1;
    negative.passes += 1;
    Ok(velocities)
}

impl<'a> Lane<'a> {
    fn new(
        transformer: &'a Transformer,
        device: &'a Device,
        embeds: &[Tensor],
        frames: &[Frame],
        timesteps: &'a [f32],
    ) -> candle_core::Result<Self> {
        let inputs = |embeds: &Tensor| {
            let text = transformer.project_text(embeds)?;
            let rotations = transformer.rotations(frames, embeds.dim(1)?, device)?;
            Ok(BranchInputs { text, rotations })
        };
        let inputs = embeds.iter().map(inputs).collect::<candle_core::Result<_>>()?;
        let modulations = transformer.modulation_cache(timesteps, device)?;
        Ok(Self { transformer, device, inputs, modulations, passes: 0 })
    }

    fn branch(&self, index: usize) -> Branch<'_> {
        let BranchInputs { text, rotations } = &self.inputs[index];
        Branch { text, rotations }
    }

    /// The velocities of the first `count` branches, one after the other.
    fn in_turn(
        &mut self,
        guidance: Guidance,
        step: usize,
        input: &Tensor,
        count: usize,
        targets: usize,
    ) -> candle_core::Result<Vec<Tensor>> {
        let modulations: StepModulations = self.modulations.take(step)?;
        let branches: Vec<_> = (0..count).map(|index| self.branch(index)).collect();
        let mut velocities = Vec::with_capacity(count);
        for together in guidance.passes(&branches) {
            let made = self.transformer.begin(input, together, &modulations, targets)?.run_all()?;
            velocities.extend(in_float32(made)?);
        }
        self.passes += count as u32;
        Ok(velocities)
    }
}

fn in_float32(velocities: Vec<Tensor>) -> candle_core::Result<Vec<Tensor>> {
    velocities.iter().map(|velocity| velocity.to_dtype(DType::F32)).collect()
}

/// A tensor on another device, through the host: the copy waits until it is computed.
fn copied(tensor: &Tensor, device: &Device) -> candle_core::Result<Tensor> {
    if tensor.device().same_device(device) {
        Ok(tensor.clone())
    } else {
        tensor.to_device(&Device::Cpu)?.to_device(device)
    }
}
