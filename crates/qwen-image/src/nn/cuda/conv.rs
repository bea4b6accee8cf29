//! Convolutions, channels last. cuDNN adds bias and residual in the same plan.

use candle_core::{D, DType, Result, Tensor, bail};

use super::{
    Gpu, add_bias,
    cudnn::{
        AttributeValue, Cudnn, Descriptor, ExecutionPlan, TensorSpec,
        sys::{
            AttributeName::*,
            ConvolutionMode::CUDNN_CROSS_CORRELATION,
            DataType::{self, CUDNN_DATA_BFLOAT16, CUDNN_DATA_FLOAT},
            DescriptorType::*,
            PointwiseMode::CUDNN_POINTWISE_ADD,
        },
    },
    linear::{LinearOperands, linear},
    view::{self, Region},
};
use crate::nn::{Padding, tensors_of};

/// A convolution's weights in the layout that cuDNN uses for bfloat16.
#[derive(Debug, Clone)]
pub struct Conv {
    /// `(out, kh, kw, in)`, or `(out, in)` for a single tap. Both channel counts are rounded up to multiples of 8, as
    /// the tensor cores' kernels require.
    weight: Tensor,
    bias: Tensor,
    out_channels: usize,
    stride: usize,
    padding: Padding,
}

/// The ids of a plan's tensors.
const X: i64 = 1;
const FILTER: i64 = 2;
const BIAS: i64 = 3;
const OUT: i64 = 4;
const RESIDUAL: i64 = 5;
/// The ids of virtual tensors.
const PRODUCT: i64 = 10;
const BIASED: i64 = 11;

/// Everything that a plan depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConvShape {
    /// `(n, h, w, c)` and `(k, kh, kw)`.
    input: [usize; 4],
    filter: [usize; 3],
    stride: usize,
    pad: usize,
    fused: bool,
    residual: bool,
}

impl Conv {
    /// Takes the checkpoint's weight, `(out, in, kh, kw)`.
    pub fn new(weight: &Tensor, bias: &Tensor, stride: usize, padding: Padding) -> Result<Self> {
        let (out_channels, in_channels, kh, kw) = weight.dims4()?;
        let (out_room, in_room) = (out_channels.next_multiple_of(8), in_channels.next_multiple_of(8));
        let weight = weight
            .permute((0, 2, 3, 1))?
            .contiguous()?
            .pad_with_zeros(0, 0, out_room - out_channels)?
            .pad_with_zeros(3, 0, in_room - in_channels)?;
        let single = kh == 1 && kw == 1 && stride == 1 && padding == Padding::NONE;
        let weight = if single { weight.reshape((out_room, in_room))? } else { weight };
        let bias = bias.pad_with_zeros(0, 0, out_room - out_channels)?;
        Ok(Self { weight: weight.contiguous()?, bias: bias.contiguous()?, out_channels, stride, padding })
    }

    /// `(n, h, w, in)` -> `(n, h', w', out)`, plus `residual`.
    pub fn forward(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let (out_room, in_room) = (self.weight.dim(0)?, self.weight.dim(D::Minus1)?);
        let Some(missing) = in_room.checked_sub(x.dim(3)?) else {
            bail!("a convolution of {in_room} channels was given {:?}", x.shape())
        };
        let x = x.pad_with_zeros(3, 0, missing)?;
        // A residual has as many channels as the output, so the plan can add it if the output was not rounded up.
        let (inside, outside) = if out_room == self.out_channels { (residual, None) } else { (None, residual) };
        let out = if self.weight.rank() == 2 {
            let out =
                linear(&x, LinearOperands { weight: &self.weight, scales: None, bias: Some(&self.bias), gelu: false })?;
            match inside {
                Some(residual) => (out + residual)?,
                None => out,
            }
        } else {
            self.taps(&x, inside)?
        };
        let out = out.narrow(3, 0, self.out_channels)?;
        match outside {
            Some(residual) => out + residual,
            None => Ok(out),
        }
    }

