//! Two-dimensional convolution, channels last.
//!
//! Pictures are `(n, h, w, c)` throughout the VAE: norms then run along contiguous memory, and the taps of a kernel row
//! are one contiguous piece of the input.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{
    Tensors, cpu,
    gemm::{Matrix, gemm},
    tensors_of,
};

/// Zeros around the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Padding {
    /// Rows above the input.
    pub top: usize,
    /// Columns to the left of it.
    pub left: usize,
    /// Rows below it.
    pub bottom: usize,
    /// Columns to the right of it.
    pub right: usize,
}

impl Padding {
    /// No padding.
    pub const NONE: Self = Self { top: 0, left: 0, bottom: 0, right: 0 };
    /// Keeps the size with a 3x3 kernel and stride 1.
    pub const SAME: Self = Self { top: 1, left: 1, bottom: 1, right: 1 };
    /// The VAE's downsampling: one row and one column at the far side.
    pub const FAR: Self = Self { top: 0, left: 0, bottom: 1, right: 1 };
}

/// A convolution with its bias, in the layout that the device's kernel reads.
#[derive(Debug, Clone)]
pub struct Conv2d(Kernel);

#[derive(Debug, Clone)]
enum Kernel {
    Taps(ConvWeights),
    #[cfg(feature = "cuda")]
    Cuda(super::cuda::Conv),
}

#[derive(Debug, Clone)]
struct ConvWeights {
    /// `(kh, kw, in, out)`.
    weight: Tensor,
    bias: Tensor,
    stride: usize,
    padding: Padding,
}

impl Conv2d {
    /// Takes the checkpoint's weight, `(out, in, kh, kw)`.
    pub fn new(weight: &Tensor, bias: Tensor, stride: usize, padding: Padding) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if super::cuda::applies(weight) && weight.dtype() == candle_core::DType::BF16 {
            return Ok(Self(Kernel::Cuda(super::cuda::Conv::new(weight, &bias, stride, padding)?)));
        }
        let weight = weight.permute((2, 3, 1, 0))?.contiguous()?;
        Ok(Self(Kernel::Taps(ConvWeights { weight, bias, stride, padding })))
    }

    /// `(n, h, w, in)` -> `(n, h', w', out)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.0 {
            Kernel::Taps(taps) => taps.forward(x),
            #[cfg(feature = "cuda")]
            Kernel::Cuda(conv) => conv.forward(x, None),
        }
    }

    /// [`Self::forward`] plus a residual of the output's shape.
    pub fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        match &self.0 {
            Kernel::Taps(taps) => taps.forward(x)? + residual,
            #[cfg(feature = "cuda")]
            Kernel::Cuda(conv) => conv.forward(x, Some(residual)),
        }
    }
}

impl Tensors for Conv2d {
    fn tensors(&mut self, visit: &mut dyn FnMut(&mut Tensor) -> Result<()>) -> Result<()> {
        match &mut self.0 {
            Kernel::Taps(taps) => taps.tensors(visit),
            #[cfg(feature = "cuda")]
            Kernel::Cuda(conv) => conv.tensors(visit),
        }
    }
}

tensors_of!(ConvWeights: weight, bias);

impl ConvWeights {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let Self { weight, bias, stride, padding } = self;
        if cpu::is_cpu_f32(x) {
            let op = Im2Col { stride: *stride, padding: *padding };
            return x.contiguous()?.apply_op3_no_bwd(weight, bias, &op);
        }
        let x = x
            .permute((0, 3, 1, 2))?
            .pad_with_zeros(2, padding.top, padding.bottom)?
            .pad_with_zeros(3, padding.left, padding.right)?
            .contiguous()?;
        let kernel = weight.permute((3, 2, 0, 1))?.contiguous()?;
        x.conv2d(&kernel, 0, *stride, 1, 1)?.permute((0, 2, 3, 1))?.contiguous()?.broadcast_add(bias)
    }
}

