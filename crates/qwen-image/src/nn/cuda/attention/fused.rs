//! Attention as one cuDNN operation, and our own kernel for the remaining keys that do not fill one of its tiles.

use candle_core::{DType, Result, Tensor, bail};

use super::{
    super::{
        cudnn::{
            AttributeValue, Cudnn, ExecutionPlan, TensorSpec,
            sys::{
                AttributeName::*,
                DataType::{self, CUDNN_DATA_BFLOAT16, CUDNN_DATA_FLOAT},
                DescriptorType::CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR,
            },
        },
        kernels::{Arg, Grid},
        view::Region,
    },
    Call, Heads, heads_args,
};

/// The number of keys in a tile of cuDNN's kernel. It is 7 to 14 % slower if the last tile is not full.
const TILE: usize = 128;

/// From this many keys on, a separate kernel for the remaining keys is faster.
const SPLIT_FROM: usize = 8192;

/// The size of a head in `kernels/attention_tail.cu`, in elements.
const TAIL_HEAD: usize = 128;

/// Everything that a plan depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FusedShape {
    /// For each of q, k and v: heads, tokens, and the strides of a head and of a token.
    sides: [[usize; 4]; 3],
    head: usize,
    /// Whether the plan also outputs the logarithm of the sum that each row was divided by.
    with_sums: bool,
}

/// The ids of a plan's tensors.
const Q: i64 = 1;
const K: i64 = 2;
const V: i64 = 3;
const OUT: i64 = 4;
const SCALE: i64 = 5;
const SUMS: i64 = 6;

impl Call<'_> {
    /// Attention as one cuDNN operation; none if cuDNN does not support it.
    pub(super) fn fused(&self) -> Result<Option<Tensor>> {
        let Self { q, k, v, .. } = self;
        if q.x.dtype() != DType::BF16 || !q.head.is_multiple_of(8) || q.head > 256 || ![q, k, v].into_iter().all(fits) {
            return Ok(None);
        }
        let Some(cudnn) = &self.gpu.cudnn else {
            self.gpu.warn_once("cuDNN 9.13 or newer was not found; attention runs several times slower without it");
            return Ok(None);
        };
        let rest = k.tokens % TILE;
        let splits = rest != 0 && k.tokens >= SPLIT_FROM && q.head == TAIL_HEAD && q.heads == k.heads;
        // SAFETY: if a plan is queued, cuDNN writes all of it; otherwise it is dropped unread.
        let out = unsafe { self.out()? };
        if !splits {
            return Ok(self.planned(cudnn, [k, v], &out, None)?.then_some(out));
        }
        // SAFETY: if a plan is queued, cuDNN writes all of it before the kernel reads it; otherwise it is dropped
        // unread.
        let sums = unsafe { Tensor::empty((q.heads, q.tokens), DType::F32, q.x.device())? };
        let most = k.tokens - rest;
        if !self.planned(cudnn, [&k.cut(0, most), &v.cut(0, most)], &out, Some(&sums))? {
            return Ok(self.planned(cudnn, [k, v], &out, None)?.then_some(out));
        }
        self.tail([&k.cut(most, rest), &v.cut(most, rest)], &out, &sums)?;
        Ok(Some(out))
    }

    /// Queues cuDNN's attention; returns false if cuDNN refuses the shape.
    fn planned(&self, cudnn: &Cudnn, [k, v]: [&Heads; 2], out: &Tensor, sums: Option<&Tensor>) -> Result<bool> {
        let q = &self.q;
        let sides = [q, k, v].map(|x| [x.heads, x.tokens, x.head_stride, x.token_stride]);
        let shape = FusedShape { sides, head: q.head, with_sums: sums.is_some() };
        let refused = |error: candle_core::Error| self.gpu.warn_once(&error.to_string());
        let Some(plan) = self.gpu.attention_plans.get(&shape, || shape.plan(cudnn), refused) else { return Ok(false) };
        let address = |region: Region<'_>| -> Result<u64> {
            self.gpu.owns(&region)?;
            Ok(*region.address())
        };
        let addresses = [
            address(q.region()?)?,
            address(k.region()?)?,
            address(v.region()?)?,
            address(Region::of(out)?.holding(DType::BF16, q.tokens * q.heads * q.head)?)?,
            std::ptr::from_ref(&self.scale) as u64,
            match sums {
                Some(sums) => address(Region::of(sums)?.holding(DType::F32, q.heads * q.tokens)?)?,
                None => 0,
            },
        ];
        let ids = [Q, K, V, OUT, SCALE, SUMS];
        let count = if sums.is_some() { 6 } else { 5 };
        let workspace = self.gpu.scratch(plan.workspace)?;
        // SAFETY: these are the tensors of `shape.plan`; the last one exists only with sums. `shape` has the sizes and
        // strides of q, k and v. Their regions hold every head of every token; `fused` checked that they are bfloat16
        // and aligned, and so are their parts that start at a later token. `out` and `sums` were allocated with the
        // plan's sizes, at aligned addresses. The scale is a float32 that `self` holds. The workspace is scratch memory
        // of the plan's size, which is used only by work on this stream.
        unsafe { cudnn.execute(&plan, &ids[..count], &addresses[..count], workspace)? };
        Ok(true)
    }

    /// Adds attention to the remaining keys to `out`, whose rows were divided by `sums`. Requires bfloat16, heads of
    /// 128 elements, as many key heads as query heads, and aligned addresses and strides.
    fn tail(&self, [k, v]: [&Heads; 2], out: &Tensor, sums: &Tensor) -> Result<()> {
        const QUERIES: usize = 64;
        let q = &self.q;
        if q.head != TAIL_HEAD || k.heads != q.heads || ![q, k, v].into_iter().all(fits) {
            bail!("the kernel for the remaining keys supports only aligned heads of {TAIL_HEAD} elements");
        }
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
            Arg::Region(Region::of(out)?.holding(DType::BF16, q.tokens * q.heads * q.head)?),
            Arg::Region(Region::of(sums)?.holding(DType::F32, q.heads * q.tokens)?),
            Arg::Int(q.tokens as i32),
            Arg::Int(k.tokens as i32),
            Arg::Float(self.scale),
        ];
        let grid = Grid { blocks: (q.tokens.div_ceil(QUERIES), q.heads), threads: 128, shared: 0 };
        // SAFETY: `fused` checked that all are bfloat16. A block processes 64 queries of a head. Beyond the last query
        // it reads the last one again and writes nothing; beyond the last key it reads nothing. q, k and v have `heads`
        // heads of 128 elements, whose addresses and strides allow accesses of 16 bytes; the sizes of `out` and `sums`
        // were checked above.
        unsafe { self.gpu.launch("attention_tail", "attention_tail_bf16", grid, &args) }
    }
}

