//! Linear layers.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use rayon::prelude::*;

use super::{
    cpu,
    gemm::{Matrix, gemm},
    tensors_of,
    weight::{LowRank, Weight},
};

/// `x W^T + b`, with a weight `(out, in)` as in the checkpoint.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
    /// Whether a GPU multiplies in fp8, with inputs rounded in the same way. Otherwise a weight in fp8 or in blocks is
    /// dequantized for each product.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only GPUs multiply fp8"))]
    fp8: bool,
    /// Whether that was ruled out.
    full_precision: bool,
    /// Added to the output at run time, in this order.
    adapters: Vec<LowRank>,
}

impl Linear {
    /// From a matrix `(out, in)` and a bias `(out)`.
    pub fn new(weight: &Tensor, bias: Option<Tensor>) -> Result<Self> {
        Ok(Self::from_weight(Weight::dense(weight)?, bias))
    }

    /// From a weight in any form.
    pub fn from_weight(weight: Weight, bias: Option<Tensor>) -> Self {
        Self { weight, bias, fp8: false, full_precision: false, adapters: Vec::new() }
    }

    /// Adds low-rank changes at run time instead of merging them, which is more accurate if the weight itself is
    /// quantized.
    #[must_use]
    pub fn with_adapters(self, adapters: Vec<LowRank>) -> Self {
        Self { adapters, ..self }
    }

    /// Products in the compute format, whatever the weight's form.
    #[must_use]
    pub fn in_full_precision(self) -> Self {
        Self { full_precision: true, ..self }
    }

    /// Joins layers with the same input into one layer with concatenated outputs: one product instead of several.
    ///
    /// # Errors
    /// If their widths differ.
    pub fn stacked(layers: &[Self]) -> Result<Self> {
        let rows = layers.iter().map(Self::out_features).collect::<Result<Vec<_>>>()?;
        let (mut first, mut adapters) = (0, Vec::new());
        for (layer, count) in layers.iter().zip(&rows) {
            for adapter in &layer.adapters {
                adapters.push(adapter.among_rows(first, rows.iter().sum())?);
            }
            first += count;
        }
        let weights: Vec<_> = layers.iter().map(|layer| &layer.weight).collect();
        let biases: Option<Vec<_>> = layers.iter().map(|layer| layer.bias.as_ref()).collect();
        let bias = biases.map(|biases| Tensor::cat(&biases, 0)).transpose()?;
        let full_precision = layers.iter().any(|layer| layer.full_precision);
        Ok(Self { full_precision, adapters, ..Self::from_weight(Weight::stacked(&weights)?, bias) })
    }

    /// The output width of [`Self::forward`].
    pub fn out_features(&self) -> Result<usize> {
        self.weight.out_features()
    }

    /// [`Self::forward`], then [`super::gelu_tanh`].
    pub fn forward_gelu(&self, x: &Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if self.bias.is_some() && self.adapters.is_empty() && super::cuda::applies(x) {
            let mut made = None;
            return super::cuda::linear(x, self.layer(x, true, &mut made)?);
        }
        super::gelu_tanh(&self.forward(x)?)
    }

    /// [`Self::forward`] into rows of a buffer on the GPU.
    #[cfg(feature = "cuda")]
    pub(super) fn forward_into(&self, x: &Tensor, out: &Tensor) -> Result<()> {
        if self.adapters.is_empty() {
            let mut made = None;
            return super::cuda::linear_into(x, self.layer(x, false, &mut made)?, out);
        }
        let product = self.forward(x)?;
        out.slice_set(&product.reshape(out.shape())?, 0, 0)
    }

