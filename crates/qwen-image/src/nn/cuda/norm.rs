//! Norms and gates, with `kernels/norm.cu`.

use candle_core::{Result, Tensor, bail};

use super::{
    Gpu,
    kernels::{Arg, Grid, KernelNames, names},
    view::{self, DeviceRows, Region},
};

/// `layer_norm(x) * (1 + scale) + shift`.
pub fn layer_norm_modulate(x: &Tensor, scale: &Tensor, shift: &Tensor, eps: f64) -> Result<Tensor> {
    let gpu = Gpu::of(x)?;
    // SAFETY: `residual_norm` writes all of it.
    let normed = unsafe { view::fresh(x.shape(), x)? };
    let out = Region::of(&normed)?;
    view::with_rows([x, scale, shift], |[x_rows, scale, shift]| {
        residual_norm(&gpu, x_rows, None, Some(ModulatedNorm { scale, shift, eps, out }))
    })?;
    Ok(normed)
}

/// `residual + gate * x`.
pub fn gated_add(residual: &Tensor, gate: &Tensor, x: &Tensor) -> Result<Tensor> {
    let gpu = Gpu::of(x)?;
    // SAFETY: `residual_norm` writes all of it.
    let sum = unsafe { view::fresh(x.shape(), x)? };
    let out = Region::of(&sum)?;
    view::with_rows([x, residual, gate], |[x_rows, residual, gate]| {
        residual_norm(&gpu, x_rows, Some(Sum { residual, gate, out }), None)
    })?;
    Ok(sum)
}

/// [`gated_add`], then [`layer_norm_modulate`] of its result; returns both.
pub fn gated_norm(
    residual: &Tensor,
    gate: &Tensor,
    x: &Tensor,
    [scale, shift]: [&Tensor; 2],
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    let gpu = Gpu::of(x)?;
    // SAFETY: `residual_norm` writes all of both tensors.
    let (sum, normed) = unsafe { (view::fresh(x.shape(), x)?, view::fresh(x.shape(), x)?) };
    let (sum_out, normed_out) = (Region::of(&sum)?, Region::of(&normed)?);
    view::with_rows([x, residual, gate, scale, shift], |[x_rows, residual, gate, scale, shift]| {
        let norm = ModulatedNorm { scale, shift, eps, out: normed_out };
        residual_norm(&gpu, x_rows, Some(Sum { residual, gate, out: sum_out }), Some(norm))
    })?;
    Ok((sum, normed))
}

/// Of a block.
const MOST_THREADS: usize = 1024;
/// Of the RMS norm over channels.
const MOST_CHANNELS: usize = 1024;

const NORM_MODULATE: KernelNames = names!("norm", "norm_modulate");
const GATED_ADD: KernelNames = names!("norm", "gated_add");
const GATED_NORM: KernelNames = names!("norm", "gated_norm");
const RMS_NORM: KernelNames = names!("norm", "rms_norm");
const RMS_NORMALIZE: KernelNames = names!("norm", "rms_normalize");

/// `out = residual + gate * x`.
#[derive(Clone, Copy)]
struct Sum<'a> {
    residual: DeviceRows<'a>,
    gate: DeviceRows<'a>,
    out: Region<'a>,
}

/// `out = layer_norm(sum) * (1 + scale) + shift`.
#[derive(Clone, Copy)]
struct ModulatedNorm<'a> {
    scale: DeviceRows<'a>,
    shift: DeviceRows<'a>,
    eps: f64,
    out: Region<'a>,
}

/// Writes a row of each `out` for each row of `x`; without a sum, `x` itself is normed.
fn residual_norm(gpu: &Gpu, x: DeviceRows<'_>, sum: Option<Sum<'_>>, norm: Option<ModulatedNorm<'_>>) -> Result<()> {
    let names = match (sum, norm) {
        (None, Some(_)) => NORM_MODULATE,
        (Some(_), None) => GATED_ADD,
        (Some(_), Some(_)) => GATED_NORM,
        (None, None) => return Ok(()),
    };
    let dtype = x.region().dtype();
    let factors = [
        sum.map(|sum| sum.residual),
        sum.map(|sum| sum.gate),
        norm.map(|norm| norm.scale),
        norm.map(|norm| norm.shift),
    ];
    let mut wide = view::aligned(dtype, &[x]);
    let mut args = [Arg::Null; 14];
    args[..2].copy_from_slice(&Arg::rows(x));
    for (args, factor) in args[2..10].chunks_exact_mut(2).zip(factors) {
        let Some(rows) = factor else {
            args[1] = Arg::Long(0);
            continue;
        };
        if rows.width() != x.width() {
            bail!("rows of different widths");
        }
        wide &= view::aligned(dtype, &[rows]);
        args[0] = Arg::Region(rows.region().holding(dtype, rows.width())?);
        args[1] = Arg::Long(rows.stride_over(x.count())? as i64);
    }
    for (arg, out) in args[10..].iter_mut().zip([sum.map(|sum| sum.out), norm.map(|norm| norm.out)]) {
        if let Some(out) = out {
            wide &= out.aligned();
            *arg = Arg::Region(out.holding(dtype, x.elements())?);
        }
    }
    args[12] = Arg::Int(x.width() as i32);
    args[13] = Arg::Float(norm.map_or(0.0, |norm| norm.eps) as f32);
    let threads = threads_for(x.width(), view::lanes(dtype), wide)?;
    // SAFETY: the kernel that is selected by name accesses no null argument. A block processes one row of `width`
    // elements. `x` has this row; each factor has it too, or has a single row, with stride 0. Each `out` has `width`
    // elements for each row of `x`. All have the same format. The kernel with 16-byte accesses is used only if all are
    // aligned for it.
    unsafe { gpu.launch(names.module, names.pick(dtype, wide)?, Grid::rows(x.count(), threads), &args) }
}

