//! Attention. It uses cuDNN's fused kernel where that is supported, our own kernel if each query has few keys, and
//! otherwise matrix products around a softmax, over slices of the queries.

mod fused;

use candle_core::{DType, Device, Result, Tensor, bail};

pub use self::fused::FusedShape;
use super::{
    Gpu,
    kernels::{Arg, Grid},
    matmul::{Epilogue, Operands, Product, Side},
    view::{self, Region},
};
use crate::nn::AttentionMask;

/// The name of the kernel for long sequences in this number format.
pub fn attention_kernel(device: &Device, dtype: DType) -> String {
    let cudnn =
        device.as_cuda_device().and_then(Gpu::of_device).ok().and_then(|gpu| Some(gpu.cudnn.as_ref()?.version()));
    match cudnn {
        Some(version) if dtype == DType::BF16 => format!("cudnn-sdpa {version}"),
        _ => "cublas-softmax".to_owned(),
    }
}

/// The maximum number of keys per query in our own kernel, which holds their scores in shared memory.
const FEW_KEYS: usize = 8192;

/// `q` `(1, s, h, d)`, `k` and `v` `(1, t, g, d)` -> `(1, s, h d)`. See [`crate::nn::attention`].
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, mask: AttentionMask<'_>) -> Result<Tensor> {
    let gpu = Gpu::of(q)?;
    let call = Call::new(&gpu, [q, k, v], scale as f32)?;
    let (q, k) = (&call.q, &call.k);
    match mask {
        AttentionMask::Segments(bounds) => call.segments(bounds),
        AttentionMask::Causal { past } if q.tokens == 1 && past + 1 == k.tokens && k.tokens <= FEW_KEYS => {
            call.few_keys(None)
        }
        AttentionMask::Causal { past } => call.sliced(Some(past)),
        AttentionMask::All => match call.fused()? {
            Some(out) => Ok(out),
            None => call.sliced(None),
        },
    }
}

/// `(1, tokens, heads, d)` with contiguous heads.
struct Heads {
    x: Tensor,
    /// The number of elements before the first token.
    skipped: usize,
    tokens: usize,
    heads: usize,
    head: usize,
    /// The distances between tokens and between heads, in elements.
    token_stride: usize,
    head_stride: usize,
}

impl Heads {
    fn new(x: &Tensor) -> Result<Self> {
        let x = if x.stride()[3] == 1 { x.clone() } else { x.contiguous()? };
        let (_, tokens, heads, head) = x.dims4()?;
        let (token_stride, head_stride) = (x.stride()[1], x.stride()[2]);
        Ok(Self { skipped: 0, tokens, heads, head, token_stride, head_stride, x })
    }

    /// The part of `tokens` tokens that begins at token `start`.
    fn cut(&self, start: usize, tokens: usize) -> Self {
        Self { skipped: self.skipped + start * self.token_stride, tokens, x: self.x.clone(), ..*self }
    }

    /// The memory from the first token on, checked to hold every head of every token.
    fn region(&self) -> Result<Region<'_>> {
        let Self { tokens, heads, head, .. } = *self;
        let len = if tokens == 0 || heads == 0 {
            0
        } else {
            (tokens - 1) * self.token_stride + (heads - 1) * self.head_stride + head
        };
        Region::of(&self.x)?.skip(self.skipped)?.holding(self.x.dtype(), len)
    }
}

/// A kernel's arguments for heads: the memory, and the distances between tokens and between heads, in elements.
fn heads_args(heads: &Heads) -> Result<[Arg<'_>; 3]> {
    Ok([Arg::Region(heads.region()?), Arg::Long(heads.token_stride as i64), Arg::Long(heads.head_stride as i64)])
}

/// One call. Keys and values have equally many tokens and heads, and the number of query heads is a multiple of that of
/// their heads. All three have the same head size and number format.
struct Call<'a> {
    gpu: &'a Gpu,
    q: Heads,
    k: Heads,
    v: Heads,
    scale: f32,
}

impl<'a> Call<'a> {
    fn new(gpu: &'a Gpu, [q, k, v]: [&Tensor; 3], scale: f32) -> Result<Self> {
        let (one, _, q_heads, head) = q.dims4()?;
        let (_, tokens, heads, _) = k.dims4()?;
        let formats = [q.dtype(), k.dtype(), v.dtype()];
        if one != 1
            || k.dims() != [1, tokens, heads, head]
            || v.dims() != k.dims()
            || heads == 0
            || !q_heads.is_multiple_of(heads)
            || formats != [q.dtype(); 3]
        {
            bail!("attention over q {:?}, k {:?}, v {:?} in {formats:?}", q.shape(), k.shape(), v.shape());
        }
        Ok(Self { gpu, q: Heads::new(q)?, k: Heads::new(k)?, v: Heads::new(v)?, scale })
    }

    /// Memory for the result, `(1, tokens, heads * head)`.
    ///
    /// # Safety
    /// See [`view::fresh`].
    unsafe fn out(&self) -> Result<Tensor> {
        // SAFETY: the caller guarantees it.
        unsafe { view::fresh((1, self.q.tokens, self.q.heads * self.q.head), &self.q.x) }
    }

