//! Scaled dot-product attention.
//!
//! On the CPU in float32 it is blocked: a task takes a head and a block of queries and iterates over blocks of keys
//! with a running softmax (Milakov & Gimelshein 2018), so the score matrix never exists. Elsewhere it is a plain
//! softmax over slices of the queries, small enough for candle's 32-bit indices and a bounded buffer. NVIDIA GPUs have
//! their own kernels, see `cuda`.

use candle_core::{CpuStorage, CustomOp3, D, DType, Device, Layout, Result, Shape, Tensor, bail};
use multiversion::multiversion;
use rayon::prelude::*;

use super::{
    cpu,
    gemm::{Matrix, gemm},
};

/// Which keys a query sees.
#[derive(Debug, Clone, Copy)]
pub enum AttentionMask<'a> {
    /// Every query sees every key.
    All,
    /// Query `i` sees keys `0 ..= i + past`.
    Causal {
        /// The number of keys before the first query.
        past: usize,
    },
    /// Block-diagonal: bounds of the segments, from 0 to the length. Queries and keys are the same sequence.
    Segments(&'a [usize]),
}

/// The name of the kernel that [`attention`] uses for this device and number format, for logs and manifests.
pub fn attention_kernel(device: &Device, dtype: DType) -> String {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return super::cuda::attention_kernel(device, dtype);
    }
    if device.is_cpu() && dtype == DType::F32 { "cpu-blocked".to_owned() } else { "softmax-chunked".to_owned() }
}

/// `softmax(q k^T * scale) v`, with `q` `(1, s, h, d)`, `k` and `v` `(1, t, g, d)` where `g` divides `h` (each key
/// head serves `h / g` query heads). Returns `(1, s, h * d)`. Scores and softmax are float32.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, mask: AttentionMask<'_>) -> Result<Tensor> {
    let (b, _, h, d) = q.dims4()?;
    let (_, _, g, _) = k.dims4()?;
    if b != 1 || h % g != 0 || k.dims() != v.dims() || k.dim(3)? != d {
        bail!("attention over q {:?}, k {:?}, v {:?}", q.shape(), k.shape(), v.shape());
    }
    if cpu::is_cpu_f32(q) {
        let op = Blocked { scale: scale as f32, mask };
        return q.contiguous()?.apply_op3_no_bwd(&k.contiguous()?, &v.contiguous()?, &op);
    }
    #[cfg(feature = "cuda")]
    if super::cuda::applies(q) {
        return super::cuda::attention(q, k, v, scale, mask);
    }
    match mask {
        AttentionMask::Segments(bounds) => {
            let parts: Vec<_> = bounds
                .windows(2)
                .filter(|pair| pair[1] > pair[0])
                .map(|pair| {
                    let cut = |x: &Tensor| x.narrow(1, pair[0], pair[1] - pair[0]);
                    chunked(&cut(q)?, &cut(k)?, &cut(v)?, scale, None)
                })
                .collect::<Result<_>>()?;
            Tensor::cat(&parts, 1)
        }
        AttentionMask::Causal { past } => chunked(q, k, v, scale, Some(past)),
        AttentionMask::All => chunked(q, k, v, scale, None),
    }
}

/// The maximum number of scores held at a time.
const SCORES: usize = 1 << 28;

