//! Rotary position embeddings.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, D, DType, Layout, Result, Shape, Tensor};

use multiversion::multiversion;

use super::{RmsNorm, cpu};

/// The cosines and sines of a sequence's angles, in float32.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// `(s, n)`: `n` is half of the head for adjacent pairs, the whole head for halves.
    pub cos: Tensor,
    /// The sines, of the same shape.
    pub sin: Tensor,
}

impl Rotation {
    /// The rotation of two sequences, one after the other.
    pub fn cat(first: &Self, second: &Self) -> Result<Self> {
        Ok(Self { cos: Tensor::cat(&[&first.cos, &second.cos], 0)?, sin: Tensor::cat(&[&first.sin, &second.sin], 0)? })
    }
}

/// RMS norm over each head, then rotation of adjacent pairs as complex numbers, in float32.
///
/// `x` is `(1, s, heads * d)`, possibly a slice of a wider last dimension. Returns `(1, s, heads, d)`. The norm's
/// weight is `(d)`; `rotation` holds `(s, d / 2)`.
pub fn qk_norm_rope(x: &Tensor, norm: &RmsNorm, rotation: &Rotation) -> Result<Tensor> {
    let head = norm.weight().dim(0)?;
    if cpu::is_cpu_f32(x) {
        let angles = Tensor::cat(&[&rotation.cos, &rotation.sin], 1)?;
        return x.apply_op3_no_bwd(norm.weight(), &angles, &NormPairs { eps: norm.eps() as f32 });
    }
    let (b, s, width) = x.dims3()?;
    let normed = norm.forward(&x.reshape((b, s, width / head, head))?)?.to_dtype(DType::F32)?;
    let pairs = normed.reshape((b, s, width / head, head / 2, 2))?;
    let (re, im) =
        (pairs.narrow(D::Minus1, 0, 1)?.squeeze(D::Minus1)?, pairs.narrow(D::Minus1, 1, 1)?.squeeze(D::Minus1)?);
    let cos = rotation.cos.reshape((1, s, 1, head / 2))?;
    let sin = rotation.sin.reshape((1, s, 1, head / 2))?;
    let out_re = (re.broadcast_mul(&cos)? - im.broadcast_mul(&sin)?)?;
    let out_im = (re.broadcast_mul(&sin)? + im.broadcast_mul(&cos)?)?;
    Tensor::stack(&[out_re, out_im], D::Minus1)?.reshape((b, s, width / head, head))?.to_dtype(x.dtype())
}

/// Rotation of the first half of each head against the second, as Qwen2.5-VL does.
///
/// `x` is `(b, s, heads, d)`; `rotation` holds `(s, d)`.
pub fn rotate_half(x: &Tensor, rotation: &Rotation) -> Result<Tensor> {
    let (_, s, _, head) = x.dims4()?;
    if cpu::is_cpu_f32(x) && x.dim(0)? == 1 {
        let angles = Tensor::cat(&[&rotation.cos, &rotation.sin], 1)?;
        return x.contiguous()?.apply_op2_no_bwd(&angles, &RotateHalf);
    }
    #[cfg(feature = "cuda")]
    if super::cuda::applies(x) && x.dim(0)? == 1 {
        return super::cuda::rotate_half(x, &rotation.cos, &rotation.sin);
    }
    let wide = x.to_dtype(DType::F32)?;
    let (low, high) = (wide.narrow(D::Minus1, 0, head / 2)?, wide.narrow(D::Minus1, head / 2, head / 2)?);
    let transposed = Tensor::cat(&[&high.neg()?, &low], D::Minus1)?;
    let cos = rotation.cos.reshape((1, s, 1, head))?;
    let sin = rotation.sin.reshape((1, s, 1, head))?;
    (wide.broadcast_mul(&cos)? + transposed.broadcast_mul(&sin)?)?.to_dtype(x.dtype())
}

struct NormPairs {
    eps: f32,
}

impl CustomOp3 for NormPairs {
    fn name(&self) -> &'static str {
        "qk-norm-rope"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, weight, angles) = (cpu::Rows::new(s1, l1)?, cpu::contiguous(s2, l2)?, cpu::Rows::new(s3, l3)?);
        let (width, head) = (rows.width, weight.len());
        if angles.count != rows.count || angles.width != head {
            candle_core::bail!("rotation {:?} does not fit {:?} with heads of {head}", l3.shape(), l1.shape());
        }
        let mut out = vec![0.0; rows.count * width];
        cpu::for_row_blocks(&mut out, width, |first, block| {
            norm_pairs_rows(block, first, rows, weight, angles, self.eps);
        });
        let (b, s, _) = l1.shape().dims3()?;
        Ok((CpuStorage::F32(out), Shape::from((b, s, width / head, head))))
    }
}

struct RotateHalf;

impl CustomOp2 for RotateHalf {
    fn name(&self) -> &'static str {
        "rotate-half"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, angles) = (cpu::contiguous(s1, l1)?, cpu::Rows::new(s2, l2)?);
        let (_, s, heads, head) = l1.shape().dims4()?;
        if angles.count != s || angles.width != 2 * head {
            candle_core::bail!("rotation {:?} does not fit {:?}", l2.shape(), l1.shape());
        }
        let width = heads * head;
        let mut out = vec![0.0; x.len()];
        cpu::for_row_blocks(&mut out, width, |first, block| halves_rows(block, first, x, angles, width));
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }
}

#[multiversion(targets = "simd")]
fn norm_pairs_rows(out: &mut [f32], first: usize, rows: cpu::Rows, weight: &[f32], angles: cpu::Rows, eps: f32) {
    let (width, head) = (rows.width, weight.len());
    for (index, out) in out.chunks_exact_mut(width).enumerate() {
        let (cos, sin) = angles.row(first + index).split_at(head / 2);
        for (out, x) in out.chunks_exact_mut(head).zip(rows.row(first + index).chunks_exact(head)) {
            let factor = 1.0 / (cpu::sum_by(x, |v| v * v) / head as f32 + eps).sqrt();
            let pairs = out.chunks_exact_mut(2).zip(x.chunks_exact(2)).zip(weight.chunks_exact(2));
            for (((out, x), weight), (&cos, &sin)) in pairs.zip(cos.iter().zip(sin)) {
                let (re, im) = (x[0] * factor * weight[0], x[1] * factor * weight[1]);
                out[0] = re * cos - im * sin;
                out[1] = re * sin + im * cos;
            }
        }
    }
}

#[multiversion(targets = "simd")]
fn halves_rows(out: &mut [f32], first: usize, x: &[f32], angles: cpu::Rows, width: usize) {
    let head = angles.width / 2;
    for (index, out) in out.chunks_exact_mut(width).enumerate() {
        let (cos, sin) = angles.row(first + index).split_at(head);
        let row = &x[(first + index) * width..][..width];
        for (out, x) in out.chunks_exact_mut(head).zip(row.chunks_exact(head)) {
            let half = head / 2;
            for i in 0..half {
                out[i] = x[i] * cos[i] - x[i + half] * sin[i];
                out[i + half] = x[i + half] * cos[i + half] + x[i] * sin[i + half];
            }
        }
    }
}
