//! The weight of a linear layer in every form that checkpoints have, and its low-rank changes.
//!
//! Code that moves weights (offload, block swap, host copies) sees a weight as tensors: of numbers, of fp8 rows and
//! their scales, or of bytes. It never needs to know the form.

use std::borrow::Cow;

use candle_core::{
    D, DType, Device, Result, Storage, Tensor, bail,
    quantized::{GgmlDType, QStorage, QTensor},
};

use super::{cpu, tensors_of, weights_buffer::Tensors};

/// A matrix `(out, in)` as a checkpoint stores it.
#[derive(Debug, Clone)]
pub enum Weight {
    /// One number per element: `(in, out)` for the CPU kernel, which products read directly; `(out, in)` elsewhere.
    Dense(Tensor),
    /// fp8 numbers (e4m3) `(out, in)`, and the scale `(out)` of each row.
    Fp8 { rows: Tensor, scales: Tensor },
    /// Blocks of a GGUF format.
    Quantized(QuantizedWeight),
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

    pub fn out_features(&self) -> Result<usize> {
        match self {
            Self::Dense(weight) => weight.dim(usize::from(cpu::is_cpu_f32(weight))),
            Self::Fp8 { rows, .. } => rows.dim(0),
            Self::Quantized(weight) => Ok(weight.out_features),
        }
    }

    /// Concatenates matrices of one form along their outputs.
    ///
    /// # Errors
    /// If forms, formats or widths differ.
    pub fn stacked(weights: &[&Self]) -> Result<Self> {
        match weights.first() {
            Some(Self::Dense(first)) => {
                let axis = usize::from(cpu::is_cpu_f32(first));
                let all: Option<Vec<_>> = weights
                    .iter()
                    .map(|weight| if let Self::Dense(weight) = weight { Some(weight) } else { None })
                    .collect();
                all.map_or_else(|| bail!("weights of several forms cannot be stacked"), |all| Tensor::cat(&all, axis))
                    .map(Self::Dense)
            }
            Some(Self::Quantized(first)) => first.stacked(weights).map(Self::Quantized),
            Some(Self::Fp8 { .. }) => bail!("weights are stacked before they are rounded to fp8"),
            None => bail!("no weights to stack"),
        }
    }
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
        }
    }
}

impl QuantizedWeight {
    /// From the blocks of a matrix `(out, in)` as in a file.
    ///
    /// # Errors
    /// If a row is not a whole number of blocks, or there are too few or too many bytes.
    pub fn new(bytes: &[u8], format: GgmlDType, (out_features, in_features): (usize, usize)) -> Result<Self> {
        let block = format.block_size();
        if !in_features.is_multiple_of(block) {
            bail!("a row of {in_features} is no whole number of {format:?} blocks of {block}");
        }
        let expected = out_features * in_features / block * format.type_size();
        if bytes.len() != expected {
            bail!("{out_features}x{in_features} in {format:?} takes {expected} bytes, not {}", bytes.len());
        }
        let blocks = Tensor::from_slice(bytes, bytes.len(), &Device::Cpu)?;
        Ok(Self { blocks, format, out_features, in_features })
    }

    /// The matrix `(out, in)` in float32.
    pub fn dequantize(&self) -> Result<Tensor> {
        let (storage, layout) = self.blocks.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { bail!("quantized weights are computed with on the CPU alone") };
        let bytes = &storage.as_slice::<u8>()?[layout.start_offset()..][..layout.shape().elem_count()];
        let storage = QStorage::from_data(Cow::Borrowed(bytes), &Device::Cpu, self.format)?;
        QTensor::new(storage, (self.out_features, self.in_features))?.dequantize(&Device::Cpu)
    }

    fn stacked(&self, weights: &[&Weight]) -> Result<Self> {
        let mut blocks = Vec::with_capacity(weights.len());
        let mut out_features = 0;
        for weight in weights {
            let Weight::Quantized(weight) = weight else { bail!("weights of several forms cannot be stacked") };
            if (weight.format, weight.in_features) != (self.format, self.in_features) {
                bail!("{:?} of width {} beside {:?}", weight.format, weight.in_features, self.format);
            }
            blocks.push(&weight.blocks);
            out_features += weight.out_features;
        }
        Ok(Self { blocks: Tensor::cat(&blocks, 0)?, out_features, ..*self })
    }
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
