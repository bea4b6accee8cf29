//! Queries, keys and values of several streams in one buffer, where attention reads them as they lie.

use candle_core::{DType, Result, Tensor, bail};

use super::{
    Gpu,
    kernels::{Arg, Grid},
    view,
};
use crate::nn::QkvPart;

/// See [`crate::nn::joint_attention_qkv`]. The buffer is `(1, tokens of all streams, 3 dim)`; the three results are views into
/// it, `(1, tokens, heads, d)`.
pub fn joint_attention_qkv(parts: &[QkvPart<'_>]) -> Result<[Tensor; 3]> {
    let Some(first) = parts.first() else { bail!("no streams to join") };
    let tokens = parts.iter().map(|part| part.x.dim(1)).sum::<Result<usize>>()?;
    let width = first.qkv.out_features()?;
    let (dim, head) = (width / 3, first.norm_q.weight().dim(0)?);
    let joint = view::fresh((1, tokens, width), first.x)?;
    let mut start = 0;
    for part in parts {
        let count = part.x.dim(1)?;
        let rows = joint.narrow(1, start, count)?;
        part.qkv.forward_into(part.x, &rows)?;
        norm_and_turn(&rows, part, dim, head)?;
        start += count;
    }
    let heads = dim / head;
    let cut = joint.reshape((1, tokens, 3 * heads, head))?;
    Ok([cut.narrow(2, 0, heads)?, cut.narrow(2, heads, heads)?, cut.narrow(2, 2 * heads, heads)?])
}

fn norm_and_turn(rows: &Tensor, part: &QkvPart<'_>, dim: usize, head: usize) -> Result<()> {
    let gpu = Gpu::of(rows)?;
    let (_, tokens, width) = rows.dims3()?;
    let (cos, sin) = (part.rotation.cos.contiguous()?, part.rotation.sin.contiguous()?);
    if cos.dims() != [tokens, head / 2] || sin.dims() != cos.dims() {
        bail!("a rotation {:?} for {tokens} tokens with heads of {head}", cos.shape());
    }
    let (norm_q, norm_k) = (part.norm_q.weight().contiguous()?, part.norm_k.weight().contiguous()?);
    let addresses = [
        view::address(rows)?,
        view::address(&norm_q)?,
        view::address(&norm_k)?,
        view::address(&cos)?,
        view::address(&sin)?,
    ];
    let wide = rows.dtype() == DType::BF16
        && head == 128
        && width.is_multiple_of(8)
        && addresses.iter().all(|address| address.is_multiple_of(16));
    let heads = dim / head;
    let [x, norm_q, norm_k, cos, sin] = addresses.map(Arg::Address);
    let args = [
        x,
        Arg::Long(width as i64),
        norm_q,
        norm_k,
        cos,
        sin,
        Arg::Int(heads as i32),
        Arg::Int(head as i32),
        Arg::Long(dim as i64),
        Arg::Float(part.norm_q.eps() as f32),
    ];
    let name = match (rows.dtype(), wide) {
        (DType::BF16, true) => "qk_norm_rope_bf16_v",
        (DType::BF16, false) => "qk_norm_rope_bf16",
        _ => "qk_norm_rope_f32",
    };
    let threads = if wide { (16 * heads).next_multiple_of(32).min(384) } else { 256 };
    gpu.launch("rope", name, Grid::rows(tokens, threads), &args)
}
