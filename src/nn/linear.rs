//! Linear layers.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::{
    cpu,
    gemm::{Matrix, Threads, gemm},
};

/// `x W^T + b`; the weight is stored `(out, in)` as in the checkpoint.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// Stacks layers that read the same input into one, `(out_1 + out_2 + ..., in)`: one product instead of several.
    pub fn stacked(layers: &[Self]) -> Result<Self> {
        let weights: Vec<_> = layers.iter().map(|layer| &layer.weight).collect();
        let biases: Option<Vec<_>> = layers.iter().map(|layer| layer.bias.as_ref()).collect();
        Ok(Self { weight: Tensor::cat(&weights, 0)?, bias: biases.map(|biases| Tensor::cat(&biases, 0)).transpose()? })
    }

    pub fn out_features(&self) -> Result<usize> {
        self.weight.dim(0)
    }

    /// `(..., in)` -> `(..., out)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if cpu::is_cpu_f32(x) {
            return match &self.bias {
                Some(bias) => x.apply_op3_no_bwd(&self.weight, bias, &Product),
                None => x.apply_op2_no_bwd(&self.weight, &Product),
            };
        }
        let dims = x.dims();
        let rows: usize = dims[..dims.len() - 1].iter().product();
        let mut out_dims = dims.to_vec();
        let last = out_dims.len() - 1;
        out_dims[last] = self.weight.dim(0)?;
        let product = x.reshape((rows, dims[last]))?.matmul(&self.weight.t()?)?;
        match &self.bias {
            Some(bias) => product.broadcast_add(bias)?.reshape(out_dims),
            None => product.reshape(out_dims),
        }
    }
}

/// The product with the bias already in the destination, so that the output is written once.
struct Product;

impl Product {
    fn run(
        x: (&CpuStorage, &Layout),
        weight: (&CpuStorage, &Layout),
        bias: Option<&[f32]>,
    ) -> Result<(CpuStorage, Shape)> {
        let (out_features, in_features) = weight.1.shape().dims2()?;
        let rows = cpu::Rows::new(x.0, x.1)?;
        if rows.width != in_features {
            candle_core::bail!("a linear layer for {in_features} features was given {:?}", x.1.shape());
        }
        let weight = cpu::contiguous(weight.0, weight.1)?;
        let mut out = Vec::with_capacity(rows.count * out_features);
        match bias {
            Some(bias) => (0..rows.count).for_each(|_| out.extend_from_slice(bias)),
            None => out.resize(rows.count * out_features, 0.0),
        }
        let a =
            Matrix { data: rows.data(), rows: rows.count, cols: in_features, row_stride: rows.stride, col_stride: 1 };
        let b = Matrix::row_major(weight, out_features, in_features).transposed();
        gemm(&mut out, out_features, a, b, bias.is_some(), 1.0, Threads::All);
        let mut dims = x.1.dims().to_vec();
        let last = dims.len() - 1;
        dims[last] = out_features;
        Ok((CpuStorage::F32(out), Shape::from(dims)))
    }
}

impl CustomOp2 for Product {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        Self::run((s1, l1), (s2, l2), None)
    }
}

impl CustomOp3 for Product {
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