    fn taps(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let Padding { top, left, bottom, right } = self.padding;
        // The plan pads all four sides equally; the difference is added here.
        let pad = [top, left, bottom, right].into_iter().min().unwrap_or(0);
        let x =
            x.pad_with_zeros(1, top - pad, bottom - pad)?.pad_with_zeros(2, left - pad, right - pad)?.contiguous()?;
        let (n, h, w, c) = x.dims4()?;
        let (k, kh, kw, _) = self.weight.dims4()?;
        let residual = residual.map(Tensor::contiguous).transpose()?;
        let gpu = Gpu::of(&x)?;
        let shape = ConvShape {
            input: [n, h, w, c],
            filter: [k, kh, kw],
            stride: self.stride,
            pad,
            fused: true,
            residual: residual.is_some(),
        };
        let [out_h, out_w] = shape.out_size();
        if residual.as_ref().is_some_and(|residual| residual.dims() != [n, out_h, out_w, k]) {
            bail!("a residual that is not {:?}", [n, out_h, out_w, k]);
        }
        // SAFETY: if a plan is queued below, it writes all of it; otherwise it is dropped unread.
        let out = unsafe { view::fresh((n, out_h, out_w, k), &x)? };
        if let Some(cudnn) = &gpu.cudnn {
            let residual_region = residual.as_ref().map(Region::of).transpose()?;
            let [x_at, weight_at, bias_at, out_at] = [
                address(&gpu, Region::of(&x)?, n * h * w * c)?,
                address(&gpu, Region::of(&self.weight)?, k * kh * kw * c)?,
                address(&gpu, Region::of(&self.bias)?, k)?,
                address(&gpu, Region::of(&out)?, n * out_h * out_w * k)?,
            ];
            let residual_at = residual_region.map_or(Ok(0), |region| address(&gpu, region, n * out_h * out_w * k))?;
            let note = |error: candle_core::Error| tracing::debug!(%error, ?shape, "no fused convolution");
            if let Some(plan) = gpu.conv_plans.get(&shape, || shape.plan(cudnn), note) {
                let workspace = gpu.scratch(plan.workspace)?;
                let ids = [X, FILTER, BIAS, OUT, RESIDUAL];
                let addresses = [x_at, weight_at, bias_at, out_at, residual_at];
                let count = if residual.is_some() { 5 } else { 4 };
                // SAFETY: these are the tensors of `shape.plan`; the last one exists only with a residual. Each is
                // bfloat16, aligned and contiguous, and has the number of elements that `shape` requires. The workspace
                // is scratch memory of the plan's size, which is used only by work on this stream.
                unsafe { cudnn.execute(&plan, &ids[..count], &addresses[..count], workspace)? };
                return Ok(out);
            }
            let plain = ConvShape { fused: false, residual: false, ..shape };
            let refused = |error: candle_core::Error| gpu.warn_once(&error.to_string());
            if let Some(plan) = gpu.conv_plans.get(&plain, || plain.plan(cudnn), refused) {
                let workspace = gpu.scratch(plan.workspace)?;
                // SAFETY: see above; this plan is not fused and has three tensors.
                unsafe { cudnn.execute(&plan, &[X, FILTER, OUT], &[x_at, weight_at, out_at], workspace)? };
                return add_bias(out, &self.bias, residual.as_ref());
            }
        } else {
            gpu.warn_once("cuDNN was not found; convolutions run several times slower without it");
        }
        let kernel = self.weight.permute((0, 3, 1, 2))?.contiguous()?;
        let out = x.permute((0, 3, 1, 2))?.contiguous()?.conv2d(&kernel, pad, self.stride, 1, 1)?;
        add_bias(out.permute((0, 2, 3, 1))?.contiguous()?, &self.bias, residual.as_ref())
    }
}

/// The address of a region for a plan, checked to hold this many bfloat16 elements.
fn address(gpu: &Gpu, region: Region<'_>, elements: usize) -> Result<u64> {
    gpu.owns(&region)?;
    if !region.aligned() {
        bail!("a convolution of tensors that are not aligned");
    }
    Ok(*region.holding(DType::BF16, elements)?.address())
}

tensors_of!(Conv: weight, bias);

impl ConvShape {
    fn out_size(&self) -> [usize; 2] {
        let [_, h, w, _] = self.input;
        let [_, kh, kw] = self.filter;
        [(h + 2 * self.pad - kh) / self.stride + 1, (w + 2 * self.pad - kw) / self.stride + 1]
    }