    /// The form that the GPU's products accept; `made` holds a dequantized weight for as long as the layer is used.
    #[cfg(feature = "cuda")]
    fn layer<'a>(
        &'a self,
        x: &Tensor,
        gelu: bool,
        made: &'a mut Option<(Tensor, Option<Tensor>)>,
    ) -> Result<super::cuda::LinearOperands<'a>> {
        let (weight, scales) = match &self.weight {
            Weight::Dense(weight) => (weight, None),
            Weight::Fp8 { rows, scales } if self.fp8 => (rows, Some(scales)),
            other => {
                let (weight, scales) = made.insert(if self.fp8 {
                    let (rows, scales) = other.to_fp8()?;
                    (rows, Some(scales))
                } else {
                    (other.dequantize(x.dtype())?, None)
                });
                (&*weight, scales.as_ref())
            }
        };
        Ok(super::cuda::LinearOperands { weight, scales, bias: self.bias.as_ref(), gelu })
    }

    /// Products in fp8 (e4m3) with a scale per row; inputs are rounded in the same way. A dense weight is rounded now,
    /// one in blocks for each product, and one in fp8 keeps its numbers.
    ///
    /// # Errors
    /// On devices that do not support fp8.
    pub fn into_fp8(self) -> Result<Self> {
        if self.full_precision {
            return Ok(self);
        }
        #[cfg(feature = "cuda")]
        match &self.weight {
            Weight::Dense(weight) if super::cuda::applies(weight) => {
                if !super::cuda::quantizable(weight) {
                    return Ok(self);
                }
                let (rows, scales) = super::cuda::quantize(weight)?;
                return Ok(Self { weight: Weight::Fp8 { rows, scales }, fp8: true, ..self });
            }
            weight @ (Weight::Fp8 { .. } | Weight::Quantized(_) | Weight::Mixed(_)) => {
                if let Some(device) = weight.device().filter(|device| device.is_cuda()) {
                    super::cuda::check_fp8(device)?;
                    let fp8 = super::cuda::multiplies_in_fp8(weight.shape()?);
                    return Ok(Self { fp8, ..self });
                }
            }
            Weight::Dense(_) => {}
        }
        candle_core::bail!("fp8 needs an NVIDIA GPU, and a build with the `cuda` feature")
    }

    /// `(..., in)` -> `(..., out)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut out = self.product(x)?;
        for adapter in &self.adapters {
            out = (out + adapter.forward(x)?)?;
        }
        Ok(out)
    }

    fn product(&self, x: &Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if super::cuda::applies(x) {
            let mut made = None;
            return super::cuda::linear(x, self.layer(x, false, &mut made)?);
        }
        let made;
        let weight = match &self.weight {
            Weight::Dense(weight) => weight,
            other => {
                let matrix = other.dequantize(x.dtype())?;
                // The CPU kernel reads `(in, out)`, in any order in memory.
                made = if cpu::is_cpu_f32(x) { matrix.t()? } else { matrix };
                &made
            }
        };
        if cpu::is_cpu_f32(x) {
            return match &self.bias {
                Some(bias) => x.apply_op3_no_bwd(weight, bias, &BiasedProduct),
                None => x.apply_op2_no_bwd(weight, &BiasedProduct),
            };
        }
        let dims = x.dims();
        let rows: usize = dims[..dims.len() - 1].iter().product();
        let mut out_dims = dims.to_vec();
        let last = out_dims.len() - 1;
        out_dims[last] = weight.dim(0)?;
        let product = x.reshape((rows, dims[last]))?.matmul(&weight.t()?)?;
        match &self.bias {
            Some(bias) => product.broadcast_add(bias)?.reshape(out_dims),
            None => product.reshape(out_dims),
        }
    }
}

tensors_of!(Linear: weight, bias, adapters);

/// Fewer rows than this are not worth a task.
const LEAST_ROWS: usize = 24;

/// The product with the bias already in the destination, so that the output is written once.
struct BiasedProduct;

impl BiasedProduct {
    fn run(
        x: (&CpuStorage, &Layout),
        weight: (&CpuStorage, &Layout),
        bias: Option<&[f32]>,
    ) -> Result<(CpuStorage, Shape)> {
        let (in_features, out_features) = weight.1.shape().dims2()?;
        let rows = cpu::Rows::new(x.0, x.1)?;
        if rows.width != in_features {
            candle_core::bail!("a linear layer for {in_features} features was given {:?}", x.1.shape());
        }
        let weight = matrix(weight.0, weight.1, (in_features, out_features))?;
        let mut out = Vec::with_capacity(rows.count * out_features);
        match bias {
            Some(bias) => (0..rows.count).for_each(|_| out.extend_from_slice(bias)),
            None => out.resize(rows.count * out_features, 0.0),
        }
        let input = |first: usize, count: usize| Matrix {
            data: &rows.data()[first * rows.stride..],
            rows: count,
            cols: in_features,
            row_stride: rows.stride,
            col_stride: 1,
        };
        let add = bias.is_some();
        // One task per piece of the output, each with its own product, so that threads synchronize once per layer.
        let tasks = 2 * rayon::current_num_threads();
        if rows.count == 1 {
            let columns = out_features.div_ceil(tasks).next_multiple_of(64);
            out.par_chunks_mut(columns).enumerate().for_each(|(task, out)| {
                let data = &weight.data[task * columns * weight.col_stride..];
                let weight = Matrix { data, cols: out.len(), ..weight };
                gemm(out, out.len(), input(0, 1), weight, add, 1.0);
            });
        } else {
            let count = rows.count.div_ceil(tasks).max(LEAST_ROWS);
            out.par_chunks_mut(count * out_features).enumerate().for_each(|(task, out)| {
                let input = input(task * count, out.len() / out_features);
                gemm(out, out_features, input, weight, add, 1.0);
            });
        }
        let mut dims = x.1.dims().to_vec();
        let last = dims.len() - 1;
        dims[last] = out_features;
        Ok((CpuStorage::F32(out), Shape::from(dims)))
    }
}

/// A matrix in row-major or in column-major order.
fn matrix<'a>(storage: &'a CpuStorage, layout: &Layout, (rows, cols): (usize, usize)) -> Result<Matrix<'a>> {
    if layout.is_contiguous() {
        return Ok(Matrix::row_major(cpu::contiguous(storage, layout)?, rows, cols));
    }
    if layout.stride() != [1, rows] {
        candle_core::bail!("a weight with gaps, {layout:?}");
    }
    let data = &storage.as_slice::<f32>()?[layout.start_offset()..];
    Ok(Matrix { data, rows, cols, row_stride: 1, col_stride: rows })
}

impl CustomOp2 for BiasedProduct {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        Self::run((s1, l1), (s2, l2), None)
    }
}

impl CustomOp3 for BiasedProduct {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Self::run((s1, l1), (s2, l2), Some(cpu::contiguous(s3, l3)?))
    }
}
