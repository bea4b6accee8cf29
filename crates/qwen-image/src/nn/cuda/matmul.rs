//! Matrix products through cuBLASLt, with the bias and GELU in their epilogue. What the library answers about a shape
//! is asked once.

use std::{
    cell::RefCell,
    collections::{HashMap, hash_map::Entry},
    ptr,
};

use candle_core::{
    DType, Result, bail,
    cuda::cudarc::cublaslt::{
        result,
        sys::{
            cublasLtEpilogue_t as LtEpilogue, cublasLtMatmulAlgo_t as Algorithm,
            cublasLtMatmulDescAttributes_t as DescAttribute,
            cublasLtMatmulMatrixScale_t::CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F,
            cublasLtMatmulPreferenceAttributes_t as PreferenceAttribute,
            cublasLtMatrixLayoutAttribute_t as LayoutAttribute, cudaDataType_t as DataType,
        },
    },
};

use super::{
    Gpu,
    cublaslt::{Checked, LtHandle, MatmulDesc, MatmulPreference, MatrixLayout},
    view::Region,
};

/// What happens to a product before it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Epilogue {
    None,
    Bias,
    /// Bias, then GELU with the tanh approximation.
    BiasGelu,
}

/// One side of a product: rows of `row` elements distance, `batch` elements to the next matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Side {
    pub dtype: DType,
    pub row: usize,
    pub batch: usize,
}

/// `out[b] = left[b] right[b]`, all in row-major order: `left` is `(rows, inner)`, `out` is `(rows, columns)`, `right`
/// is `(inner, columns)`, or `(columns, inner)` when `transposed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Product {
    pub rows: usize,
    pub columns: usize,
    pub inner: usize,
    pub batches: usize,
    pub left: Side,
    pub right: Side,
    pub out: Side,
    pub transposed: bool,
    pub epilogue: Epilogue,
    /// Both sides are in eight bits, with a scale for each row of `left` and each column of the result.
    pub scaled: bool,
}

/// A product's tensors. `out` is overwritten.
#[derive(Clone, Copy)]
pub struct Operands<'a> {
    pub left: Region<'a>,
    pub right: Region<'a>,
    pub out: Region<'a>,
    /// A number for each column, in the format of `out`, where the epilogue adds one.
    pub bias: Option<Region<'a>>,
    /// A float32 for each row of `left`, and one for each column, where the product is scaled.
    pub scales: Option<[Region<'a>; 2]>,
}

impl<'a> Operands<'a> {
    pub fn plain(left: Region<'a>, right: Region<'a>, out: Region<'a>) -> Self {
        Self { left, right, out, bias: None, scales: None }
    }

    /// Bails unless every operand is of this device and as large as `product` says.
    fn check(&self, gpu: &Gpu, product: &Product) -> Result<()> {
        let Product { rows, columns, inner, batches, .. } = *product;
        let (right_rows, right_width) = if product.transposed { (columns, inner) } else { (inner, columns) };
        let matrix = |region: Region<'_>, side: Side, rows: usize, width: usize| -> Result<()> {
            let batches = batches.saturating_sub(1).saturating_mul(side.batch);
            let rows = rows.saturating_sub(1).saturating_mul(side.row);
            gpu.owns(&region.holding(side.dtype, batches.saturating_add(rows).saturating_add(width))?)
        };
        matrix(self.left, product.left, rows, inner)?;
        matrix(self.right, product.right, right_rows, right_width)?;
        matrix(self.out, product.out, rows, columns)?;
        let vector = |region: Option<Region<'_>>, dtype: DType, len: usize| -> Result<()> {
            let Some(region) = region else { bail!("{product:?} without all that it reads") };
            gpu.owns(&region.holding(dtype, len)?)
        };
        if product.epilogue != Epilogue::None {
            vector(self.bias, product.out.dtype, columns)?;
        }
        if product.scaled {
            vector(self.scales.map(|[rows, _]| rows), DType::F32, rows)?;
            vector(self.scales.map(|[_, columns]| columns), DType::F32, columns)?;
        }
        Ok(())
    }

    /// What the addresses of the library's A, B, C and D are multiples of, up to 256.
    fn alignments(&self) -> [u32; 4] {
        [self.right, self.left, self.out, self.out]
            .map(|region| (1_u64 << region.address().trailing_zeros().min(8)) as u32)
    }
}

/// NVIDIA's advice for Hopper.
const WORKSPACE: usize = 32 << 20;

/// A product, and what the addresses of A, B, C and D are multiples of.
type PlanKey = (Product, [u32; 4]);

pub struct Matmuls {
    /// None: the library has no way to compute it.
    plans: RefCell<HashMap<PlanKey, Option<MatmulPlan>>>,
    handle: LtHandle,
}

impl Matmuls {
    pub fn new() -> Result<Self> {
        Ok(Self { plans: RefCell::default(), handle: LtHandle::new()? })
    }
}

/// How the library computes a product.
struct MatmulPlan {
    desc: MatmulDesc,
    /// Of the library's A, B and C.
    layouts: [MatrixLayout; 3],
    algorithm: Algorithm,
}

fn data_type(dtype: DType) -> Result<DataType> {
    match dtype {
        DType::BF16 => Ok(DataType::CUDA_R_16BF),
        DType::F32 => Ok(DataType::CUDA_R_32F),
        DType::F8E4M3 => Ok(DataType::CUDA_R_8F_E4M3),
        _ => bail!("no matrix products of {dtype:?}"),
    }
}

