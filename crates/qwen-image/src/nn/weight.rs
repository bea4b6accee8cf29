//! The weight of a linear layer in every form that checkpoints have, and its low-rank changes.
//!
//! Code that moves weights (offload, block swap, host copies) sees a weight as tensors: of numbers, of fp8 rows and
//! their scales, or of bytes. It never needs to know the form.

use std::borrow::Cow;

use candle_core::{
    CpuStorage, D, DType, Device, Result, Storage, Tensor, bail,
    quantized::{GgmlDType, QStorage, QTensor},
};
use rayon::prelude::*;

use super::{cpu, float8, tensors_of, weights_buffer::Tensors};

/// A matrix `(out, in)` as a checkpoint stores it.
#[derive(Debug, Clone)]
pub enum Weight {
    /// One number per element: `(in, out)` for the CPU kernel, which products read directly; `(out, in)` elsewhere.
    Dense(Tensor),
    /// fp8 numbers (e4m3) `(out, in)`, and the scale `(out)` of each row.
    Fp8 {
        /// The numbers.
        rows: Tensor,
        /// The scales, in float32.
        scales: Tensor,
    },
    /// Blocks of a GGUF format.
    Quantized(QuantizedWeight),
    /// Matrices in several forms, one below the other: files mix formats even inside of a block.
    Mixed(Vec<Weight>),
}

/// A matrix in blocks with shared scales, row after row.
#[derive(Debug, Clone)]
pub struct QuantizedWeight {
    /// The blocks as in the file, `(bytes)`.
    blocks: Tensor,
    format: GgmlDType,
    out_features: usize,
    in_features: usize,
}

impl Weight {
    /// From a matrix `(out, in)`.
    pub fn dense(weight: &Tensor) -> Result<Self> {
        let weight = if cpu::is_cpu_f32(weight) { weight.t()?.contiguous()? } else { weight.clone() };
        Ok(Self::Dense(weight))
    }

    /// The number of outputs, which are the rows of the matrix.
    pub fn out_features(&self) -> Result<usize> {
        Ok(self.shape()?.0)
    }

    /// `(out, in)`.
    pub fn shape(&self) -> Result<(usize, usize)> {
        match self {
            Self::Dense(weight) if cpu::is_cpu_f32(weight) => weight.dims2().map(|(width, rows)| (rows, width)),
            Self::Dense(weight) | Self::Fp8 { rows: weight, .. } => weight.dims2(),
            Self::Quantized(weight) => Ok(weight.shape()),
            Self::Mixed(parts) => {
                let mut all = (0, 0);
                for part in parts {
                    let (rows, width) = part.shape()?;
                    all = (all.0 + rows, width);
                }
                Ok(all)
            }
        }
    }

    /// Concatenates matrices along their outputs.
    ///
    /// # Errors
    /// If their widths differ.
    pub fn stacked(weights: &[&Self]) -> Result<Self> {
        let Some(first) = weights.first() else { bail!("no weights to stack") };
        let width = first.shape()?.1;
        for weight in weights {
            if weight.shape()?.1 != width {
                bail!("a weight of {:?} beside {:?}", weight.shape()?, first.shape()?);
            }
        }
        let dense: Option<Vec<_>> =
            weights.iter().map(|weight| if let Self::Dense(weight) = weight { Some(weight) } else { None }).collect();
        if let Some(dense) = dense {
            return Tensor::cat(&dense, usize::from(cpu::is_cpu_f32(dense[0]))).map(Self::Dense);
        }
        let fp8: Option<Vec<_>> = weights
            .iter()
            .map(|weight| if let Self::Fp8 { rows, scales } = weight { Some((rows, scales)) } else { None })
            .collect();
        if let Some(fp8) = fp8 {
            let (rows, scales): (Vec<_>, Vec<_>) = fp8.into_iter().unzip();
            return Ok(Self::Fp8 { rows: Tensor::cat(&rows, 0)?, scales: Tensor::cat(&scales, 0)? });
        }
        if let Self::Quantized(first) = first
            && let Some(blocks) = first.stacked(weights)?
        {
            return Ok(Self::Quantized(blocks));
        }
        Ok(Self::Mixed(weights.iter().map(|weight| (*weight).clone()).collect()))
    }
}

