//! Normalizations, and the operations next to them in the blocks.
//!
//! Statistics are in float32 for every number format.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, D, DType, Layout, Result, Shape, Tensor};

use multiversion::multiversion;

use super::{cpu, tensors_of};

/// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// A norm with the weight `(d)`; `eps` is added to the mean square.
    pub fn new(weight: Tensor, eps: f64) -> Self {
        Self { weight, eps }
    }

    /// The weight, `(d)`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// What is added to the mean square.
    pub fn eps(&self) -> f64 {
        self.eps
    }

    /// `(..., d)` -> the same shape and number format.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if cpu::is_cpu_f32(x) {
            return x.apply_op2_no_bwd(&self.weight, &Rms { eps: self.eps as f32 });
        }
        #[cfg(feature = "cuda")]
        if super::cuda::applies(x) {
            return super::cuda::rms_norm(x, &self.weight, self.eps);
        }
        let wide = x.to_dtype(DType::F32)?;
        let mean = wide.sqr()?.mean_keepdim(D::Minus1)?;
        wide.broadcast_div(&(mean + self.eps)?.sqrt()?)?.to_dtype(x.dtype())?.broadcast_mul(&self.weight)
    }
}

tensors_of!(RmsNorm: weight);

/// `layer_norm(x) * (1 + scale) + shift`, without learned weights.
///
/// `x` is `(b, s, d)`; `scale` and `shift` are `(b, 1, d)`, or `(b, s, d)` when tokens differ.
pub fn layer_norm_modulate(x: &Tensor, scale: &Tensor, shift: &Tensor, eps: f64) -> Result<Tensor> {
    if cpu::is_cpu_f32(x) && x.dim(0)? == 1 {
        return x.apply_op3_no_bwd(scale, shift, &Modulate { eps: eps as f32 });
    }
    #[cfg(feature = "cuda")]
    if super::cuda::applies(x) && x.dim(0)? == 1 {
        return super::cuda::layer_norm_modulate(x, scale, shift, eps);
    }
    let wide = x.to_dtype(DType::F32)?;
    let centered = wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?;
    let variance = centered.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = centered.broadcast_div(&(variance + eps)?.sqrt()?)?.to_dtype(x.dtype())?;
    normed.broadcast_mul(&(scale + 1.0)?)?.broadcast_add(shift)
}

/// `residual + gate * x`; `gate` as in [`layer_norm_modulate`].
pub fn gated_add(residual: &Tensor, gate: &Tensor, x: &Tensor) -> Result<Tensor> {
    if cpu::is_cpu_f32(x) && x.dim(0)? == 1 {
        return residual.apply_op3_no_bwd(gate, x, &GatedAdd);
    }
    #[cfg(feature = "cuda")]
    if super::cuda::applies(x) && x.dim(0)? == 1 {
        return super::cuda::gated_add(residual, gate, x);
    }
    residual + x.broadcast_mul(gate)?
}

/// [`gated_add`], then [`layer_norm_modulate`] of its result. Returns both, in this order.
pub fn gated_norm(
    residual: &Tensor,
    gate: &Tensor,
    x: &Tensor,
    scale: &Tensor,
    shift: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    #[cfg(feature = "cuda")]
    if super::cuda::applies(x) && x.dim(0)? == 1 {
        return super::cuda::gated_norm(residual, gate, x, [scale, shift], eps);
    }
    let sum = gated_add(residual, gate, x)?;
    let normed = layer_norm_modulate(&sum, scale, shift, eps)?;
    Ok((sum, normed))
}

/// The VAE's norm with the activation that follows it: `silu(x / |x| * sqrt(c) * gamma)` over the channels, which
/// are last; `silu` only when `activate`.
pub fn rms_normalize_silu(x: &Tensor, gamma: &Tensor, activate: bool) -> Result<Tensor> {
    if cpu::is_cpu_f32(x) {
        return x.apply_op2_no_bwd(gamma, &Normalize { activate });
    }
    #[cfg(feature = "cuda")]
    if super::cuda::applies(x) {
        return super::cuda::rms_normalize(x, gamma, activate);
    }
    let channels = x.dim(D::Minus1)? as f64;
    let wide = x.to_dtype(DType::F32)?;
    let length = wide.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.maximum(1e-12)?;
    let normed = (wide.broadcast_div(&length)?.to_dtype(x.dtype())? * channels.sqrt())?.broadcast_mul(gamma)?;
    if activate { normed.silu() } else { Ok(normed) }
}

struct Rms {
    eps: f32,
}