/// Repeats every pixel four times: `(n, h, w, c)` -> `(n, 2h, 2w, c)`.
pub fn upsample_nearest_2x(x: &Tensor) -> Result<Tensor> {
    if cpu::is_cpu_f32(x) {
        return x.contiguous()?.apply_op1_no_bwd(&Upsample);
    }
    #[cfg(feature = "cuda")]
    if super::cuda::applies(x) {
        return super::cuda::upsample_nearest_2x(x);
    }
    let (n, h, w, c) = x.dims4()?;
    x.reshape((n, h, 1, w, 1, c))?.expand((n, h, 2, w, 2, c))?.reshape((n, 2 * h, 2 * w, c))
}

struct Im2Col {
    stride: usize,
    padding: Padding,
}

/// Floats of the gathered patches of one task, small enough for the L2 cache.
const PATCH_FLOATS: usize = 64 * 1024;

impl CustomOp3 for Im2Col {
    fn name(&self) -> &'static str {
        "conv2d-channels-last"
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
        let (x, weight, bias) = (cpu::contiguous(s1, l1)?, cpu::contiguous(s2, l2)?, cpu::contiguous(s3, l3)?);
        let (n, h, w, c) = l1.shape().dims4()?;
        let (kh, kw, in_c, out_c) = l2.shape().dims4()?;
        let Padding { top, left, bottom, right } = self.padding;
        if in_c != c || h + top + bottom < kh || w + left + right < kw {
            candle_core::bail!("a convolution with weight {:?} was given {:?}", l2.shape(), l1.shape());
        }
        let out_h = (h + top + bottom - kh) / self.stride + 1;
        let out_w = (w + left + right - kw) / self.stride + 1;
        let taps = kh * kw * c;
        let kernel = Matrix::row_major(weight, taps, out_c);
        let mut out = vec![0.0; n * out_h * out_w * out_c];

        let pixels = (PATCH_FLOATS / taps).clamp(16, 4096).min(out_h * out_w);
        let image_floats = out_h * out_w * out_c;
        out.par_chunks_mut(image_floats).enumerate().for_each(|(image, out)| {
            let x = &x[image * h * w * c..][..h * w * c];
            out.par_chunks_mut(pixels * out_c).enumerate().for_each(|(task, out)| {
                let first = task * pixels;
                let count = out.len() / out_c;
                if taps == c && self.stride == 1 && self.padding == Padding::NONE {
                    let patches = Matrix::row_major(&x[first * c..][..count * c], count, c);
                    return product(out, patches, kernel, bias);
                }
                let mut patches = vec![0.0; count * taps];
                for (index, patch) in patches.chunks_exact_mut(taps).enumerate() {
                    let (row, col) = ((first + index) / out_w, (first + index) % out_w);
                    let (y, x_left) = (row * self.stride, col * self.stride);
                    for (ky, patch) in patch.chunks_exact_mut(kw * c).enumerate() {
                        let Some(y) = (y + ky).checked_sub(top).filter(|&y| y < h) else { continue };
                        // The taps of this row that fall inside the picture.
                        let from = left.saturating_sub(x_left);
                        let until = kw.min((w + left).saturating_sub(x_left));
                        if from < until {
                            let source = (y * w + x_left + from - left) * c;
                            let length = (until - from) * c;
                            patch[from * c..][..length].copy_from_slice(&x[source..][..length]);
                        }
                    }
                }
                product(out, Matrix::row_major(&patches, count, taps), kernel, bias);
            });
        });
        Ok((CpuStorage::F32(out), Shape::from((n, out_h, out_w, out_c))))
    }
}

fn product(out: &mut [f32], patches: Matrix<'_>, kernel: Matrix<'_>, bias: &[f32]) {
    for row in out.chunks_exact_mut(bias.len()) {
        row.copy_from_slice(bias);
    }
    gemm(out, bias.len(), patches, kernel, true, 1.0);
}

struct Upsample;

impl CustomOp1 for Upsample {
    fn name(&self) -> &'static str {
        "upsample-nearest-2x"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = cpu::contiguous(storage, layout)?;
        let (n, h, w, c) = layout.shape().dims4()?;
        let mut out = Vec::with_capacity(4 * x.len());
        for row in x.chunks_exact((w * c).max(1)) {
            let start = out.len();
            for pixel in row.chunks_exact(c) {
                out.extend_from_slice(pixel);
                out.extend_from_slice(pixel);
            }
            out.extend_from_within(start..);
        }
        Ok((CpuStorage::F32(out), Shape::from((n, 2 * h, 2 * w, c))))
    }
}
