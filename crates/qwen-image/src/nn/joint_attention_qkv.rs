//! Queries, keys and values of streams with joint attention.

use candle_core::{Result, Tensor};

use super::{Linear, RmsNorm, Rotation, qk_norm_rope};

/// One stream: its tokens and their projections.
#[derive(Debug, Clone, Copy)]
pub struct QkvPart<'a> {
    /// `(1, tokens, dim)`, normed and modulated.
    pub x: &'a Tensor,
    /// To `3 dim`: queries, keys, values.
    pub qkv: &'a Linear,
    /// The norms over each head.
    pub norm_q: &'a RmsNorm,
    /// The norm of the keys.
    pub norm_k: &'a RmsNorm,
    /// The rotations of the stream's tokens, `(tokens, d / 2)`.
    pub rotation: &'a Rotation,
}

/// Queries, keys and values of all streams, concatenated: each `(1, tokens of all, heads, d)`. Queries and keys are
/// normed and rotated.
pub fn joint_attention_qkv(parts: &[QkvPart<'_>]) -> Result<[Tensor; 3]> {
    #[cfg(feature = "cuda")]
    if parts.first().is_some_and(|part| super::cuda::applies(part.x)) {
        return super::cuda::joint_attention_qkv(parts);
    }
    let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
    for QkvPart { x, qkv, norm_q, norm_k, rotation } in parts {
        let projected = qkv.forward(x)?;
        let dim = projected.dim(2)? / 3;
        let part = |index: usize| projected.narrow(2, index * dim, dim);
        q.push(qk_norm_rope(&part(0)?, norm_q, rotation)?);
        k.push(qk_norm_rope(&part(1)?, norm_k, rotation)?);
        v.push(part(2)?.reshape(q[q.len() - 1].shape())?);
    }
    Ok([Tensor::cat(&q, 1)?, Tensor::cat(&k, 1)?, Tensor::cat(&v, 1)?])
}
