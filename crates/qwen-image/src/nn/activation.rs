//! Pointwise functions.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use multiversion::multiversion;

use super::cpu;

/// GELU with the tanh approximation (Hendrycks & Gimpel 2016), as `gelu-approximate` in diffusers.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    if cpu::is_cpu_f32(x) { x.contiguous()?.apply_op1_no_bwd(&Pointwise::Gelu) } else { x.gelu() }
}

/// `x * sigmoid(x)`.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    if cpu::is_cpu_f32(x) { x.contiguous()?.apply_op1_no_bwd(&Pointwise::Silu) } else { x.silu() }
}

/// `silu(gate) * up`, the middle of a gated MLP; both of the same shape.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if super::cuda::applies(gate) {
        return super::cuda::swiglu(gate, up);
    }
    if cpu::is_cpu_f32(gate) { gate.apply_op2_no_bwd(up, &Swiglu) } else { gate.silu()? * up }
}

enum Pointwise {
    Gelu,
    Silu,
}

/// The number of elements per task in a row-parallel loop.
const WIDTH: usize = 1024;

impl CustomOp1 for Pointwise {
    fn name(&self) -> &'static str {
        match self {
            Self::Gelu => "gelu-tanh",
            Self::Silu => "silu",
        }
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = cpu::contiguous(storage, layout)?;
        let mut out = x.to_vec();
        match self {
            Self::Gelu => cpu::for_row_blocks(&mut out, WIDTH, |_, block| gelu_block(block)),
            Self::Silu => cpu::for_row_blocks(&mut out, WIDTH, |_, block| silu_block(block)),
        }
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

/// `x/2 (1 + tanh u)` is `x sigmoid(2u)`.
#[multiversion(targets = "simd")]
fn gelu_block(block: &mut [f32]) {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    for x in block {
        let u = SQRT_2_OVER_PI * (*x + 0.044_715 * *x * *x * *x);
        *x /= 1.0 + cpu::exp(-2.0 * u);
    }
}

#[multiversion(targets = "simd")]
fn silu_block(block: &mut [f32]) {
    for x in block {
        *x = cpu::silu(*x);
    }
}

struct Swiglu;

impl CustomOp2 for Swiglu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (cpu::Rows::new(s1, l1)?, cpu::Rows::new(s2, l2)?);
        let width = gate.width;
        let mut out = vec![0.0; gate.count * width];
        cpu::for_row_blocks(&mut out, width, |first, block| swiglu_rows(block, first, gate, up));
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }
}

#[multiversion(targets = "simd")]
fn swiglu_rows(out: &mut [f32], first: usize, gate: cpu::Rows, up: cpu::Rows) {
    for (index, row) in out.chunks_exact_mut(gate.width).enumerate() {
        let (gate, up) = (gate.row(first + index), up.row(first + index));
        for ((out, &gate), &up) in row.iter_mut().zip(gate).zip(up) {
            *out = cpu::silu(gate) * up;
        }
    }
}
