//! `kernels/pointwise.cu`, and the rotation of halves from `kernels/rope.cu`.

use candle_core::{Result, Tensor, bail};

use super::{
    Gpu,
    kernels::{Arg, Grid, Names, names},
    view,
};

const SWIGLU: Names = names!("pointwise", "swiglu");
const ADD_BIAS: Names = names!("pointwise", "add_bias");
const UPSAMPLE: Names = names!("pointwise", "upsample");
const THREADS: usize = 256;

/// `silu(gate) * up`, both of the same shape.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let gpu = Gpu::of(gate)?;
    let out = view::fresh(gate.shape(), gate)?;
    let out_address = view::address(&out)?;
    view::with_rows([gate, up], |[gate_rows, up_rows]| {
        if (gate_rows.count, gate_rows.width) != (up_rows.count, up_rows.width) {
            bail!("a gate {:?} for {:?}", gate.shape(), up.shape());
        }
        let wide = view::aligned(gate.dtype(), &[gate_rows, up_rows]);
        let args = [
            Arg::Address(gate_rows.address),
            Arg::Long(gate_rows.stride as i64),
            Arg::Address(up_rows.address),
            Arg::Long(up_rows.stride as i64),
            Arg::Address(out_address),
            Arg::Int(gate_rows.width as i32),
        ];
        gpu.launch(SWIGLU.module, SWIGLU.pick(gate.dtype(), wide), Grid::rows(gate_rows.count, THREADS), &args)
    })?;
    Ok(out)
}

/// `x + bias` over the last dimension, `+ residual` where there is one, in the memory of `x`, which nobody else holds.
pub fn add_bias(x: Tensor, bias: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
    let gpu = Gpu::of(&x)?;
    let width = bias.dim(0)?;
    let residual = residual.map(|residual| residual.contiguous()).transpose()?;
    if !x.is_contiguous() || residual.as_ref().is_some_and(|residual| residual.dims() != x.dims()) {
        bail!("a bias and a residual {:?} for {:?}", residual.map(|r| r.shape().clone()), x.layout());
    }
    let total = x.elem_count();
    let lanes = view::lanes(x.dtype());
    let addresses = [view::address(&x)?, view::address(bias)?, residual.as_ref().map_or(Ok(0), view::address)?];
    let wide = width.is_multiple_of(lanes) && addresses.iter().all(|address| address.is_multiple_of(16));
    let [x_address, bias, residual] = addresses.map(Arg::Address);
    let args = [x_address, bias, residual, x_address, Arg::Long(total as i64), Arg::Int(width as i32)];
    let grid = Grid::rows(total.div_ceil(THREADS * if wide { lanes } else { 1 }), THREADS);
    gpu.launch(ADD_BIAS.module, ADD_BIAS.pick(x.dtype(), wide), grid, &args)?;
    Ok(x)
}

/// Every pixel four times: `(n, h, w, c)` -> `(n, 2h, 2w, c)`.
pub fn upsample_nearest_2x(x: &Tensor) -> Result<Tensor> {
    let gpu = Gpu::of(x)?;
    let x = x.contiguous()?;
    let (n, h, w, c) = x.dims4()?;
    let out = view::fresh((n, 2 * h, 2 * w, c), &x)?;
    let lanes = view::lanes(x.dtype());
    let wide = c.is_multiple_of(lanes) && view::address(&x)?.is_multiple_of(16);
    let args = [
        Arg::Address(view::address(&x)?),
        Arg::Address(view::address(&out)?),
        Arg::Long((4 * n * h * w) as i64),
        Arg::Int(h as i32),
        Arg::Int(w as i32),
        Arg::Int(c as i32),
    ];
    let grid = Grid::rows(out.elem_count().div_ceil(THREADS * if wide { lanes } else { 1 }), THREADS);
    gpu.launch(UPSAMPLE.module, UPSAMPLE.pick(x.dtype(), wide), grid, &args)?;
    Ok(out)
}

/// Rotation of the first half of each head against the second: `x` `(1, s, heads, d)`, the tables `(s, d)`.
pub fn rotate_half(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let gpu = Gpu::of(x)?;
    let (b, s, heads, head) = x.dims4()?;
    let (cos, sin) = (cos.contiguous()?, sin.contiguous()?);
    if b != 1 || cos.dims() != [s, head] || sin.dims() != cos.dims() {
        bail!("a rotation {:?} of {:?}", cos.shape(), x.shape());
    }
    let out = view::fresh(x.shape(), x)?;
    let strides = x.stride();
    let x = if strides[3] == 1 && strides[2] == head { x.clone() } else { x.contiguous()? };
    let args = [
        Arg::Address(view::address(&x)?),
        Arg::Long(x.stride()[1] as i64),
        Arg::Address(view::address(&cos)?),
        Arg::Address(view::address(&sin)?),
        Arg::Address(view::address(&out)?),
        Arg::Int(heads as i32),
        Arg::Int(head as i32),
    ];
    let name = names!("rope", "rotate_half").pick(x.dtype(), false);
    gpu.launch("rope", name, Grid::rows(s, THREADS), &args)?;
    Ok(out)
}
