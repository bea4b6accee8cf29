//! Attention: cuDNN's fused kernel where it applies, our own for a few keys a query, and matrix products around a
//! softmax over slices of the queries for the rest.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::{
    Gpu,
    cudnn::{BFLOAT16, Cudnn, FLOAT, Kind, Plan, TensorSpec, Value},
    kernels::{Arg, Grid},
    matmul::{Epilogue, Operands, Product, Side},
    view,
};
use crate::nn::Mask;

/// The kernel for long sequences of this number format.
pub fn attention_kernel(device: &Device, dtype: DType) -> String {
    let cudnn =
        device.as_cuda_device().and_then(Gpu::of_device).ok().and_then(|gpu| Some(gpu.cudnn.as_ref()?.version()));
    match cudnn {
        Some(version) if dtype == DType::BF16 => format!("cudnn-sdpa {version}"),
        _ => "cublas-softmax".to_owned(),
    }
}

/// Keys a query sees at most in our own kernel: their scores stand in shared memory.
const FEW_KEYS: usize = 8192;

/// cuDNN's kernel takes keys by so many, and loses 7 to 14 % where some are left over.
const TILE: usize = 128;

/// From so many keys on, it is faster to attend to what is left over in a kernel of its own.
const SPLIT_FROM: usize = 8192;

/// Elements of a head in `kernels/attention_tail.cu`.
const TAIL_HEAD: usize = 128;

/// `q` `(1, s, h, d)`, `k` and `v` `(1, t, g, d)` -> `(1, s, h d)`. See [`crate::nn::attention`].
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, mask: Mask<'_>) -> Result<Tensor> {
    let gpu = Gpu::of(q)?;
    let (q, k, v) = (Heads::new(q)?, Heads::new(k)?, Heads::new(v)?);
    let call = Call { gpu: &gpu, q: &q, k: &k, v: &v, scale: scale as f32 };
    match mask {
        Mask::Segments(bounds) => call.segments(bounds),
        Mask::Causal { past } if q.tokens == 1 && past + 1 == k.tokens && k.tokens <= FEW_KEYS => call.few_keys(None),
        Mask::Causal { past } => call.sliced(Some(past)),
        Mask::All => match call.fused()? {
            Some(out) => Ok(out),
            None => call.sliced(None),
        },
    }
}

/// `(1, tokens, heads, d)` with the elements of a head side by side.
struct Heads {
    x: Tensor,
    address: u64,
    tokens: usize,
    heads: usize,
    head: usize,
    /// Elements from a token, and from a head, to the next.
    token_stride: usize,
    head_stride: usize,
}

impl Heads {
    fn new(x: &Tensor) -> Result<Self> {
        let x = if x.stride()[3] == 1 { x.clone() } else { x.contiguous()? };
        let (_, tokens, heads, head) = x.dims4()?;
        let (token_stride, head_stride) = (x.stride()[1], x.stride()[2]);
        Ok(Self { address: view::address(&x)?, tokens, heads, head, token_stride, head_stride, x })
    }

    /// The same without what stands before token `start` and after the `tokens` that follow it.
    fn cut(&self, start: usize, tokens: usize) -> Self {
        Self { address: self.element(start * self.token_stride), tokens, x: self.x.clone(), ..*self }
    }

    fn element(&self, index: usize) -> u64 {
        self.address + (index * self.x.dtype().size_in_bytes()) as u64
    }
}

/// Everything that a plan of cuDNN's depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FusedShape {
    /// Heads, tokens, and the strides of head and token, of q, k and v.
    sides: [[usize; 4]; 3],
    head: usize,
    /// Whether it tells the logarithm of the sum that each row was divided by.
    with_sums: bool,
}

/// Of q, k, v, the output, the scale and the sums.
const IDS: [i64; 6] = [1, 2, 3, 4, 5, 6];

struct Call<'a> {
    gpu: &'a Gpu,
    q: &'a Heads,
    k: &'a Heads,
    v: &'a Heads,
    scale: f32,
}

