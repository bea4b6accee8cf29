//! Computes queries, keys and values of several streams in one buffer, from which attention reads them directly.

use candle_core::{DType, Result, Tensor, bail};

use super::{
    Gpu,
    kernels::{Arg, Grid},
    view::{self, DeviceRows, Region},
};
use crate::nn::QkvPart;

/// See [`crate::nn::joint_attention_qkv`]. The buffer is `(1, tokens of all streams, 3 dim)`; the three results are
/// views into it, `(1, tokens, heads, d)`.
pub fn joint_attention_qkv(parts: &[QkvPart<'_>]) -> Result<[Tensor; 3]> {
    let Some(first) = parts.first() else { bail!("no streams to join") };
    let tokens = parts.iter().map(|part| part.x.dim(1)).sum::<Result<usize>>()?;
    let width = first.qkv.out_features()?;
    let (dim, head) = (width / 3, first.norm_q.weight().dim(0)?);
    // SAFETY: the projections below write every column of every part's rows, which together are all rows. If one fails,
    // the buffer is dropped unread.
    let joint = unsafe { view::fresh((1, tokens, width), first.x)? };
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
    let dtype = rows.dtype();
    let Some(x) = DeviceRows::view(rows)? else { bail!("a projection into {:?}", rows.layout()) };
    let (tokens, heads) = (x.count(), dim / head);
    if heads * head != dim || 2 * dim > x.width() {
        bail!("queries and keys of {dim}, in heads of {head}, in rows of {}", x.width());
    }
    let (cos, sin) = (part.rotation.cos.contiguous()?, part.rotation.sin.contiguous()?);
    if cos.dims() != [tokens, head / 2] || sin.dims() != cos.dims() {
        bail!("a rotation {:?} for {tokens} tokens with heads of {head}", cos.shape());
    }
    let (norm_q, norm_k) = (part.norm_q.weight().contiguous()?, part.norm_k.weight().contiguous()?);
    let [norm_q, norm_k] = [Region::of(&norm_q)?.holding(dtype, head)?, Region::of(&norm_k)?.holding(dtype, head)?];
    let angles = tokens * (head / 2);
    let [cos, sin] = [Region::of(&cos)?.holding(DType::F32, angles)?, Region::of(&sin)?.holding(DType::F32, angles)?];
    let wide = dtype == DType::BF16
        && head == 128
        && x.stride().is_multiple_of(8)
        && [x.region(), norm_q, norm_k, cos, sin].into_iter().all(Region::aligned);
    let args = [
        Arg::Region(x.region()),
        Arg::Long(x.stride() as i64),
        Arg::Region(norm_q),
        Arg::Region(norm_k),
        Arg::Region(cos),
        Arg::Region(sin),
        Arg::Int(heads as i32),
        Arg::Int(head as i32),
        Arg::Long(dim as i64),
        Arg::Float(part.norm_q.eps() as f32),
    ];
    let name = match (dtype, wide) {
        (DType::BF16, true) => "qk_norm_rope_bf16_v",
        (DType::BF16, false) => "qk_norm_rope_bf16",
        (DType::F32, _) => "qk_norm_rope_f32",
        _ => bail!("no kernel takes {dtype:?}"),
    };
    let threads = if wide { (16 * heads).next_multiple_of(32).min(384) } else { 256 };
    // SAFETY: a block processes the row of one token. It changes `heads * head` elements from 0 and from `dim` on,
    // which end inside the row. The sizes and formats of weights and tables were checked above; the tables have a row
    // for each token. The kernel with 16-byte accesses is used only for heads of 128 if all addresses, rows and parts
    // allow them.
    unsafe { gpu.launch("rope", name, Grid::rows(tokens, threads), &args) }
}
