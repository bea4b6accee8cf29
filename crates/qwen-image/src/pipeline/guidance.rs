//! Classifier-free guidance: the branches of a step, their order, and their combination into one velocity.

use candle_core::{D, Result, Tensor};

/// How the branches of a step are computed. The result is the same, byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BranchOrder {
    /// One pass per branch, which needs less memory.
    Serial,
    /// One pass for all branches: each block is transferred to the device once per step.
    Joint,
    /// Each branch on its own device, at the same time.
    Parallel,
}

/// The guidance of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guidance {
    /// The scale, above 1; without a negative branch there is no guidance.
    pub scale: f64,
    /// Rescale the guided velocity of each token to the norm of the unguided one.
    pub normalize: bool,
    /// How the branches are computed.
    pub order: BranchOrder,
}

impl Guidance {
    /// The branches in groups that share a pass.
    pub fn passes<T>(self, branches: &[T]) -> std::slice::Chunks<'_, T> {
        let together = match self.order {
            BranchOrder::Serial | BranchOrder::Parallel => 1,
            BranchOrder::Joint => branches.len().max(1),
        };
        branches.chunks(together)
    }

    /// One velocity `(1, tokens, channels)` from the positive branch's and, if there is one, the negative branch's:
    /// `negative + scale (positive - negative)`, rescaled per token to the norm of `positive` with `normalize`.
    pub fn combine(self, mut velocities: Vec<Tensor>) -> Result<Tensor> {
        let [positive, negative] = velocities.as_slice() else { return Ok(velocities.swap_remove(0)) };
        let guided = (negative + ((positive - negative)? * self.scale)?)?;
        if !self.normalize {
            return Ok(guided);
        }
        let norm = |x: &Tensor| x.sqr()?.sum_keepdim(D::Minus1)?.sqrt();
        guided.broadcast_mul(&norm(positive)?.broadcast_div(&norm(&guided)?)?)
    }
}