impl Weight {
    /// fp8 numbers `(out, in)` that all have one scale, or one per row `(out)`.
    ///
    /// # Errors
    /// If the numbers of scales and rows do not match.
    pub fn fp8(rows: Tensor, scales: &Tensor) -> Result<Self> {
        let count = rows.dim(0)?;
        let scales = scales.flatten_all()?.to_dtype(DType::F32)?;
        let scales = match scales.elem_count() {
            1 => scales.broadcast_as(count)?.contiguous()?,
            found if found == count => scales,
            found => bail!("{found} scales for {count} rows"),
        };
        Ok(Self::Fp8 { rows, scales })
    }

    /// A dense weight in fp8 with a scale per row; others stay as they are. Needs no GPU that multiplies fp8.
    pub fn rounded_to_fp8(self) -> Result<Self> {
        let Self::Dense(weight) = &self else { return Ok(self) };
        #[cfg(feature = "cuda")]
        if super::cuda::applies(weight)
            && super::cuda::quantizable(weight)
            && super::cuda::check_fp8(weight.device()).is_ok()
        {
            let (rows, scales) = super::cuda::quantize(weight)?;
            return Ok(Self::Fp8 { rows, scales });
        }
        let device = weight.device().clone();
        let matrix = self.dequantize(DType::F32)?.to_device(&Device::Cpu)?.contiguous()?;
        let (count, width) = matrix.dims2()?;
        let numbers = matrix.flatten_all()?.to_vec1::<f32>()?;
        let mut bits = vec![0_u8; numbers.len()];
        let mut scales = vec![0.0_f32; count];
        let rows = bits.par_chunks_mut(width.max(1)).zip(numbers.par_chunks(width.max(1)));
        rows.zip(&mut scales).for_each(|((bits, row), scale)| {
            let top = row.iter().fold(0.0_f32, |top, number| top.max(number.abs())).max(1e-12);
            *scale = top / float8::E4M3_MAX;
            bits.iter_mut().zip(row).for_each(|(bits, number)| *bits = float8::to_e4m3(number / *scale));
        });
        Ok(Self::Fp8 {
            rows: Tensor::from_raw_buffer(&bits, DType::F8E4M3, &[count, width], &device)?,
            scales: Tensor::from_vec(scales, count, &device)?,
        })
    }

    /// The matrix `(out, in)` in a number format, on the weight's device.
    ///
    /// # Errors
    /// On a GPU for formats other than bfloat16 and float32.
    pub fn dequantize(&self, dtype: DType) -> Result<Tensor> {
        match self {
            Self::Dense(weight) if cpu::is_cpu_f32(weight) => weight.t()?.to_dtype(dtype),
            Self::Dense(weight) => weight.to_dtype(dtype),
            Self::Fp8 { rows, scales } => {
                #[cfg(feature = "cuda")]
                if rows.device().is_cuda() {
                    return super::cuda::widen_fp8(rows, scales, dtype);
                }
                widen_fp8(rows, scales)?.to_dtype(dtype)
            }
            Self::Quantized(weight) => weight.dequantize(dtype),
            Self::Mixed(parts) => {
                let parts: Vec<_> = parts.iter().map(|part| part.dequantize(dtype)).collect::<Result<_>>()?;
                Tensor::cat(&parts, 0)
            }
        }
    }

    /// The matrix in fp8 and the scales of its rows, on a GPU that multiplies fp8.
    #[cfg(feature = "cuda")]
    pub(super) fn to_fp8(&self) -> Result<(Tensor, Tensor)> {
        match self {
            Self::Dense(weight) => super::cuda::quantize(weight),
            Self::Fp8 { rows, scales } => Ok((rows.clone(), scales.clone())),
            Self::Quantized(weight) => super::cuda::dequantize_to_fp8(&weight.blocks, weight.format, weight.shape()),
            Self::Mixed(parts) => {
                let parts: Vec<_> = parts.iter().map(Self::to_fp8).collect::<Result<_>>()?;
                let (rows, scales): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
                Ok((Tensor::cat(&rows, 0)?, Tensor::cat(&scales, 0)?))
            }
        }
    }

    #[cfg(feature = "cuda")]
    pub(super) fn device(&self) -> Option<&Device> {
        match self {
            Self::Dense(weight) | Self::Fp8 { rows: weight, .. } => Some(weight.device()),
            Self::Quantized(weight) => Some(weight.blocks.device()),
            Self::Mixed(parts) => parts.first()?.device(),
        }
    }
}