impl CustomOp2 for Rms {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, weight) = (cpu::Rows::new(s1, l1)?, cpu::contiguous(s2, l2)?);
        let width = rows.width;
        let mut out = vec![0.0; rows.count * width];
        cpu::for_row_blocks(&mut out, width, |first, block| rms_rows(block, first, rows, weight, self.eps));
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }
}

struct Modulate {
    eps: f32,
}

impl CustomOp3 for Modulate {
    fn name(&self) -> &'static str {
        "layer-norm-modulate"
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
        let (rows, scale, shift) = (cpu::Rows::new(s1, l1)?, cpu::Rows::new(s2, l2)?, cpu::Rows::new(s3, l3)?);
        let width = rows.width;
        let mut out = vec![0.0; rows.count * width];
        cpu::for_row_blocks(&mut out, width, |first, block| {
            modulate_rows(block, first, [rows, scale, shift], self.eps);
        });
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }
}

struct GatedAdd;

impl CustomOp3 for GatedAdd {
    fn name(&self) -> &'static str {
        "gated-add"
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
        let (residual, gate, x) = (cpu::Rows::new(s1, l1)?, cpu::Rows::new(s2, l2)?, cpu::Rows::new(s3, l3)?);
        let width = x.width;
        let mut out = vec![0.0; x.count * width];
        cpu::for_row_blocks(&mut out, width, |first, block| gated_add_rows(block, first, [residual, gate, x]));
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }
}

struct Normalize {
    activate: bool,
}

impl CustomOp2 for Normalize {
    fn name(&self) -> &'static str {
        "rms-normalize"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, gamma) = (cpu::Rows::new(s1, l1)?, cpu::contiguous(s2, l2)?);
        let width = rows.width;
        let mut out = vec![0.0; rows.count * width];
        cpu::for_row_blocks(&mut out, width, |first, block| normalize_rows(block, first, rows, gamma, self.activate));
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }
}

#[multiversion(targets = "simd")]
fn rms_rows(out: &mut [f32], first: usize, rows: cpu::Rows, weight: &[f32], eps: f32) {
    let width = rows.width;
    for (index, out) in out.chunks_exact_mut(width).enumerate() {
        let x = rows.row(first + index);
        let mean = cpu::sum_by(x, |v| v * v) / width as f32;
        let factor = 1.0 / (mean + eps).sqrt();
        for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * factor * weight;
        }
    }
}

#[multiversion(targets = "simd")]
fn modulate_rows(out: &mut [f32], first: usize, [rows, scale, shift]: [cpu::Rows; 3], eps: f32) {
    let width = rows.width;
    for (index, out) in out.chunks_exact_mut(width).enumerate() {
        let at = first + index;
        let x = rows.row(at);
        let scale = scale.row(if scale.count == 1 { 0 } else { at });
        let shift = shift.row(if shift.count == 1 { 0 } else { at });
        let mean = cpu::sum_by(x, |v| v) / width as f32;
        let variance = cpu::sum_by(x, |v| (v - mean) * (v - mean)) / width as f32;
        let factor = 1.0 / (variance + eps).sqrt();
        for (((out, &x), &scale), &shift) in out.iter_mut().zip(x).zip(scale).zip(shift) {
            *out = (x - mean) * factor * (1.0 + scale) + shift;
        }
    }
}

#[multiversion(targets = "simd")]
fn gated_add_rows(out: &mut [f32], first: usize, [residual, gate, x]: [cpu::Rows; 3]) {
    let width = x.width;
    for (index, out) in out.chunks_exact_mut(width).enumerate() {
        let at = first + index;
        let gate = gate.row(if gate.count == 1 { 0 } else { at });
        for (((out, &residual), &gate), &x) in out.iter_mut().zip(residual.row(at)).zip(gate).zip(x.row(at)) {
            *out = residual + gate * x;
        }
    }
}

#[multiversion(targets = "simd")]
fn normalize_rows(out: &mut [f32], first: usize, rows: cpu::Rows, gamma: &[f32], activate: bool) {
    let width = rows.width;
    for (index, out) in out.chunks_exact_mut(width).enumerate() {
        let x = rows.row(first + index);
        let length = cpu::sum_by(x, |v| v * v).sqrt().max(1e-12);
        let factor = (width as f32).sqrt() / length;
        for ((out, &x), &gamma) in out.iter_mut().zip(x).zip(gamma) {
            *out = x * factor * gamma;
        }
        if activate {
            for out in out {
                *out = cpu::silu(*out);
            }
        }
    }
}