    fn plan(&self, cudnn: &Cudnn) -> Result<ExecutionPlan> {
        let [n, _, _, c] = self.input;
        let [k, kh, kw] = self.filter;
        let [out_h, out_w] = self.out_size();
        // Dimensions are in the order (n, c, h, w), memory in the order (n, h, w, c).
        let tensor = |id: i64, dtype: DataType, [n, h, w, c]: [usize; 4], is_virtual: bool| {
            let dims = [n, c, h, w].map(|dim| dim as i64);
            let strides = [h * w * c, 1, w * c, c].map(|stride| stride as i64);
            cudnn.tensor(TensorSpec { id, dtype, dims: &dims, strides: &strides, by_value: false, is_virtual })
        };
        let given = |id: i64, dims: [usize; 4]| tensor(id, CUDNN_DATA_BFLOAT16, dims, false);
        let out_dims = [n, out_h, out_w, k];
        let out = given(OUT, out_dims)?;
        let (x, filter) = (given(X, self.input)?, given(FILTER, [k, kh, kw, c])?);

        let conv = cudnn.descriptor(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)?;
        conv.set(CUDNN_ATTR_CONVOLUTION_COMP_TYPE, AttributeValue::DataType(CUDNN_DATA_FLOAT))?;
        conv.set(CUDNN_ATTR_CONVOLUTION_CONV_MODE, AttributeValue::ConvolutionMode(CUDNN_CROSS_CORRELATION))?;
        conv.set(CUDNN_ATTR_CONVOLUTION_DILATIONS, AttributeValue::Int64(&[1, 1]))?;
        conv.set(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, AttributeValue::Int64(&[self.stride as i64; 2]))?;
        conv.set(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, AttributeValue::Int64(&[self.pad as i64; 2]))?;
        conv.set(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, AttributeValue::Int64(&[self.pad as i64; 2]))?;
        conv.set(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, AttributeValue::Int64(&[2]))?;
        let conv = conv.finalize()?;
        let convolve = |y: &Descriptor| -> Result<Descriptor> {
            let operation = cudnn.descriptor(CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR)?;
            operation.set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, AttributeValue::Float(1.0))?;
            operation.set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, AttributeValue::Float(0.0))?;
            operation.set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, AttributeValue::Descriptors(&[&conv]))?;
            operation.set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, AttributeValue::Descriptors(&[&filter]))?;
            operation.set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, AttributeValue::Descriptors(&[&x]))?;
            operation.set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, AttributeValue::Descriptors(&[y]))?;
            operation.finalize()
        };
        if !self.fused {
            return cudnn.plan(&[&convolve(&out)?]);
        }
        let adder = cudnn.descriptor(CUDNN_BACKEND_POINTWISE_DESCRIPTOR)?;
        adder.set(CUDNN_ATTR_POINTWISE_MODE, AttributeValue::PointwiseMode(CUDNN_POINTWISE_ADD))?;
        adder.set(CUDNN_ATTR_POINTWISE_MATH_PREC, AttributeValue::DataType(CUDNN_DATA_FLOAT))?;
        let adder = adder.finalize()?;
        let add = |left: &Descriptor, right: &Descriptor, sum: &Descriptor| -> Result<Descriptor> {
            let operation = cudnn.descriptor(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR)?;
            operation.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, AttributeValue::Descriptors(&[&adder]))?;
            operation.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, AttributeValue::Descriptors(&[left]))?;
            operation.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, AttributeValue::Descriptors(&[right]))?;
            operation.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, AttributeValue::Descriptors(&[sum]))?;
            operation.finalize()
        };
        let product = tensor(PRODUCT, CUDNN_DATA_FLOAT, out_dims, true)?;
        let bias = given(BIAS, [1, 1, 1, k])?;
        let convolved = convolve(&product)?;
        if self.residual {
            let (biased, residual) = (tensor(BIASED, CUDNN_DATA_FLOAT, out_dims, true)?, given(RESIDUAL, out_dims)?);
            return cudnn.plan(&[&convolved, &add(&product, &bias, &biased)?, &add(&biased, &residual, &out)?]);
        }
        cudnn.plan(&[&convolved, &add(&product, &bias, &out)?])
    }
}
