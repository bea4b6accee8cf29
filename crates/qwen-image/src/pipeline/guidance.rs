//! Classifier-free guidance: which branches a step computes, in which order, and how they become one velocity.

use candle_core::{D, Result, Tensor};

/// How the branches of a step are computed. The result is the same, byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BranchOrder {
    /// One pass for each branch, which needs less memory.
    Serial,
    /// One pass for all: a block that comes to the device for this step serves every branch.
    Joint,
}

/// The guidance of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guidance {
    /// Above 1; without a negative branch nothing is guided.
    pub scale: f64,
    /// Rescale the guided velocity of each token to the norm of the unguided one.
    pub normalize: bool,
    pub order: BranchOrder,
}

impl Guidance {
    /// The branches in the groups that share a pass.
    pub fn passes<T>(self, branches: &[T]) -> std::slice::Chunks<'_, T> {
        let together = match self.order {
            BranchOrder::Serial => 1,
            BranchOrder::Joint => branches.len().max(1),
        };
        branches.chunks(together)
    }

    /// One velocity `(1, tokens, channels)` out of the positive branch's and, if there is one, the negative branch's:
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
