//! Norms and gates, `kernels/norm.cu`.

use candle_core::{Result, Tensor, bail};

use super::{
    Gpu,
    kernels::{Arg, Grid, Names, names},
    view::{self, Rows},
};

/// `layer_norm(x) * (1 + scale) + shift`.
pub fn layer_norm_modulate(x: &Tensor, scale: &Tensor, shift: &Tensor, eps: f64) -> Result<Tensor> {
    let normed = view::fresh(x.shape(), x)?;
    let out = view::address(&normed)?;
    view::with_rows([x, scale, shift], |[x_rows, scale, shift]| {
        let none = Rows { count: 1, ..x_rows };
        residual_norm(x, NORM_MODULATE, [x_rows, none, none, scale, shift], [0, out], eps)
    })?;
    Ok(normed)
}

/// `residual + gate * x`.
pub fn gated_add(residual: &Tensor, gate: &Tensor, x: &Tensor) -> Result<Tensor> {
    let sum = view::fresh(x.shape(), x)?;
    let out = view::address(&sum)?;
    view::with_rows([x, residual, gate], |[x_rows, residual, gate]| {
        let none = Rows { count: 1, ..x_rows };
        residual_norm(x, GATED_ADD, [x_rows, residual, gate, none, none], [out, 0], 0.0)
    })?;
    Ok(sum)
}

/// Both, one after the other: the sum, and the sum normed and modulated.
pub fn gated_norm(
    residual: &Tensor,
    gate: &Tensor,
    x: &Tensor,
    [scale, shift]: [&Tensor; 2],
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    let (sum, normed) = (view::fresh(x.shape(), x)?, view::fresh(x.shape(), x)?);
    let out = [view::address(&sum)?, view::address(&normed)?];
    view::with_rows([x, residual, gate, scale, shift], |rows| residual_norm(x, GATED_NORM, rows, out, eps))?;
    Ok((sum, normed))
}

const NORM_MODULATE: Names = names!("norm", "norm_modulate");
const GATED_ADD: Names = names!("norm", "gated_add");
const GATED_NORM: Names = names!("norm", "gated_norm");
const RMS_NORM: Names = names!("norm", "rms_norm");
const RMS_NORMALIZE: Names = names!("norm", "rms_normalize");

/// `rows`: x, residual, gate, scale, shift; `out`: the sum and the normed sum, 0 where the kernel makes none.
fn residual_norm(like: &Tensor, names: Names, rows: [Rows; 5], out: [u64; 2], eps: f64) -> Result<()> {
    let gpu = Gpu::of(like)?;
    let [x, ..] = rows;
    if rows.iter().any(|rows| rows.width != x.width) {
        bail!("rows of different widths");
    }
    let wide = view::aligned(like.dtype(), &rows);
    let threads = threads_for(x.width, view::lanes(like.dtype()), wide)?;
    let mut args = Vec::with_capacity(14);
    for (index, rows) in rows.iter().enumerate() {
        let stride = if index == 0 { rows.stride } else { rows.stride_over(x.count)? };
        args.extend([Arg::Address(rows.address), Arg::Long(stride as i64)]);
    }
    args.extend(out.map(Arg::Address));
    args.extend([Arg::Int(x.width as i32), Arg::Float(eps as f32)]);
    gpu.launch(names.module, names.pick(like.dtype(), wide), Grid::rows(x.count, threads), &args)
}

/// Threads of a block that hold a row in 8 elements each, rounded up to whole warps.
fn threads_for(width: usize, lanes: usize, wide: bool) -> Result<usize> {
    // The vector kernels hold 8 elements a thread too: one vector of 8, or two of 4.
    debug_assert!(!wide || lanes == 8 || lanes == 4);
    let threads = width.div_ceil(8).next_multiple_of(32);
    if threads > 1024 {
        bail!("rows of {width}; the kernels take up to 8192");
    }
    Ok(threads)
}

/// `x / sqrt(mean(x^2) + eps) * weight`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let gpu = Gpu::of(x)?;
    let out = view::fresh(x.shape(), x)?;
    let out_address = view::address(&out)?;
    view::with_rows([x, weight], |[rows, weight]| {
        let wide = view::aligned(x.dtype(), &[rows, weight]);
        let threads = threads_for(rows.width, view::lanes(x.dtype()), wide)?;
        let args = [
            Arg::Address(rows.address),
            Arg::Long(rows.stride as i64),
            Arg::Address(weight.address),
            Arg::Address(out_address),
            Arg::Int(rows.width as i32),
            Arg::Float(eps as f32),
        ];
        gpu.launch(RMS_NORM.module, RMS_NORM.pick(x.dtype(), wide), Grid::rows(rows.count, threads), &args)
    })?;
    Ok(out)
}

/// The VAE's norm over the channels, with SiLU behind it if `activate`.
pub fn rms_normalize(x: &Tensor, gamma: &Tensor, activate: bool) -> Result<Tensor> {
    const THREADS: usize = 256;
    let gpu = Gpu::of(x)?;
    let out = view::fresh(x.shape(), x)?;
    let out_address = view::address(&out)?;
    view::with_rows([x, gamma], |[rows, gamma]| {
        let wide = view::aligned(x.dtype(), &[rows, gamma]);
        // A thread holds 32 elements at most.
        let lanes = if wide { rows.width.div_ceil(32).next_power_of_two() } else { 32 };
        if lanes > 32 || rows.width > 1024 {
            bail!("{} channels; the kernel takes up to 1024", rows.width);
        }
        let args = [
            Arg::Address(rows.address),
            Arg::Long(rows.stride as i64),
            Arg::Address(gamma.address),
            Arg::Address(out_address),
            Arg::Long(rows.count as i64),
            Arg::Int(rows.width as i32),
            Arg::Int(i32::from(activate)),
            Arg::Int(lanes as i32),
        ];
        let grid = Grid::rows((rows.count * lanes).div_ceil(THREADS), THREADS);
        gpu.launch(RMS_NORMALIZE.module, RMS_NORMALIZE.pick(x.dtype(), wide), grid, &args)
    })?;
    Ok(out)
}
