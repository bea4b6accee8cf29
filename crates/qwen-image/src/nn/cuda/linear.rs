//! Linear layers: weights as they are stored, or in eight bits with a scale for each of their rows.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::{
    Gpu,
    kernels::{Arg, Grid},
    matmul::{Epilogue, Operands, Product, Side},
    view::{self, Region, Rows},
};

/// A layer's tensors.
#[derive(Clone, Copy)]
pub struct Layer<'a> {
    /// `(out, in)`.
    pub weight: &'a Tensor,
    /// `(out)`, float32, beside a weight in eight bits.
    pub scales: Option<&'a Tensor>,
    pub bias: Option<&'a Tensor>,
    /// With GELU (tanh) behind the bias.
    pub gelu: bool,
}

/// `x W^T`, then bias and GELU: `x` `(..., in)` -> `(..., out)`.
pub fn linear(x: &Tensor, layer: Layer<'_>) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = layer.weight.dim(0)?;
    }
    // SAFETY: the product writes all of it; where it fails, it is dropped unread.
    let out = unsafe { view::fresh(dims, x)? };
    linear_into(x, layer, &out)?;
    Ok(out)
}

/// The same, into the rows of `out`, which may be part of something wider.
pub fn linear_into(x: &Tensor, layer: Layer<'_>, out: &Tensor) -> Result<()> {
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
        let Some(out_rows) = Rows::view(out)? else { bail!("a product into {:?}", out.layout()) };
        if x_rows.width != inner || out_rows.width != columns || out_rows.count != x_rows.count {
            bail!("a layer {:?} from {:?} to {:?}", weight.shape(), x.shape(), out.shape());
        }
        if layer.scales.is_none() && x.dtype() != weight.dtype() {
            bail!("a layer of {:?} from {:?}", weight.dtype(), x.dtype());
        }
        let side = |row: usize| Side { dtype: weight.dtype(), row, batch: 0 };
        let mut product = Product {
            rows: x_rows.count,
            columns,
            inner,
            batches: 1,
            left: side(x_rows.stride),
            right: side(inner),
            out: Side { dtype: out.dtype(), row: out_rows.stride, batch: 0 },
            transposed: true,
            epilogue,
            scaled: false,
        };
        let mut operands = Operands::plain(x_rows.region, Region::of(&weight)?, out_rows.region);
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

/// A product in eight bits whose scales, bias and GELU are a pass of their own, for the shapes that the library does
/// not scale.
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
    // SAFETY: a block has one of the `rows`, of which its threads take `columns` elements one by one. All regions were
    // sized for that above, `plain` when it was made.
    unsafe { gpu.launch("fp8", "scale_rows_bf16", Grid::rows(rows, 256), &args) }
}

/// A weight in eight bits, and the scale of each row.
pub fn quantize(weight: &Tensor) -> Result<(Tensor, Tensor)> {
    let gpu = Gpu::of(weight)?;
    let (major, minor) = gpu.stream.context().compute_capability().map_err(candle_core::Error::wrap)?;
    if (major, minor) < (8, 9) {
        bail!(
            "fp8 needs a GPU of compute capability 8.9 (RTX 40, L4, H100 or newer), and this one has {major}.{minor}"
        );
    }
    view::with_rows([weight], |[rows]| quantize_rows(weight, rows))
}

/// Whether a layer's sizes suit eight bits.
pub fn quantizable(weight: &Tensor) -> bool {
    weight.dtype() == DType::BF16 && weight.dims().iter().all(|dim| dim.is_multiple_of(16))
}

fn quantize_rows(x: &Tensor, rows: Rows<'_>) -> Result<(Tensor, Tensor)> {
    if x.dtype() != DType::BF16 || !view::aligned(x.dtype(), &[rows]) || rows.width > 32 * 1024 {
        bail!("rows of {} {:?} cannot be quantized to 8 bits", rows.width, x.dtype());
    }
    // SAFETY: the kernel below writes all of both.
    let (out, scales) = unsafe {
        (
            Tensor::empty((rows.count, rows.width), DType::F8E4M3, x.device())?,
            Tensor::empty(rows.count, DType::F32, x.device())?,
        )
    };
    let [at, stride] = Arg::rows(rows);
    let args =
        [at, stride, Arg::Region(Region::of(&out)?), Arg::Region(Region::of(&scales)?), Arg::Int(rows.width as i32)];
    let threads = rows.width.div_ceil(32).next_multiple_of(32);
    // SAFETY: a block has one of the rows, in bfloat16, of which its threads take `width` elements, 16 bytes at a time
    // as was checked above; `out` has as many, whose addresses allow 8 bytes at a time, and `scales` one for each row.
    unsafe { Gpu::of(x)?.launch("fp8", "quantize_rows_bf16", Grid::rows(rows.count, threads), &args)? };
    Ok((out, scales))
}