/// Fp8 rows times their scales, on the CPU.
fn widen_fp8(rows: &Tensor, scales: &Tensor) -> Result<Tensor> {
    let (count, width) = rows.dims2()?;
    let scales = scales.to_vec1::<f32>()?;
    let (storage, layout) = rows.storage_and_layout();
    let Storage::Cpu(CpuStorage::F8E4M3(numbers)) = &*storage else {
        bail!("fp8 weights on {:?}, in {:?}", rows.device(), rows.dtype())
    };
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("an fp8 weight with gaps") };
    let mut out = vec![0.0; count * width];
    let table = float8::table(float8::e4m3);
    out.par_chunks_mut(width.max(1)).zip(numbers[start..end].par_chunks(width.max(1))).zip(&scales).for_each(
        |((out, row), scale)| {
            for (out, number) in out.iter_mut().zip(row) {
                *out = table[usize::from(number.to_bits())] * scale;
            }
        },
    );
    Tensor::from_vec(out, (count, width), &Device::Cpu)
}

impl Tensors for Weight {
    fn tensors(&mut self, visit: &mut dyn FnMut(&mut Tensor) -> Result<()>) -> Result<()> {
        match self {
            Self::Dense(weight) => visit(weight),
            Self::Fp8 { rows, scales } => {
                visit(rows)?;
                visit(scales)
            }
            Self::Quantized(weight) => visit(&mut weight.blocks),
            Self::Mixed(parts) => parts.tensors(visit),
        }
    }
}

/// How many elements a task dequantizes: a multiple of every block size.
const PIECE: usize = 64 * 1024;

impl QuantizedWeight {
    /// From the blocks of a matrix `(out, in)` as in a file, `(bytes)`. Blocks may cross rows.
    ///
    /// # Errors
    /// If the matrix is not a whole number of blocks, or there are too few or too many bytes.
    pub fn new(blocks: Tensor, format: GgmlDType, (out_features, in_features): (usize, usize)) -> Result<Self> {
        let (block, elements) = (format.block_size(), out_features * in_features);
        if !elements.is_multiple_of(block) {
            bail!("{out_features}x{in_features} is not a whole number of {format:?} blocks of {block}");
        }
        let expected = elements / block * format.type_size();
        if blocks.dtype() != DType::U8 || blocks.elem_count() != expected {
            bail!(
                "{out_features}x{in_features} in {format:?} takes {expected} bytes, not {} of {:?}",
                blocks.elem_count(),
                blocks.dtype()
            );
        }
        Ok(Self { blocks, format, out_features, in_features })
    }

    /// `(out, in)`.
    pub fn shape(&self) -> (usize, usize) {
        (self.out_features, self.in_features)
    }

    /// The matrix `(out, in)` in a number format, on the weight's device.
    ///
    /// # Errors
    /// On a GPU for formats other than bfloat16 and float32.
    pub fn dequantize(&self, dtype: DType) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if self.blocks.device().is_cuda() {
            return super::cuda::dequantize(&self.blocks, self.format, self.shape(), dtype);
        }
        let mut out = vec![0.0; self.out_features * self.in_features];
        let pieces = self.with_bytes(|bytes| {
            let piece = PIECE / self.format.block_size() * self.format.type_size();
            out.par_chunks_mut(PIECE).zip(bytes.par_chunks(piece)).try_for_each(|(out, bytes)| {
                let blocks = cpu_blocks(bytes, self.format)?;
                let CpuStorage::F32(numbers) = blocks.dequantize(out.len())? else {
                    bail!("{:?} was not dequantized to float32", self.format)
                };
                out.copy_from_slice(&numbers);
                Ok(())
            })
        });
        pieces?;
        Tensor::from_vec(out, self.shape(), &Device::Cpu)?.to_dtype(dtype)
    }

    fn with_bytes<T>(&self, run: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        let (storage, layout) = self.blocks.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { bail!("blocks on {:?}", self.blocks.device()) };
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("blocks with gaps") };
        run(&storage.as_slice::<u8>()?[start..end])
    }

    /// None if a matrix has another format.
    fn stacked(&self, weights: &[&Weight]) -> Result<Option<Self>> {
        let mut blocks = Vec::with_capacity(weights.len());
        let mut out_features = 0;
        for weight in weights {
            let Weight::Quantized(weight) = weight else { return Ok(None) };
            if weight.format != self.format {
                return Ok(None);
            }
            blocks.push(&weight.blocks);
            out_features += weight.out_features;
        }
        Ok(Some(Self { blocks: Tensor::cat(&blocks, 0)?, out_features, ..*self }))
    }
}

