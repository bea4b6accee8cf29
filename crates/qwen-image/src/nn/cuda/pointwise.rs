//! Pointwise functions, with `kernels/pointwise.cu`, and the rotation of halves, with `kernels/rope.cu`.

use candle_core::{DType, Result, Tensor, bail};

use super::{
    Gpu,
    kernels::{Arg, Grid, KernelNames, names},
    view::{self, Region},
};

const SWIGLU: KernelNames = names!("pointwise", "swiglu");
const ADD_BIAS: KernelNames = names!("pointwise", "add_bias");
const UPSAMPLE: KernelNames = names!("pointwise", "upsample");
const THREADS: usize = 256;

/// `silu(gate) * up`, both of the same shape.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let gpu = Gpu::of(gate)?;
    // SAFETY: the kernel below writes all of it.
    let out = unsafe { view::fresh(gate.shape(), gate)? };
    let out_region = Region::of(&out)?;
    view::with_rows([gate, up], |[gate_rows, up_rows]| {
        let (dtype, count, width) = (gate.dtype(), gate_rows.count(), gate_rows.width());
        if (count, width) != (up_rows.count(), up_rows.width()) {
            bail!("a gate {:?} for {:?}", gate.shape(), up.shape());
        }
        let wide = view::aligned(dtype, &[gate_rows, up_rows]) && out_region.aligned();
        let ([gate, gate_stride], [up, up_stride]) = (Arg::rows(gate_rows), Arg::rows(up_rows));
        let out = Arg::Region(out_region.holding(dtype, gate_rows.elements())?);
        let args = [gate, gate_stride, up, up_stride, out, Arg::Int(width as i32)];
        // SAFETY: a block processes one row of `width` elements; gate, up and `out` have `count` such rows in the same
        // format. Accesses of 16 bytes are used only if all are aligned for it.
        unsafe { gpu.launch(SWIGLU.module, SWIGLU.pick(dtype, wide)?, Grid::rows(count, THREADS), &args) }
    })?;
    Ok(out)
}

/// `x + bias` over the last dimension, plus the residual if there is one, written into the memory of `x`, which must
/// not be shared.
pub fn add_bias(x: Tensor, bias: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
    let gpu = Gpu::of(&x)?;
    let (dtype, total, width) = (x.dtype(), x.elem_count(), bias.dim(0)?);
    let residual = residual.map(|residual| residual.contiguous()).transpose()?;
    if !x.is_contiguous()
        || x.dims().last() != Some(&width)
        || residual.as_ref().is_some_and(|residual| residual.dims() != x.dims())
    {
        bail!("a bias of {width} and a residual {:?} for {:?}", residual.map(|r| r.shape().clone()), x.layout());
    }
    let x_region = Region::of(&x)?.holding(dtype, total)?;
    let bias = Region::of(bias)?.holding(dtype, width)?;
    let residual = match &residual {
        Some(residual) => Some(Region::of(residual)?.holding(dtype, total)?),
        None => None,
    };
    let lanes = view::lanes(dtype);
    let wide = width.is_multiple_of(lanes) && [x_region, bias].into_iter().chain(residual).all(Region::aligned);
    let args = [
        Arg::Region(x_region),
        Arg::Region(bias),
        residual.map_or(Arg::Null, Arg::Region),
        Arg::Region(x_region),
        Arg::Long(total as i64),
        Arg::Int(width as i32),
    ];
    let grid = Grid::rows(total.div_ceil(THREADS * if wide { lanes } else { 1 }), THREADS);
    // SAFETY: a thread makes one access within `total` elements, or does nothing. `x` and the residual have `total`
    // elements; the bias has `width`, and is indexed modulo `width`. Accesses of 16 bytes are used only if all are
    // aligned for it, and then none crosses the end of a row. All have the same format, and the kernel may write to
    // `x`.
    unsafe { gpu.launch(ADD_BIAS.module, ADD_BIAS.pick(dtype, wide)?, grid, &args)? };
    Ok(x)
}

/// Repeats every pixel four times: `(n, h, w, c)` -> `(n, 2h, 2w, c)`.
pub fn upsample_nearest_2x(x: &Tensor) -> Result<Tensor> {
    let gpu = Gpu::of(x)?;
    let x = x.contiguous()?;
    let (n, h, w, c) = x.dims4()?;
    // SAFETY: the kernel below writes all of it.
    let out = unsafe { view::fresh((n, 2 * h, 2 * w, c), &x)? };
    let (from, to) = (Region::of(&x)?, Region::of(&out)?);
    let lanes = view::lanes(x.dtype());
    let wide = c.is_multiple_of(lanes) && from.aligned() && to.aligned();
    let args = [
        Arg::Region(from),
        Arg::Region(to),
        Arg::Long((4 * n * h * w) as i64),
        Arg::Int(h as i32),
        Arg::Int(w as i32),
        Arg::Int(c as i32),
    ];
    let grid = Grid::rows(out.elem_count().div_ceil(THREADS * if wide { lanes } else { 1 }), THREADS);
    // SAFETY: a thread makes one access to the output, or does nothing. It reads the pixel at half its row and column,
    // which is one of the `n h w` pixels of `x`, which is contiguous. Accesses of 16 bytes are used only if both are
    // aligned for it, and then each stays inside a pixel.
    unsafe { gpu.launch(UPSAMPLE.module, UPSAMPLE.pick(x.dtype(), wide)?, grid, &args)? };
    Ok(out)
}

/// Rotates the first half of each head against the second: `x` is `(1, s, heads, d)`, the tables are `(s, d)`.
pub fn rotate_half(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let gpu = Gpu::of(x)?;
    let (b, s, heads, head) = x.dims4()?;
    let (cos, sin) = (cos.contiguous()?, sin.contiguous()?);
    if b != 1 || !head.is_multiple_of(2) || cos.dims() != [s, head] || sin.dims() != cos.dims() {
        bail!("a rotation {:?} of {:?}", cos.shape(), x.shape());
    }
    // SAFETY: the kernel below writes all of it: both halves of every head of every token.
    let out = unsafe { view::fresh(x.shape(), x)? };
    let strides = x.stride();
    let x = if strides[3] == 1 && strides[2] == head { x.clone() } else { x.contiguous()? };
    let args = [
        Arg::Region(Region::of(&x)?),
        Arg::Long(x.stride()[1] as i64),
        Arg::Region(Region::of(&cos)?.holding(DType::F32, s * head)?),
        Arg::Region(Region::of(&sin)?.holding(DType::F32, s * head)?),
        Arg::Region(Region::of(&out)?),
        Arg::Int(heads as i32),
        Arg::Int(head as i32),
    ];
    let name = names!("rope", "rotate_half").pick(x.dtype(), false)?;
    // SAFETY: a block processes one token; its threads access `heads * head` elements one by one. They are contiguous
    // in `x`, whose layout has the distance between tokens, and in `out`, which has its shape and format. Each table
    // has a row of `head` elements for each of the `s` tokens.
    unsafe { gpu.launch("rope", name, Grid::rows(s, THREADS), &args)? };
    Ok(out)
}