impl MatmulPlan {
    /// The library counts in columns, so its A is our right side and its B our left one.
    fn new(
        handle: &LtHandle,
        product: &Product,
        operands: &Operands<'_>,
        alignments: [u32; 4],
    ) -> Result<Option<Self>> {
        let Product { rows, columns, inner, .. } = *product;
        let layout = |side: Side, fast: usize, slow: usize| -> Result<MatrixLayout> {
            let layout = MatrixLayout::new(data_type(side.dtype)?, fast, slow, side.row)?;
            if product.batches > 1 {
                let (count, stride) = (product.batches as i32, side.batch as i64);
                layout.set(LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count)?;
                layout.set(LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride)?;
            }
            Ok(layout)
        };
        let (fast, slow) = if product.transposed { (inner, columns) } else { (columns, inner) };
        let layouts = [
            layout(product.right, fast, slow)?,
            layout(product.left, inner, rows)?,
            layout(product.out, columns, rows)?,
        ];
        let desc = MatmulDesc::new()?;
        desc.set(DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA, &i32::from(product.transposed))?;
        let epilogue = match product.epilogue {
            Epilogue::None => LtEpilogue::CUBLASLT_EPILOGUE_DEFAULT,
            Epilogue::Bias => LtEpilogue::CUBLASLT_EPILOGUE_BIAS,
            Epilogue::BiasGelu => LtEpilogue::CUBLASLT_EPILOGUE_GELU_BIAS,
        };
        desc.set(DescAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
        if product.scaled {
            let mode = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
            desc.set(DescAttribute::CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &mode)?;
            desc.set(DescAttribute::CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &mode)?;
            desc.set(DescAttribute::CUBLASLT_MATMUL_DESC_FAST_ACCUM, &1_i8)?;
        }
        // The library wants to see the addresses before it chooses.
        set_addresses(&desc, product, operands)?;
        let preference = MatmulPreference::new()?;
        let choose = |splitting: bool| -> Result<Option<Algorithm>> {
            use PreferenceAttribute as Name;
            preference.set(Name::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &(WORKSPACE as u64))?;
            let names = [
                Name::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                Name::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                Name::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                Name::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
            ];
            for (name, alignment) in names.into_iter().zip(alignments) {
                preference.set(name, &alignment)?;
            }
            if !splitting {
                preference.set(Name::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &0_u32)?;
            }
            Ok(handle.algorithm(&desc, &layouts, &preference))
        };
        // For few rows the library likes to split the inner dimension, and then finds that it cannot with scales.
        let chosen = match choose(true)? {
            Some(algorithm) => Some(algorithm),
            None => choose(false)?,
        };
        Ok(chosen.map(|algorithm| Self { desc, layouts, algorithm }))
    }
}

/// What a plan reads beside its operands. A plan serves many layers, so this is set anew for each.
fn set_addresses(desc: &MatmulDesc, product: &Product, operands: &Operands<'_>) -> Result<()> {
    if product.scaled
        && let Some([left, right]) = &operands.scales
    {
        desc.set(DescAttribute::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, right.address())?;
        desc.set(DescAttribute::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, left.address())?;
    }
    if product.epilogue != Epilogue::None
        && let Some(bias) = &operands.bias
    {
        desc.set(DescAttribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.address())?;
    }
    Ok(())
}

impl Gpu {
    /// Queues a product.
    ///
    /// # Errors
    /// Where the library has no way to compute it, and where an operand is smaller than `product` says.
    pub fn multiply(&self, product: &Product, operands: Operands<'_>) -> Result<()> {
        if self.try_multiply(product, operands)? {
            return Ok(());
        }
        bail!("cuBLASLt has no way to compute {product:?}")
    }

    /// The same, but false where the library has no way to compute it.
    pub fn try_multiply(&self, product: &Product, operands: Operands<'_>) -> Result<bool> {
        if product.rows == 0 || product.columns == 0 {
            return Ok(true);
        }
        operands.check(self, product)?;
        let alignments = operands.alignments();
        let mut plans = self.matmul.plans.borrow_mut();
        let plan = match plans.entry((*product, alignments)) {
            Entry::Occupied(plan) => plan.into_mut(),
            Entry::Vacant(place) => place.insert(MatmulPlan::new(&self.matmul.handle, product, &operands, alignments)?),
        };
        let Some(MatmulPlan { desc, layouts: [a, b, c], algorithm }) = plan else { return Ok(false) };
        set_addresses(desc, product, &operands)?;
        let workspace = self.scratch(WORKSPACE)?;
        let (alpha, beta) = (1.0_f32, 0.0_f32);
        let Operands { left, right, out, .. } = operands;
        // SAFETY: handle and descriptors are alive as long as their owners, and the descriptors are of `product`. Every
        // operand, and what `desc` names beside them, is this device's and as large as they say, which was checked
        // above; the memory outlives the work because it is freed in the order of the stream. The workspace is the
        // scratch memory, which only work of the one stream uses; the scalars outlive the call.
        unsafe {
            result::matmul(
                self.matmul.handle.raw(),
                desc.raw(),
                ptr::from_ref(&alpha).cast(),
                ptr::from_ref(&beta).cast(),
                *right.address() as *const _,
                a.raw(),
                *left.address() as *const _,
                b.raw(),
                *out.address() as *const _,
                c.raw(),
                *out.address() as *mut _,
                c.raw(),
                algorithm,
                workspace as *mut _,
                WORKSPACE,
                self.stream.cu_stream().cast(),
            )
        }
        .checked()?;
        Ok(true)
    }
}