/// Blocks as candle's kernels for the CPU take them.
fn cpu_blocks(bytes: &[u8], format: GgmlDType) -> Result<Box<dyn candle_core::quantized::QuantizedType>> {
    // candle panics if the address is not a multiple of a block's alignment, which is 4 at most.
    let copy: Vec<u8>;
    let bytes = if bytes.as_ptr().align_offset(4) == 0 {
        bytes
    } else {
        copy = bytes.to_vec();
        if copy.as_ptr().align_offset(4) != 0 {
            bail!("blocks of {format:?} at an odd address");
        }
        &copy
    };
    match QStorage::from_data(Cow::Borrowed(bytes), &Device::Cpu, format)? {
        QStorage::Cpu(blocks) => Ok(blocks),
        QStorage::Metal(_) | QStorage::Cuda(_) => bail!("blocks that left the CPU"),
    }
}

/// Rounds numbers to blocks, several rows at once.
///
/// # Errors
/// If they are not a whole number of blocks.
pub fn quantize_blocks(numbers: &[f32], format: GgmlDType) -> Result<Vec<u8>> {
    if !numbers.len().is_multiple_of(format.block_size()) {
        bail!("{} numbers are not a whole number of {format:?} blocks", numbers.len());
    }
    let pieces: Vec<Vec<u8>> = numbers
        .par_chunks(PIECE)
        .map(|piece| {
            let piece = Tensor::from_slice(piece, piece.len(), &Device::Cpu)?;
            Ok(QTensor::quantize(&piece, format)?.data()?.into_owned())
        })
        .collect::<Result<_>>()?;
    Ok(pieces.concat())
}

/// A low-rank change of a weight (LoRA, Hu et al. 2021): `W + strength * up down`.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// `(rank, in)`.
    pub down: Tensor,
    /// `(out, rank)`.
    pub up: Tensor,
    /// Includes the adapter's own `alpha / rank`.
    pub strength: f64,
}

tensors_of!(LowRank: down, up);

impl LowRank {
    /// Adds the change to a weight `(out, in)` in float32; the result has the weight's number format.
    ///
    /// # Errors
    /// If the shapes do not match.
    pub fn merge_into(&self, weight: &Tensor) -> Result<Tensor> {
        let change = (self.up.to_dtype(DType::F32)?.matmul(&self.down.to_dtype(DType::F32)?)? * self.strength)?;
        if change.dims() != weight.dims() {
            bail!("a low-rank change of {:?} for a weight of {:?}", change.shape(), weight.shape());
        }
        (weight.to_dtype(DType::F32)? + change)?.to_dtype(weight.dtype())
    }

    /// The same change of a part of a larger matrix, of `rows` rows, which begins at row `first`.
    ///
    /// # Errors
    /// If the part reaches beyond the matrix.
    pub fn among_rows(&self, first: usize, rows: usize) -> Result<Self> {
        let Some(after) = rows.checked_sub(first + self.up.dim(0)?) else {
            bail!("a change of rows {first} and more of a matrix with {rows}");
        };
        let up = self.up.pad_with_zeros(0, first, after)?;
        Ok(Self { down: self.down.clone(), up, strength: self.strength })
    }

    /// The same in a number format, on a device.
    pub fn to(&self, dtype: DType, device: &Device) -> Result<Self> {
        let moved = |tensor: &Tensor| tensor.to_dtype(dtype)?.to_device(device);
        Ok(Self { down: moved(&self.down)?, up: moved(&self.up)?, strength: self.strength })
    }

    /// The change's contribution to the layer's output: `(..., in)` -> `(..., out)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let dims = x.dims();
        let rows: usize = dims[..dims.len() - 1].iter().product();
        let inner = x.contiguous()?.reshape((rows, x.dim(D::Minus1)?))?.matmul(&self.down.t()?)?;
        let out = (inner.matmul(&self.up.t()?)? * self.strength)?;
        let mut out_dims = dims.to_vec();
        let last = out_dims.len() - 1;
        out_dims[last] = self.up.dim(0)?;
        out.reshape(out_dims)
    }
}
