//! Skips steps in which the velocity can be told from the steps before.

use candle_core::{D, Result, Tensor};

/// The steps at the start of a run that are never skipped.
const FIRST_STEPS: usize = 4;
/// The steps at its end that are never skipped.
const LAST_STEPS: usize = 2;
/// The relative change of the velocity, summed over skipped steps, from which on a step is computed again.
const MOST_CHANGE: f64 = 0.2;

/// A step cache: instead of a pass, a skipped step extrapolates the velocity in time.
///
/// The decision follows EasyCache (<https://arxiv.org/abs/2507.02860>): in computed steps, the change of the velocity
/// over the change of the latents is nearly constant, so the latents' change in a step tells the velocity's. It is
/// measured for each frame of the positive branch, and the largest decides for all, so that a calm background does
/// not hide a moving object. EasyCache then uses the last velocity again; here the line through the last two computed
/// velocities of each branch is continued, which is nearer to the truth by far.
pub struct StepCache {
    most: usize,
    /// The number of tokens of each frame.
    frame: usize,
    steps: usize,
    skipped: Vec<u32>,
    in_a_row: usize,
    change: f64,
    latents: Option<Tensor>,
    /// The last two computed steps, the latest last.
    computed: Vec<Computed>,
    /// For each frame, the velocity's change over the latents' between them, over the velocity's norm.
    sensitivity: Vec<f64>,
}

struct Computed {
    sigma: f64,
    latents: Tensor,
    /// One for each branch, the positive first.
    velocities: Vec<Tensor>,
}

impl StepCache {
    /// A cache for a run of `steps`, which skips at most `most` in a row; 0 skips none. `frame` is the number of tokens
    /// of a frame.
    pub fn new(most: u32, frame: usize, steps: usize) -> Self {
        Self {
            most: most as usize,
            frame,
            steps,
            skipped: Vec::new(),
            in_a_row: 0,
            change: 0.0,
            latents: None,
            computed: Vec::new(),
            sensitivity: Vec::new(),
        }
    }

    /// The numbers of the skipped steps, from 1.
    pub fn skipped(&self) -> &[u32] {
        &self.skipped
    }

    /// The velocities of the branches at `step`, counted from 0, if the step can be skipped. `latents` are
    /// `(1, tokens, channels)`.
    pub fn skip(&mut self, step: usize, sigma: f64, latents: &Tensor, branches: usize) -> Result<Option<Vec<Tensor>>> {
        if self.most == 0 {
            return Ok(None);
        }
        let moved = match self.latents.replace(latents.clone()) {
            Some(before) => frame_norms(&(latents - before)?, self.frame)?,
            None => Vec::new(),
        };
        let [older, newer] = self.computed.as_slice() else { return Ok(None) };
        if step < FIRST_STEPS || step + LAST_STEPS >= self.steps || self.in_a_row == self.most {
            return Ok(None);
        }
        let change = self.sensitivity.iter().zip(moved).map(|(sensitivity, moved)| sensitivity * moved);
        let change = self.change + change.fold(0.0, f64::max);
        if change.is_nan() || change >= MOST_CHANGE {
            return Ok(None);
        }
        let ahead = (sigma - newer.sigma) / (newer.sigma - older.sigma);
        let velocities = newer.velocities.iter().zip(&older.velocities).take(branches);
        let velocities = velocities.map(|(newer, older)| newer + ((newer - older)? * ahead)?);
        let velocities = velocities.collect::<Result<Vec<_>>>()?;
        self.change = change;
        self.in_a_row += 1;
        self.skipped.push(step as u32 + 1);
        Ok(Some(velocities))
    }

    /// Keeps the velocities of a computed step.
    pub fn computed(&mut self, sigma: f64, latents: &Tensor, velocities: &[Tensor]) -> Result<()> {
        if self.most == 0 {
            return Ok(());
        }
        (self.in_a_row, self.change) = (0, 0.0);
        if let Some(last) = self.computed.last() {
            let moved = frame_norms(&(latents - &last.latents)?, self.frame)?;
            let changed = frame_norms(&(&velocities[0] - &last.velocities[0])?, self.frame)?;
            let norms = frame_norms(&velocities[0], self.frame)?;
            self.sensitivity = (0..norms.len()).map(|i| changed[i] / (moved[i] * norms[i])).collect();
        }
        if self.computed.len() == 2 {
            self.computed.remove(0);
        }
        self.computed.push(Computed { sigma, latents: latents.clone(), velocities: velocities.to_vec() });
        Ok(())
    }
}

/// The Euclidean norm of each frame.
fn frame_norms(tensor: &Tensor, frame: usize) -> Result<Vec<f64>> {
    let frames = tensor.dim(1)? / frame;
    let squares = tensor.reshape((frames, ()))?.sqr()?.sum(D::Minus1)?;
    Ok(squares.to_vec1::<f32>()?.into_iter().map(|square| f64::from(square).sqrt()).collect())
}
