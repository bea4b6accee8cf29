//! Weights in blocks or in fp8 to the number format of a product, with `kernels/dequantize.cu`.

use candle_core::{DType, Device, Result, Tensor, bail, quantized::GgmlDType};

use super::{
    Gpu,
    kernels::{Arg, Grid},
    view::Region,
};

const THREADS: usize = 256;
/// How many elements a thread makes.
const LANES: usize = 8;

/// The kernels of a format: to bfloat16, to float32, and to fp8 rows with scales.
macro_rules! kernels {
    ($($format:ident => $name:literal),+) => {
        fn kernels(format: GgmlDType) -> Result<[&'static str; 3]> {
            Ok(match format {
                $(GgmlDType::$format => [
                    concat!("dequantize_", $name, "_bf16"),
                    concat!("dequantize_", $name, "_f32"),
                    concat!("dequantize_", $name, "_fp8"),
                ],)+
                GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => bail!("{format:?} has no blocks"),
            })
        }
    };
}

kernels!(
    Q4_0 => "Q4_0", Q4_1 => "Q4_1", Q5_0 => "Q5_0", Q5_1 => "Q5_1", Q8_0 => "Q8_0", Q8_1 => "Q8_1",
    Q2K => "Q2_K", Q3K => "Q3_K", Q4K => "Q4_K", Q5K => "Q5_K", Q6K => "Q6_K", Q8K => "Q8_K"
);

/// Blocks of a matrix `(out, in)`, which may cross rows.
pub fn dequantize(blocks: &Tensor, format: GgmlDType, (rows, width): (usize, usize), dtype: DType) -> Result<Tensor> {
    let count = rows * width;
    let from = Region::of(blocks)?.holding(DType::U8, bytes(format, count)?)?;
    let [bf16, f32, _] = kernels(format)?;
    let name = match dtype {
        DType::BF16 => bf16,
        DType::F32 => f32,
        _ => bail!("weights cannot be dequantized to {dtype:?} on a GPU"),
    };
    // SAFETY: the kernel below writes all of it.
    let out = unsafe { Tensor::empty((rows, width), dtype, blocks.device())? };
    let args = [Arg::Region(from), Arg::Region(Region::of(&out)?), Arg::Long(count as i64)];
    let grid = Grid { blocks: (count.div_ceil(LANES * THREADS), 1), threads: THREADS, shared: 0 };
    // SAFETY: each thread makes 8 of `count` elements, which `bytes` checked to be a whole number of blocks, each a
    // multiple of 8 elements. `from` holds their blocks, at an even address, because sizes of blocks are even and
    // allocations and their parts are aligned. `out` is a fresh allocation, so accesses of 16 bytes are aligned.
    unsafe { Gpu::of(blocks)?.launch("dequantize", name, grid, &args)? };
    Ok(out)
}

/// The same to fp8, with a scale per row.
pub fn dequantize_to_fp8(
    blocks: &Tensor,
    format: GgmlDType,
    (rows, width): (usize, usize),
) -> Result<(Tensor, Tensor)> {
    let from = Region::of(blocks)?.holding(DType::U8, bytes(format, rows * width)?)?;
    if !width.is_multiple_of(LANES) || width > 32 * 1024 {
        bail!("rows of {width} in {format:?} cannot be rounded to fp8");
    }
    // SAFETY: the kernel below writes all of both tensors.
    let (out, scales) = unsafe {
        (
            Tensor::empty((rows, width), DType::F8E4M3, blocks.device())?,
            Tensor::empty(rows, DType::F32, blocks.device())?,
        )
    };
    let args =
        [Arg::Region(from), Arg::Region(Region::of(&out)?), Arg::Region(Region::of(&scales)?), Arg::Int(width as i32)];
    let threads = width.div_ceil(4 * LANES).next_multiple_of(32);
    // SAFETY: a block makes one of `rows` rows of `width` elements, a multiple of 8, with at most four vectors of 8 for
    // each thread. `from` holds the blocks of all rows, see `dequantize`; `out` has as many elements, at addresses that
    // allow accesses of 8 bytes, and `scales` has one element per row.
    unsafe { Gpu::of(blocks)?.launch("dequantize", kernels(format)?[2], Grid::rows(rows, threads), &args)? };
    Ok((out, scales))
}

/// Fp8 rows `(out, in)` times their scales `(out)`.
pub fn widen_fp8(rows: &Tensor, scales: &Tensor, dtype: DType) -> Result<Tensor> {
    let (count, width) = rows.dims2()?;
    let (rows, scales) = (rows.contiguous()?, scales.contiguous()?);
    let from = Region::of(&rows)?.holding(DType::F8E4M3, count * width)?;
    let name = match dtype {
        DType::BF16 => "widen_rows_bf16",
        DType::F32 => "widen_rows_f32",
        _ => bail!("fp8 weights cannot be widened to {dtype:?} on a GPU"),
    };
    if !width.is_multiple_of(16) || !from.aligned() {
        // Rare: only odd sizes, which no published model has.
        let numbers = rows.to_dtype(DType::F32)?.broadcast_mul(&scales.reshape((count, 1))?)?;
        return numbers.to_dtype(dtype);
    }
    // SAFETY: the kernel below writes all of it.
    let out = unsafe { Tensor::empty((count, width), dtype, rows.device())? };
    let args = [
        Arg::Region(from),
        Arg::Region(Region::of(&scales)?.holding(DType::F32, count)?),
        Arg::Region(Region::of(&out)?),
        Arg::Int(width as i32),
    ];
    let threads = width.div_ceil(LANES).next_multiple_of(32).min(THREADS);
    // SAFETY: a block makes one of `count` rows of `width` elements, a multiple of 16, so that accesses of 8 bytes of
    // `rows`, whose start was checked, and of 16 bytes of `out` are aligned. All sizes were checked above.
    unsafe { Gpu::of(&rows)?.launch("dequantize", name, Grid::rows(count, threads), &args)? };
    Ok(out)
}

/// Fails on a GPU without products in fp8.
pub fn check_fp8(device: &Device) -> Result<()> {
    let context = device.as_cuda_device()?.cuda_stream().context().clone();
    let (major, minor) = context.compute_capability().map_err(candle_core::Error::wrap)?;
    if (major, minor) < (8, 9) {
        bail!(
            "fp8 needs a GPU of compute capability 8.9 (RTX 40, L4, H100 or newer), and this one has {major}.{minor}"
        );
    }
    Ok(())
}

/// Whether a matrix `(out, in)` has sizes that products in fp8 take.
pub fn multiplies_in_fp8((rows, width): (usize, usize)) -> bool {
    rows.is_multiple_of(16) && width.is_multiple_of(16)
}

/// The size of `count` elements in blocks.
fn bytes(format: GgmlDType, count: usize) -> Result<usize> {
    if !count.is_multiple_of(format.block_size()) {
        bail!("{count} elements are not a whole number of {format:?} blocks");
    }
    Ok(count / format.block_size() * format.type_size())
}