fn chunked(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, causal: Option<usize>) -> Result<Tensor> {
    let (_, s, h, d) = q.dims4()?;
    let (_, t, g, _) = k.dims4()?;
    let spread = |x: &Tensor| -> Result<Tensor> {
        let x = x.transpose(1, 2)?; // (1, g, t, d)
        if g == h { x.contiguous() } else { x.unsqueeze(2)?.expand((1, g, h / g, t, d))?.reshape((1, h, t, d)) }
    };
    let (k, v) = (spread(k)?, spread(v)?);
    let k = k.transpose(2, 3)?.contiguous()?;
    let q = q.transpose(1, 2)?.contiguous()?;
    let rows = (SCORES / (h * t).max(1)).clamp(1, s.max(1));
    let mut parts = Vec::new();
    for start in (0..s).step_by(rows) {
        let count = rows.min(s - start);
        let mut scores = (q.narrow(2, start, count)?.contiguous()?.matmul(&k)?.to_dtype(DType::F32)? * scale)?;
        if let Some(past) = causal {
            scores = scores.broadcast_add(&causal_bias(start + past, count, t, q.device())?)?;
        }
        let scores = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
        let weights = scores.broadcast_div(&scores.sum_keepdim(D::Minus1)?)?.to_dtype(v.dtype())?;
        parts.push(weights.matmul(&v)?.transpose(1, 2)?.reshape((1, count, h * d))?);
    }
    Tensor::cat(&parts, 1)
}

fn causal_bias(first: usize, rows: usize, keys: usize, device: &Device) -> Result<Tensor> {
    let bias: Vec<f32> = (0..rows)
        .flat_map(|row| (0..keys).map(move |key| if key <= first + row { 0.0 } else { f32::NEG_INFINITY }))
        .collect();
    Tensor::from_vec(bias, (1, 1, rows, keys), device)
}

struct Blocked<'a> {
    scale: f32,
    mask: AttentionMask<'a>,
}

/// Queries and keys per block, so that a block's scores fit into the L2 cache.
const QUERIES: usize = 128;
const KEYS: usize = 512;

/// A block of queries of one head, and the keys that it may see.
struct QueryBlock {
    head: usize,
    queries: std::ops::Range<usize>,
    keys: std::ops::Range<usize>,
}

impl CustomOp3 for Blocked<'_> {
    fn name(&self) -> &'static str {
        "blocked-attention"
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
        let (q, k, v) = (cpu::contiguous(s1, l1)?, cpu::contiguous(s2, l2)?, cpu::contiguous(s3, l3)?);
        let (_, s, h, d) = l1.shape().dims4()?;
        let (_, t, g, _) = l2.shape().dims4()?;
        let transposed = transpose_keys(k, g, t, d);
        let blocks: Vec<_> = self
            .tasks(s, t, h)
            .into_par_iter()
            .map(|task| {
                let kv = task.head / (h / g);
                let keys = Matrix::row_major(&transposed[kv * d * t..][..d * t], d, t);
                let values = Matrix { data: &v[kv * d..], rows: t, cols: d, row_stride: g * d, col_stride: 1 };
                let queries = Matrix { data: &q[task.head * d..], rows: s, cols: d, row_stride: h * d, col_stride: 1 };
                let block = self.block(&task, queries, keys, values);
                (task, block)
            })
            .collect();
        let mut out = vec![0.0; s * h * d];
        for (task, block) in blocks {
            for (row, values) in task.queries.zip(block.chunks_exact(d)) {
                out[(row * h + task.head) * d..][..d].copy_from_slice(values);
            }
        }
        Ok((CpuStorage::F32(out), Shape::from((1, s, h * d))))
    }
}

/// Keys `(t, g, d)` as `(g, d, t)`, the layout that products read without packing, for every block of queries.
fn transpose_keys(k: &[f32], g: usize, t: usize, d: usize) -> Vec<f32> {
    let mut transposed = vec![0.0; k.len()];
    transposed.par_chunks_mut(d * t).enumerate().for_each(|(head, transposed)| {
        // Squares with the size of a cache line keep both sides in the cache.
        for from in (0..t).step_by(16) {
            for (channel, out) in transposed.chunks_exact_mut(t).enumerate() {
                for key in from..(from + 16).min(t) {
                    out[key] = k[(key * g + head) * d + channel];
                }
            }
        }
    });
    transposed
}

fn rows<'a>(matrix: Matrix<'a>, range: &std::ops::Range<usize>) -> Matrix<'a> {
    Matrix { data: &matrix.data[range.start * matrix.row_stride..], rows: range.len(), ..matrix }
}