/// Whether kernels can read it 16 bytes at a time.
fn fits(x: &Heads) -> bool {
    x.token_stride.is_multiple_of(8) && x.head_stride.is_multiple_of(8) && x.region().is_ok_and(Region::aligned)
}

impl FusedShape {
    fn plan(&self, cudnn: &Cudnn) -> Result<ExecutionPlan> {
        let [q, k, v] = self.sides;
        let out = [q[0], q[1], self.head, q[0] * self.head];
        let tensor = |id: i64, dtype: DataType, dims: [usize; 4], strides: [usize; 4]| {
            let (dims, strides) = (dims.map(|dim| dim as i64), strides.map(|stride| stride as i64));
            let by_value = id == SCALE;
            cudnn.tensor(TensorSpec { id, dtype, dims: &dims, strides: &strides, by_value, is_virtual: false })
        };
        let heads = |id: i64, [heads, tokens, head_stride, token_stride]: [usize; 4]| {
            let strides = [tokens * token_stride, head_stride, token_stride, 1];
            tensor(id, CUDNN_DATA_BFLOAT16, [1, heads, tokens, self.head], strides)
        };
        let operation = cudnn.descriptor(CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR)?;
        let tensors = [
            (CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, heads(Q, q)?),
            (CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, heads(K, k)?),
            (CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, heads(V, v)?),
            (CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, heads(OUT, out)?),
            (CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC, tensor(SCALE, CUDNN_DATA_FLOAT, [1; 4], [1; 4])?),
        ];
        for (name, tensor) in &tensors {
            operation.set(*name, AttributeValue::Descriptors(&[tensor]))?;
        }
        if self.with_sums {
            let sums = tensor(SUMS, CUDNN_DATA_FLOAT, [1, q[0], q[1], 1], [q[0] * q[1], q[1], 1, 1])?;
            operation.set(CUDNN_ATTR_OPERATION_SDPA_FWD_STATSDESC, AttributeValue::Descriptors(&[&sums]))?;
        }
        cudnn.plan(&[&operation.finalize()?])
    }
}
