//! Shared by the CPU kernels: views of candle's storage, row-parallel loops, and a vectorized `exp`.

use candle_core::{CpuStorage, DType, Layout, Result, Tensor, bail};
use rayon::prelude::*;

/// Whether the hand-written kernels support this tensor.
pub fn is_cpu_f32(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// A tensor whose last dimension is contiguous, seen as rows that lie a fixed distance apart.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    data: &'a [f32],
    pub count: usize,
    pub width: usize,
    pub stride: usize,
}

impl<'a> Rows<'a> {
    /// Views `layout` as rows of its last dimension. The leading dimensions must collapse into one stride, as they
    /// do for contiguous tensors and for slices of their last dimension.
    pub fn new(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let CpuStorage::F32(data) = storage else { bail!("a float32 kernel was given another number format") };
        let (dims, strides) = (layout.dims(), layout.stride());
        let Some((&width, leading)) = dims.split_last() else { bail!("a scalar has no rows") };
        if width > 1 && strides[dims.len() - 1] != 1 {
            bail!("the last dimension of {dims:?} is not contiguous (strides {strides:?})");
        }
        let mut stride = width;
        let mut expected = None;
        for axis in (0..leading.len()).rev() {
            if leading[axis] == 1 {
                continue;
            }
            match expected {
                None => stride = strides[axis],
                Some(next) if strides[axis] == next => {}
                Some(_) => bail!("the rows of {dims:?} do not lie evenly (strides {strides:?})"),
            }
            expected = Some(strides[axis] * leading[axis]);
        }
        let count = leading.iter().product();
        Ok(Self { data: &data[layout.start_offset()..], count, width, stride })
    }

    pub fn row(&self, index: usize) -> &'a [f32] {
        &self.data[index * self.stride..][..self.width]
    }

    pub fn data(&self) -> &'a [f32] {
        self.data
    }
}

/// The elements of a contiguous tensor.
pub fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let CpuStorage::F32(data) = storage else { bail!("a float32 kernel was given another number format") };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => bail!("a contiguous tensor is needed, not {layout:?}"),
    }
}

/// Rows per task: enough to outweigh the cost of scheduling it.
fn rows_per_task(width: usize) -> usize {
    (16 * 1024 / width.max(1)).max(1)
}

/// Calls `body(first_row, rows)` on blocks of rows of `out`, in parallel.
///
/// `body` should do its work in one call to a function marked `#[multiversion(targets = "simd")]`, whose loops are
/// compiled for the machine's vector instructions.
pub fn for_row_blocks(out: &mut [f32], width: usize, body: impl Fn(usize, &mut [f32]) + Sync) {
    let block = rows_per_task(width);
    if out.len() <= block * width {
        return body(0, out);
    }
    out.par_chunks_mut(block * width).enumerate().for_each(|(index, rows)| body(index * block, rows));
}

/// `e^x` to about one unit in the last place, without branches or calls, so that loops over it vectorize.
///
/// Cody-Waite reduction to |r| <= ln(2)/2 and a polynomial of degree 6 (the coefficients of Cephes' `expf`).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let p = 1.987_569_1e-4_f32;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let y = p * r * r + r + 1.0;
    // The integer's bits, moved into the exponent.
    let scale = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    y * scale
}

/// `x / (1 + e^-x)`.
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// The sum in sixteen independent lanes, which is both faster and more accurate than one after the other.
#[inline(always)]
pub fn sum_by(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let mut blocks = values.chunks_exact(16);
    for block in &mut blocks {
        for (lane, &value) in lanes.iter_mut().zip(block) {
            *lane += term(value);
        }
    }
    let tail: f32 = blocks.remainder().iter().map(|&value| term(value)).sum();
    lanes.iter().sum::<f32>() + tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_to_two_units_in_the_last_place() {
        let mut worst = 0.0_f64;
        for step in -860_000..880_000 {
            let x = step as f32 * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max(((f64::from(exp(x)) - exact) / exact).abs());
        }
        assert!(worst < 2.4e-7, "relative error {worst:e}");
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1000.0) < 1e-37 && exp(-1000.0) >= 0.0);
    }
}
