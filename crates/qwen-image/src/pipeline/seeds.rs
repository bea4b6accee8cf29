//! Runs with several seeds.

use std::ops::ControlFlow;

use super::error::{PipelineError, Result};

pub fn check_seeds(seeds: &[u64]) -> Result<()> {
    if seeds.is_empty() {
        return Err(PipelineError::invalid("seeds", "there are none; give at least one".to_owned()));
    }
    Ok(())
}

/// The output of a run with one seed.
pub fn only_one<T>(run: impl FnOnce(&mut dyn FnMut(T) -> ControlFlow<()>) -> Result<()>) -> Result<T> {
    let mut output = None;
    run(&mut |made| {
        output = Some(made);
        ControlFlow::Continue(())
    })?;
    output.ok_or(PipelineError::Cancelled)
}