impl Call<'_> {
    fn out(&self) -> Result<Tensor> {
        view::fresh((1, self.q.tokens, self.q.heads * self.q.head), &self.q.x)
    }

    /// cuDNN's one operation for all of it; none where it does not apply.
    fn fused(&self) -> Result<Option<Tensor>> {
        let (q, k, v) = (self.q, self.k, self.v);
        let sides = [q, k, v];
        // Its kernels read 16 bytes at a time.
        let fits = |x: &Heads| {
            x.address.is_multiple_of(16) && x.token_stride.is_multiple_of(8) && x.head_stride.is_multiple_of(8)
        };
        if q.x.dtype() != DType::BF16 || !q.head.is_multiple_of(8) || q.head > 256 || !sides.iter().all(|x| fits(x)) {
            return Ok(None);
        }
        let Some(cudnn) = &self.gpu.cudnn else {
            self.gpu.warn_once("cuDNN 9.13 or newer was not found; attention runs several times slower without it");
            return Ok(None);
        };
        let rest = k.tokens % TILE;
        let splits = rest != 0 && k.tokens >= SPLIT_FROM && q.head == TAIL_HEAD && q.heads == k.heads;
        let out = self.out()?;
        if !splits {
            return Ok(self.planned(cudnn, k, v, &out, None)?.then_some(out));
        }
        // SAFETY: filled by cuDNN before the kernel below reads it.
        let sums = unsafe { Tensor::empty((q.heads, q.tokens), DType::F32, q.x.device())? };
        let most = k.tokens - rest;
        if !self.planned(cudnn, &k.cut(0, most), &v.cut(0, most), &out, Some(&sums))? {
            return Ok(self.planned(cudnn, k, v, &out, None)?.then_some(out));
        }
        self.tail(&k.cut(most, rest), &v.cut(most, rest), &out, &sums)?;
        Ok(Some(out))
    }

    /// Queues cuDNN's attention; false where it refuses the shape.
    fn planned(&self, cudnn: &Cudnn, k: &Heads, v: &Heads, out: &Tensor, sums: Option<&Tensor>) -> Result<bool> {
        let q = self.q;
        let sides = [q, k, v].map(|x| [x.heads, x.tokens, x.head_stride, x.token_stride]);
        let key = FusedShape { sides, head: q.head, with_sums: sums.is_some() };
        let refused = |error: candle_core::Error| self.gpu.warn_once(&error.to_string());
        let Some(plan) = self.gpu.attention_plans.get(&key, || key.plan(cudnn), refused) else { return Ok(false) };
        let scale = std::ptr::from_ref(&self.scale) as u64;
        let mut addresses = vec![q.address, k.address, v.address, view::address(out)?, scale];
        addresses.extend(sums.map(view::address).transpose()?);
        cudnn.execute(&plan, &IDS[..addresses.len()], &addresses, self.gpu.scratch(plan.workspace)?)?;
        Ok(true)
    }

    /// Adds what a few more keys give to `out`, whose rows were divided by `sums`.
    fn tail(&self, k: &Heads, v: &Heads, out: &Tensor, sums: &Tensor) -> Result<()> {
        const QUERIES: usize = 64;
        let mut args = Vec::with_capacity(14);
        for x in [self.q, k, v] {
            args.extend([Arg::Address(x.address), Arg::Long(x.token_stride as i64), Arg::Long(x.head_stride as i64)]);
        }
        args.extend([
            Arg::Address(view::address(out)?),
            Arg::Address(view::address(sums)?),
            Arg::Int(self.q.tokens as i32),
            Arg::Int(k.tokens as i32),
            Arg::Float(self.scale),
        ]);
        let grid = Grid { blocks: (self.q.tokens.div_ceil(QUERIES), self.q.heads), threads: 128, shared: 0 };
        self.gpu.launch("attention_tail", "attention_tail_bf16", grid, &args)
    }

    /// Windows of one sequence.
    fn segments(&self, bounds: &[usize]) -> Result<Tensor> {
        let spans =
            bounds.windows(2).flat_map(|pair| std::iter::repeat_n([pair[0] as u32, pair[1] as u32], pair[1] - pair[0]));
        let spans: Vec<u32> = spans.flatten().collect();
        if spans.len() != 2 * self.q.tokens {
            bail!("segments that end at {:?} for {} queries", bounds.last(), self.q.tokens);
        }
        let widest = bounds.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
        if widest <= FEW_KEYS {
            return self.few_keys(Some((&Tensor::new(spans, self.q.x.device())?, widest)));
        }
        bail!("a window of {widest} keys; the kernel takes up to {FEW_KEYS}")
    }

    /// Our own kernel: a block of threads for each query and head. `spans` gives first and last key of each query,
    /// and the most keys that one has.
    fn few_keys(&self, spans: Option<(&Tensor, usize)>) -> Result<Tensor> {
        const THREADS: usize = 128;
        let (q, k, v) = (self.q, self.k, self.v);
        let out = self.out()?;
        let (bounds, most) = match spans {
            Some((spans, most)) => (view::address(spans)?, most),
            None => (0, k.tokens),
        };
        let mut args = Vec::with_capacity(16);
        for x in [q, k, v] {
            args.extend([Arg::Address(x.address), Arg::Long(x.token_stride as i64), Arg::Long(x.head_stride as i64)]);
        }
        args.extend([
            Arg::Address(view::address(&out)?),
            Arg::Address(bounds),
            Arg::Int(k.tokens as i32),
            Arg::Int(q.heads as i32),
            Arg::Int((q.heads / k.heads) as i32),
            Arg::Int(q.head as i32),
            Arg::Float(self.scale),
        ]);
        let grid = Grid {
            blocks: (q.tokens, q.heads),
            threads: THREADS,
            shared: (q.head + most + THREADS) * size_of::<f32>(),
        };
        let name = if q.x.dtype() == DType::BF16 { "row_attention_bf16" } else { "row_attention_f32" };
        self.gpu.launch("attention", name, grid, &args)?;
        Ok(out)
    }

    /// Scores of a slice of queries, their softmax, and the product with the values. Nothing larger than `SCORES`
    /// is ever held.
    fn sliced(&self, causal: Option<usize>) -> Result<Tensor> {
        /// Scores of a slice, in elements.
        const SCORES: usize = 1 << 28;
        let (q, k, v) = (self.q, self.k, self.v);
        let dtype = q.x.dtype();
        let (keys, group) = (k.tokens, q.heads / k.heads);
        let slice = (SCORES / (q.heads * keys).max(1)).clamp(1, q.tokens.max(1));
        let out = self.out()?;
        let out_address = view::address(&out)?;
        let size = dtype.size_in_bytes();
        for start in (0..q.tokens).step_by(slice) {
            let rows = slice.min(q.tokens - start);
            // SAFETY: filled by the products below before the softmax reads it.
            let scores = unsafe { Tensor::empty((q.heads, rows, keys), DType::F32, q.x.device())? };
            let weights = view::fresh((q.heads, rows, keys), &q.x)?;
            let (scores_address, weights_address) = (view::address(&scores)?, view::address(&weights)?);
            let scores_side = Side { dtype: DType::F32, row: keys, batch: group * rows * keys };
            let weights_side = Side { dtype, ..scores_side };
            // One batch covers the heads that stand at the same place in their groups, each with its own keys.
            for place in 0..group {
                let product = Product {
                    rows,
                    columns: keys,
                    inner: q.head,
                    batches: k.heads,
                    left: Side { dtype, row: q.token_stride, batch: group * q.head_stride },
                    right: Side { dtype, row: k.token_stride, batch: k.head_stride },
                    out: scores_side,
                    transposed: true,
                    epilogue: Epilogue::None,
                    scaled: false,
                };
                let operands = Operands {
                    left: q.element(start * q.token_stride + place * q.head_stride),
                    right: k.address,
                    out: scores_address + (place * rows * keys * size_of::<f32>()) as u64,
                    ..Operands::default()
                };
                self.gpu.multiply(&product, operands)?;
            }
            let args = [
                Arg::Address(scores_address),
                Arg::Address(weights_address),
                Arg::Int(keys as i32),
                Arg::Int(rows as i32),
                Arg::Int((start + causal.unwrap_or(0)) as i32),
                Arg::Int(i32::from(causal.is_some())),
                Arg::Float(self.scale),
            ];
            let name = if dtype == DType::BF16 { "softmax_bf16" } else { "softmax_f32" };
            self.gpu.launch("attention", name, Grid::rows(q.heads * rows, 256), &args)?;
            for place in 0..group {
                let product = Product {
                    rows,
                    columns: q.head,
                    inner: keys,
                    batches: k.heads,
                    left: weights_side,
                    right: Side { dtype, row: v.token_stride, batch: v.head_stride },
                    out: Side { dtype, row: q.heads * q.head, batch: group * q.head },
                    transposed: false,
                    epilogue: Epilogue::None,
                    scaled: false,
                };
                let operands = Operands {
                    left: weights_address + (place * rows * keys * size) as u64,
                    right: v.address,
                    out: out_address + ((start * q.heads + place) * q.head * size) as u64,
                    ..Operands::default()
                };
                self.gpu.multiply(&product, operands)?;
            }
        }
        Ok(out)
    }
}