impl Blocked<'_> {
    fn tasks(&self, s: usize, t: usize, heads: usize) -> Vec<QueryBlock> {
        let whole = [0, s];
        let bounds = match self.mask {
            AttentionMask::Segments(bounds) => bounds,
            AttentionMask::All | AttentionMask::Causal { .. } => &whole,
        };
        let mut tasks = Vec::new();
        for head in 0..heads {
            for segment in bounds.windows(2) {
                for start in (segment[0]..segment[1]).step_by(QUERIES) {
                    let end = (start + QUERIES).min(segment[1]);
                    let keys = match self.mask {
                        AttentionMask::All => 0..t,
                        AttentionMask::Causal { past } => 0..(past + end).min(t),
                        AttentionMask::Segments(_) => segment[0]..segment[1],
                    };
                    tasks.push(QueryBlock { head, queries: start..end, keys });
                }
            }
        }
        tasks
    }

    /// The output rows of one task, `(queries, d)`; `keys` is `(d, t)`, the others are `(tokens, d)`.
    fn block(&self, task: &QueryBlock, queries: Matrix<'_>, keys: Matrix<'_>, values: Matrix<'_>) -> Vec<f32> {
        let (n, d) = (task.queries.len(), queries.cols);
        let query_rows = rows(queries, &task.queries);
        let mut out = vec![0.0; n * d];
        let mut scores = vec![0.0; n * KEYS.min(task.keys.len())];
        let mut highest = vec![f32::NEG_INFINITY; n];
        let mut sums = vec![0.0; n];
        for start in task.keys.clone().step_by(KEYS) {
            let range = start..(start + KEYS).min(task.keys.end);
            let width = range.len();
            let scores = &mut scores[..n * width];
            let keys = Matrix { data: &keys.data[range.start..], cols: width, ..keys };
            gemm(scores, width, query_rows, keys, false, self.scale);
            let visible = |index: usize| match self.mask {
                AttentionMask::Causal { past } => {
                    (task.queries.start + index + past + 1).saturating_sub(start).min(width)
                }
                AttentionMask::All | AttentionMask::Segments(_) => width,
            };
            for (index, row) in scores.chunks_exact_mut(width).enumerate() {
                let correction = softmax_step(row, visible(index), &mut highest[index], &mut sums[index]);
                if correction != 1.0 {
                    out[index * d..][..d].iter_mut().for_each(|value| *value *= correction);
                }
            }
            let weights = Matrix::row_major(scores, n, width);
            gemm(&mut out, d, weights, rows(values, &range), true, 1.0);
        }
        for (row, sum) in out.chunks_exact_mut(d).zip(sums) {
            row.iter_mut().for_each(|value| *value /= sum);
        }
        out
    }
}

/// Turns a row of scores into weights relative to the highest score so far; returns what earlier weights must be
/// multiplied by.
#[multiversion(targets = "simd")]
fn softmax_step(row: &mut [f32], visible: usize, highest: &mut f32, sum: &mut f32) -> f32 {
    let (seen, hidden) = row.split_at_mut(visible);
    hidden.fill(0.0);
    if seen.is_empty() {
        return 1.0;
    }
    let mut lanes = [f32::NEG_INFINITY; 16];
    let mut blocks = seen.chunks_exact(16);
    for block in &mut blocks {
        for (lane, &value) in lanes.iter_mut().zip(block) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    let top = lanes.iter().chain(blocks.remainder()).fold(*highest, |a, &b| a.max(b));
    for value in seen.iter_mut() {
        *value = cpu::exp(*value - top);
    }
    let correction = if *highest == f32::NEG_INFINITY { 0.0 } else { cpu::exp(*highest - top) };
    *sum = *sum * correction + cpu::sum_by(seen, |value| value);
    *highest = top;
    correction
}
