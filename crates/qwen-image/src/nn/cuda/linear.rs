//! Linear layers, with the stored weights or with fp8 weights that have a scale per row.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::{
    Gpu,
    kernels::{Arg, Grid},
    matmul::{Epilogue, Operands, Product, Side},
    view::{self, DeviceRows, Region},
};

/// A layer's tensors.
#[derive(Clone, Copy)]
pub struct LinearOperands<'a> {
    /// `(out, in)`.
    pub weight: &'a Tensor,
    /// `(out)`, float32; only with an fp8 weight.
    pub scales: Option<&'a Tensor>,
    pub bias: Option<&'a Tensor>,
    /// Whether GELU (tanh) follows the bias.
    pub gelu: bool,
}

/// `x W^T`, then bias and GELU: `x` `(..., in)` -> `(..., out)`.
pub fn linear(x: &Tensor, layer: LinearOperands<'_>) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = layer.weight.dim(0)?;
    }
    // SAFETY: the product writes all of it; if it fails, it is dropped unread.
    let out = unsafe { view::fresh(dims, x)? };
    linear_into(x, layer, &out)?;
    Ok(out)
}

/// Like [`linear`], into the rows of `out`, which may be part of a wider tensor.
pub fn linear_into(x: &Tensor, layer: LinearOperands<'_>, out: &Tensor) -> Result<()> {
    let (columns, inner) = layer.weight.dims2()?;
    let epilogue = match (layer.bias, layer.gelu) {
        (None, false) => Epilogue::None,
        (Some(_), false) => Epilogue::Bias,
        (Some(_), true) => Epilogue::BiasGelu,
        (None, true) => bail!("GELU comes with a bias"),
    };
    let gpu = Gpu::of(x)?;
    let weight = layer.weight.contiguous()?;
    view::with_rows([x], |[x_rows]| {
        let Some(out_rows) = DeviceRows::view(out)? else { bail!("a product into {:?}", out.layout()) };
        if x_rows.width() != inner || out_rows.width() != columns || out_rows.count() != x_rows.count() {
            bail!("a layer {:?} from {:?} to {:?}", weight.shape(), x.shape(), out.shape());
        }
        if layer.scales.is_none() && x.dtype() != weight.dtype() {
            bail!("a layer of {:?} from {:?}", weight.dtype(), x.dtype());
        }
        let side = |row: usize| Side { dtype: weight.dtype(), row, batch: 0 };
        let mut product = Product {
            rows: x_rows.count(),
            columns,
            inner,
            batches: 1,
            left: side(x_rows.stride()),
            right: side(inner),
            out: Side { dtype: out.dtype(), row: out_rows.stride(), batch: 0 },
            transposed: true,
            epilogue,
            scaled: false,
        };
        let mut operands = Operands::plain(x_rows.region(), Region::of(&weight)?, out_rows.region());
        operands.bias = layer.bias.map(Region::of).transpose()?;
        let Some(scales) = layer.scales else { return gpu.multiply(&product, operands) };
        let (small, small_scales) = quantize_rows(x, x_rows)?;
        product.left = side(inner);
        product.scaled = true;
        let scales = [Region::of(&small_scales)?, Region::of(scales)?];
        let operands = Operands { left: Region::of(&small)?, scales: Some(scales), ..operands };
        if gpu.try_multiply(&product, operands)? {
            return Ok(());
        }
        unscaled(&gpu, product, operands, scales)
    })
}

/// An fp8 product with scales, bias and GELU in a separate pass, for shapes for which the library does not support
/// scales.
fn unscaled(gpu: &Gpu, product: Product, operands: Operands<'_>, scales: [Region<'_>; 2]) -> Result<()> {
    let Product { rows, columns, out, .. } = product;
    let Operands { bias, out: out_region, .. } = operands;
    // SAFETY: the product writes all of it before the kernel below reads it.
    let plain = unsafe { Tensor::empty((rows, columns), DType::F32, &Device::Cuda(gpu.device.clone()))? };
    let plain_region = Region::of(&plain)?;
    let side = Side { dtype: DType::F32, row: columns, batch: 0 };
    let plain_product = Product { out: side, epilogue: Epilogue::None, scaled: false, ..product };
    gpu.multiply(&plain_product, Operands { out: plain_region, ..operands })?;
    let bias = match bias {
        Some(bias) if product.epilogue != Epilogue::None => Arg::Region(bias.holding(DType::BF16, columns)?),
        _ => Arg::Null,
    };
    let [row_scales, column_scales] = scales;
    let args = [
        Arg::Region(plain_region),
        Arg::Region(row_scales.holding(DType::F32, rows)?),
        Arg::Region(column_scales.holding(DType::F32, columns)?),
        bias,
        Arg::Region(out_region.holding(DType::BF16, rows.saturating_sub(1) * out.row + columns)?),
        Arg::Long(out.row as i64),
        Arg::Int(columns as i32),
        Arg::Int(i32::from(product.epilogue == Epilogue::BiasGelu)),
    ];
    // SAFETY: a block processes one of `rows` rows; its threads access its `columns` elements one by one. The sizes of
    // all regions were checked above, and `plain` was allocated with this size.
    unsafe { gpu.launch("fp8", "scale_rows_bf16", Grid::rows(rows, 256), &args) }
}

/// A weight in fp8, and the scale of each row.
pub fn quantize(weight: &Tensor) -> Result<(Tensor, Tensor)> {
    super::check_fp8(weight.device())?;
    view::with_rows([weight], |[rows]| quantize_rows(weight, rows))
}

/// Whether a layer's sizes support fp8.
pub fn quantizable(weight: &Tensor) -> bool {
    weight.dtype() == DType::BF16 && weight.dims2().is_ok_and(super::multiplies_in_fp8)
}

fn quantize_rows(x: &Tensor, rows: DeviceRows<'_>) -> Result<(Tensor, Tensor)> {
    if x.dtype() != DType::BF16 || !view::aligned(x.dtype(), &[rows]) || rows.width() > 32 * 1024 {
        bail!("rows of {} {:?} cannot be quantized to 8 bits", rows.width(), x.dtype());
    }
    // SAFETY: the kernel below writes all of both tensors.
    let (out, scales) = unsafe {
        (
            Tensor::empty((rows.count(), rows.width()), DType::F8E4M3, x.device())?,
            Tensor::empty(rows.count(), DType::F32, x.device())?,
        )
    };
    let [at, stride] = Arg::rows(rows);
    let args =
        [at, stride, Arg::Region(Region::of(&out)?), Arg::Region(Region::of(&scales)?), Arg::Int(rows.width() as i32)];
    let threads = rows.width().div_ceil(32).next_multiple_of(32);
    // SAFETY: a block processes one bfloat16 row of `width` elements, with accesses of 16 bytes, for which the
    // alignment was checked above. `out` has as many elements, at addresses that allow accesses of 8 bytes, and
    // `scales` has one element per row.
    unsafe { Gpu::of(x)?.launch("fp8", "quantize_rows_bf16", Grid::rows(rows.count(), threads), &args)? };
    Ok((out, scales))
}
