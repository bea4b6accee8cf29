//! Convolutions, channels last, through cuDNN with bias and residual in the same plan.

use candle_core::{D, Result, Tensor, bail};

use super::{
    Gpu, add_bias,
    cudnn::{BFLOAT16, Cudnn, Descriptor, FLOAT, Kind, Plan, TensorSpec, Value},
    linear::{Layer, linear},
    view,
};
use crate::nn::{Padding, tensors_of};

/// A convolution's weights as cuDNN takes them in bfloat16.
#[derive(Debug, Clone)]
pub struct Conv {
    /// `(out, kh, kw, in)`, or `(out, in)` for a single tap; both channel counts rounded up to 8, which the tensor
    /// cores' kernels ask for.
    weight: Tensor,
    bias: Tensor,
    out_channels: usize,
    stride: usize,
    padding: Padding,
}

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
    /// From the checkpoint's weight, `(out, in, kh, kw)`.
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
        let x = x.pad_with_zeros(3, 0, in_room - x.dim(3)?)?;
        // A residual has as many channels as the output has, so it fits when nothing was rounded up.
        let (inside, outside) = if out_room == self.out_channels { (residual, None) } else { (None, residual) };
        let out = if self.weight.rank() == 2 {
            let out = linear(&x, Layer { weight: &self.weight, scales: None, bias: Some(&self.bias), gelu: false })?;
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
        // What differs between the sides is added here; the plan pads all four alike.
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
        let out = view::fresh((n, out_h, out_w, k), &x)?;
        let [x_at, weight_at, bias_at, out_at] =
            [view::address(&x)?, view::address(&self.weight)?, view::address(&self.bias)?, view::address(&out)?];
        if let Some(cudnn) = &gpu.cudnn {
            let note = |error: candle_core::Error| tracing::debug!(%error, ?shape, "no fused convolution");
            if let Some(plan) = gpu.conv_plans.get(&shape, || shape.plan(cudnn), note) {
                let workspace = gpu.scratch(plan.workspace)?;
                match &residual {
                    Some(residual) => {
                        let addresses = [x_at, weight_at, bias_at, out_at, view::address(residual)?];
                        cudnn.execute(&plan, &[1, 2, 3, 4, 5], &addresses, workspace)?;
                    }
                    None => cudnn.execute(&plan, &[1, 2, 3, 4], &[x_at, weight_at, bias_at, out_at], workspace)?,
                }
                return Ok(out);
            }
            let plain = ConvShape { fused: false, residual: false, ..shape };
            let refused = |error: candle_core::Error| gpu.warn_once(&error.to_string());
            if let Some(plan) = gpu.conv_plans.get(&plain, || plain.plan(cudnn), refused) {
                cudnn.execute(&plan, &[1, 2, 4], &[x_at, weight_at, out_at], gpu.scratch(plan.workspace)?)?;
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

tensors_of!(Conv: weight, bias);

impl ConvShape {
    fn out_size(&self) -> [usize; 2] {
        let [_, h, w, _] = self.input;
        let [_, kh, kw] = self.filter;
        [(h + 2 * self.pad - kh) / self.stride + 1, (w + 2 * self.pad - kw) / self.stride + 1]
    }

    fn plan(&self, cudnn: &Cudnn) -> Result<Plan> {
        let [n, _, _, c] = self.input;
        let [k, kh, kw] = self.filter;
        let [out_h, out_w] = self.out_size();
        // Named (n, c, h, w), lying (n, h, w, c).
        let tensor = |id: i64, dtype: i32, [n, h, w, c]: [usize; 4], inner: bool| {
            let dims = [n, c, h, w].map(|dim| dim as i64);
            let strides = [h * w * c, 1, w * c, c].map(|stride| stride as i64);
            cudnn.tensor(TensorSpec { id, dtype, dims: &dims, strides: &strides, by_value: false, inner })
        };
        let out = [n, out_h, out_w, k];
        let y = tensor(4, BFLOAT16, out, false)?;
        let (x, filter) = (tensor(1, BFLOAT16, self.input, false)?, tensor(2, BFLOAT16, [k, kh, kw, c], false)?);

        let conv = cudnn.descriptor(Kind::Convolution)?;
        conv.set(100, Value::DataType(FLOAT))?;
        conv.set(101, Value::ConvolutionMode(1))?; // cross-correlation
        conv.set(102, Value::Longs(&[1, 1]))?; // dilations
        conv.set(103, Value::Longs(&[self.stride as i64; 2]))?;
        conv.set(104, Value::Longs(&[self.pad as i64; 2]))?; // after
        conv.set(105, Value::Longs(&[self.pad as i64; 2]))?; // before
        conv.set(106, Value::Longs(&[2]))?; // axes
        let conv = conv.finalize()?;
        let convolve = |y: &Descriptor| -> Result<Descriptor> {
            let operation = cudnn.descriptor(Kind::OperationConvolution)?;
            operation.set(700, Value::Float(1.0))?;
            operation.set(701, Value::Float(0.0))?;
            operation.set(702, Value::Descriptors(&[&conv]))?;
            operation.set(703, Value::Descriptors(&[&filter]))?;
            operation.set(704, Value::Descriptors(&[&x]))?;
            operation.set(705, Value::Descriptors(&[y]))?;
            operation.finalize()
        };
        if !self.fused {
            return cudnn.plan(&[&convolve(&y)?]);
        }
        let adder = cudnn.descriptor(Kind::Pointwise)?;
        adder.set(0, Value::PointwiseMode(0))?; // add
        adder.set(1, Value::DataType(FLOAT))?;
        let adder = adder.finalize()?;
        let add = |left: &Descriptor, right: &Descriptor, out: &Descriptor| -> Result<Descriptor> {
            let operation = cudnn.descriptor(Kind::OperationPointwise)?;
            operation.set(750, Value::Descriptors(&[&adder]))?;
            operation.set(751, Value::Descriptors(&[left]))?;
            operation.set(752, Value::Descriptors(&[right]))?;
            operation.set(753, Value::Descriptors(&[out]))?;
            operation.finalize()
        };
        let product = tensor(10, FLOAT, out, true)?;
        let bias = tensor(3, BFLOAT16, [1, 1, 1, k], false)?;
        let product_of = convolve(&product)?;
        if self.residual {
            let (biased, residual) = (tensor(11, FLOAT, out, true)?, tensor(5, BFLOAT16, out, false)?);
            return cudnn.plan(&[&product_of, &add(&product, &bias, &biased)?, &add(&biased, &residual, &y)?]);
        }
        cudnn.plan(&[&product_of, &add(&product, &bias, &y)?])
    }
}