impl FusedShape {
    fn plan(&self, cudnn: &Cudnn) -> Result<Plan> {
        let [q, ..] = self.sides;
        let out = [q[0], q[1], self.head, q[0] * self.head];
        let tensor = |id: i64, [heads, tokens, head_stride, token_stride]: [usize; 4]| {
            let dims = [1, heads, tokens, self.head].map(|dim| dim as i64);
            let strides = [tokens * token_stride, head_stride, token_stride, 1].map(|stride| stride as i64);
            cudnn.tensor(TensorSpec {
                id,
                dtype: BFLOAT16,
                dims: &dims,
                strides: &strides,
                by_value: false,
                inner: false,
            })
        };
        let tensors = [tensor(1, q)?, tensor(2, self.sides[1])?, tensor(3, self.sides[2])?, tensor(4, out)?];
        let ones = [1; 4];
        let scale = cudnn.tensor(TensorSpec {
            id: 5,
            dtype: FLOAT,
            dims: &ones,
            strides: &ones,
            by_value: true,
            inner: false,
        })?;
        let operation = cudnn.descriptor(Kind::OperationAttention)?;
        for (name, tensor) in [2800, 2801, 2802, 2803].into_iter().zip(&tensors) {
            operation.set(name, Value::Descriptors(&[tensor]))?;
        }
        operation.set(2805, Value::Descriptors(&[&scale]))?;
        if self.with_sums {
            let dims = [1, q[0], q[1], 1].map(|dim| dim as i64);
            let strides = [q[0] * q[1], q[1], 1, 1].map(|stride| stride as i64);
            let spec =
                TensorSpec { id: 6, dtype: FLOAT, dims: &dims, strides: &strides, by_value: false, inner: false };
            operation.set(2804, Value::Descriptors(&[&cudnn.tensor(spec)?]))?;
        }
        cudnn.plan(&[&operation.finalize()?])
    }
}