    /// Attention within segments of one sequence, for instance the windows of a picture.
    fn segments(&self, bounds: &[usize]) -> Result<Tensor> {
        if !bounds.is_sorted() || bounds.last().is_some_and(|&end| end > self.k.tokens) {
            bail!("segments {bounds:?} of {} keys", self.k.tokens);
        }
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

    /// Our own kernel, with a block of threads for each query and head. `spans` has the first key and the end of the
    /// keys of each query, and the maximum number of keys per query.
    fn few_keys(&self, spans: Option<(&Tensor, usize)>) -> Result<Tensor> {
        const THREADS: usize = 128;
        let Self { q, k, v, .. } = self;
        // SAFETY: the kernel below writes every element of every head.
        let out = unsafe { self.out()? };
        let (bounds, most) = match spans {
            Some((spans, most)) => (Arg::Region(Region::of(spans)?.holding(DType::U32, 2 * q.tokens)?), most),
            None => (Arg::Null, k.tokens),
        };
        let ([q_at, q_token, q_head], [k_at, k_token, k_head], [v_at, v_token, v_head]) =
            (heads_args(q)?, heads_args(k)?, heads_args(v)?);
        let args = [
            q_at,
            q_token,
            q_head,
            k_at,
            k_token,
            k_head,
            v_at,
            v_token,
            v_head,
            Arg::Region(Region::of(&out)?),
            bounds,
            Arg::Int(k.tokens as i32),
            Arg::Int(q.heads as i32),
            Arg::Int((q.heads / k.heads) as i32),
            Arg::Int(q.head as i32),
            Arg::Float(self.scale),
        ];
        let grid = Grid {
            blocks: (q.tokens, q.heads),
            threads: THREADS,
            shared: (q.head + most + THREADS) * size_of::<f32>(),
        };
        let name = match q.x.dtype() {
            DType::BF16 => "row_attention_bf16",
            DType::F32 => "row_attention_f32",
            dtype => bail!("no kernel takes {dtype:?}"),
        };
        // SAFETY: a block processes one token and head of the queries; its group has one head of the keys. It reads
        // single elements of the keys and values of its span, or of all without spans. `segments` checked that spans
        // end at the last key at most. `out` has `head` elements for each block. The shared memory has room for one
        // head, the scores of the longest span, and one number per thread.
        unsafe { self.gpu.launch("attention", name, grid, &args)? };
        Ok(out)
    }

    /// Slice by slice of the queries: the scores, their softmax, and the product with the values. No intermediate
    /// result is larger than `SCORES`.
    fn sliced(&self, causal: Option<usize>) -> Result<Tensor> {
        /// The number of scores of a slice.
        const SCORES: usize = 1 << 28;
        let Self { q, k, v, .. } = self;
        let dtype = q.x.dtype();
        let softmax = match dtype {
            DType::BF16 => "softmax_bf16",
            DType::F32 => "softmax_f32",
            dtype => bail!("no kernel takes {dtype:?}"),
        };
        let (keys, group) = (k.tokens, q.heads / k.heads);
        let slice = (SCORES / (q.heads * keys).max(1)).clamp(1, q.tokens.max(1));
        // SAFETY: the slices cover all queries, and the second products of each slice write all of its rows.
        let out = unsafe { self.out()? };
        let (q_region, k_region, v_region, out_region) = (q.region()?, k.region()?, v.region()?, Region::of(&out)?);
        for start in (0..q.tokens).step_by(slice) {
            let rows = slice.min(q.tokens - start);
            // SAFETY: the first products write the scores of all heads before the softmax reads them, and the softmax
            // writes the weights before the second products read them.
            let (scores, weights) = unsafe {
                (
                    Tensor::empty((q.heads, rows, keys), DType::F32, q.x.device())?,
                    view::fresh((q.heads, rows, keys), &q.x)?,
                )
            };
            let (scores, weights) = (Region::of(&scores)?, Region::of(&weights)?);
            let scores_side = Side { dtype: DType::F32, row: keys, batch: group * rows * keys };
            let weights_side = Side { dtype, ..scores_side };
            // One batch covers the query heads with the same position in their groups, each with its own key head.
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
                let left = q_region.skip(start * q.token_stride + place * q.head_stride)?;
                let out = scores.skip(place * rows * keys)?;
                self.gpu.multiply(&product, Operands::plain(left, k_region, out))?;
            }
            let args = [
                Arg::Region(scores),
                Arg::Region(weights),
                Arg::Int(keys as i32),
                Arg::Int(rows as i32),
                Arg::Int((start + causal.unwrap_or(0)) as i32),
                Arg::Int(i32::from(causal.is_some())),
                Arg::Float(self.scale),
            ];
            // SAFETY: a block processes one of `heads * rows` rows of `keys` elements, the size of scores and weights.
            unsafe { self.gpu.launch("attention", softmax, Grid::rows(q.heads * rows, 256), &args)? };
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
                let left = weights.skip(place * rows * keys)?;
                let out = out_region.skip((start * q.heads + place) * q.head)?;
                self.gpu.multiply(&product, Operands::plain(left, v_region, out))?;
            }
        }
        Ok(out)
    }
}