/// The threads of a block that hold a row with 8 elements each, rounded up to whole warps.
fn threads_for(width: usize, lanes: usize, wide: bool) -> Result<usize> {
    // The vector kernels also hold 8 elements per thread: one vector of 8, or two of 4.
    debug_assert!(!wide || lanes == 8 || lanes == 4);
    let threads = width.div_ceil(8).next_multiple_of(32);
    if threads > MOST_THREADS {
        bail!("rows of {width}; the kernels take up to {}", 8 * MOST_THREADS);
    }
    Ok(threads)
}

/// `x / sqrt(mean(x^2) + eps) * weight`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let gpu = Gpu::of(x)?;
    // SAFETY: the kernel below writes all of it.
    let out = unsafe { view::fresh(x.shape(), x)? };
    let out_region = Region::of(&out)?;
    view::with_rows([x, weight], |[rows, weight]| {
        let (dtype, [at, stride]) = (x.dtype(), Arg::rows(rows));
        let wide = view::aligned(dtype, &[rows, weight]) && out_region.aligned();
        let threads = threads_for(rows.width(), view::lanes(dtype), wide)?;
        let args = [
            at,
            stride,
            Arg::Region(weight.region().holding(dtype, rows.width())?),
            Arg::Region(out_region.holding(dtype, rows.elements())?),
            Arg::Int(rows.width() as i32),
            Arg::Float(eps as f32),
        ];
        // SAFETY: a block processes one row of `x` and of `out`, with `width` elements like the weight. Accesses of 16
        // bytes are used only if all are aligned for it. All have the same format.
        unsafe { gpu.launch(RMS_NORM.module, RMS_NORM.pick(dtype, wide)?, Grid::rows(rows.count(), threads), &args) }
    })?;
    Ok(out)
}

/// The VAE's norm over the channels, followed by SiLU if `activate`.
pub fn rms_normalize(x: &Tensor, gamma: &Tensor, activate: bool) -> Result<Tensor> {
    const THREADS: usize = 256;
    let gpu = Gpu::of(x)?;
    // SAFETY: the kernel below writes all of it.
    let out = unsafe { view::fresh(x.shape(), x)? };
    let out_region = Region::of(&out)?;
    view::with_rows([x, gamma], |[rows, gamma]| {
        let (dtype, [at, stride]) = (x.dtype(), Arg::rows(rows));
        let wide = view::aligned(dtype, &[rows, gamma]) && out_region.aligned();
        // A thread holds at most 32 elements.
        let lanes = if wide { rows.width().div_ceil(32).next_power_of_two() } else { 32 };
        if lanes > 32 || rows.width() > MOST_CHANNELS {
            bail!("{} channels; the kernel takes up to {MOST_CHANNELS}", rows.width());
        }
        let args = [
            at,
            stride,
            Arg::Region(gamma.region().holding(dtype, rows.width())?),
            Arg::Region(out_region.holding(dtype, rows.elements())?),
            Arg::Long(rows.count() as i64),
            Arg::Int(rows.width() as i32),
            Arg::Int(i32::from(activate)),
            Arg::Int(lanes as i32),
        ];
        let grid = Grid::rows((rows.count() * lanes).div_ceil(THREADS), THREADS);
        // SAFETY: a group of `lanes` threads processes one row of `x` and of `out`, with `width` elements like gamma;
        // groups beyond the last row do nothing. Accesses of 16 bytes are used only if all are aligned for it. All have
        // the same format.
        unsafe { gpu.launch(RMS_NORMALIZE.module, RMS_NORMALIZE.pick(dtype, wide)?, grid, &args) }
    })?;
    Ok(out)
}
