//! Matrix products through cuBLASLt, with the bias and GELU in their epilogue. What the library answers about a shape
//! is asked once.

use std::{
    cell::RefCell,
    collections::{HashMap, hash_map::Entry},
    mem::size_of_val,
    ptr,
};

use candle_core::{
    DType, Result, bail,
    cuda::cudarc::cublaslt::{
        result,
        result::CublasError,
        sys::{
            self, cublasComputeType_t as Compute, cublasLtEpilogue_t as LtEpilogue,
            cublasLtMatmulDescAttributes_t as DescAttribute,
            cublasLtMatmulPreferenceAttributes_t as PreferenceAttribute,
            cublasLtMatrixLayoutAttribute_t as LayoutAttribute, cudaDataType_t as DataType,
        },
    },
};

use super::Gpu;

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

/// Where the operands are; `bias` and the scales only where the product reads them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Operands {
    pub left: u64,
    pub right: u64,
    pub bias: u64,
    pub out: u64,
    pub left_scales: u64,
    pub right_scales: u64,
}

/// NVIDIA's advice for Hopper.
const WORKSPACE: usize = 32 << 20;

/// A product, and what the addresses of A, B, C and D are multiples of.
type PlanKey = (Product, [u32; 4]);

pub struct Matmuls {
    handle: sys::cublasLtHandle_t,
    /// None: the library has no way to compute it.
    plans: RefCell<HashMap<PlanKey, Option<Plan>>>,
}

struct Plan {
    desc: sys::cublasLtMatmulDesc_t,
    /// Of the library's A, B and C.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Matmuls {
    pub fn new() -> Result<Self> {
        Ok(Self { handle: result::create_handle().checked()?, plans: RefCell::default() })
    }
}

impl Drop for Matmuls {
    fn drop(&mut self) {
        // SAFETY: the handle was made in `new`, and nothing uses it after this.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: made in `Plan::new`, and nothing uses them after this.
        unsafe {
            let _ = result::destroy_matmul_desc(self.desc);
            for layout in self.layouts {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}

/// The library's status as an error.
trait Checked<T> {
    fn checked(self) -> Result<T>;
}

impl<T> Checked<T> for std::result::Result<T, CublasError> {
    fn checked(self) -> Result<T> {
        self.map_err(|error| candle_core::Error::Msg(format!("cuBLASLt: {error}")).bt())
    }
}

fn data_type(dtype: DType) -> Result<DataType> {
    match dtype {
        DType::BF16 => Ok(DataType::CUDA_R_16BF),
        DType::F32 => Ok(DataType::CUDA_R_32F),
        DType::F8E4M3 => Ok(DataType::CUDA_R_8F_E4M3),
        _ => bail!("no matrix products of {dtype:?}"),
    }
}

impl Plan {
    /// The library counts in columns, so its A is our right side and its B our left one.
    fn new(
        handle: sys::cublasLtHandle_t,
        product: &Product,
        operands: &Operands,
        alignments: [u32; 4],
    ) -> Result<Option<Self>> {
        let Product { rows, columns, inner, .. } = *product;
        let layout = |side: Side, fast: usize, slow: usize| -> Result<_> {
            let layout =
                result::create_matrix_layout(data_type(side.dtype)?, fast as u64, slow as u64, side.row as i64)
                    .checked()?;
            if product.batches > 1 {
                let (count, stride) = (product.batches as i32, side.batch as i64);
                set_layout(layout, LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count).checked()?;
                set_layout(layout, LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride).checked()?;
            }
            Ok(layout)
        };
        let (fast, slow) = if product.transposed { (inner, columns) } else { (columns, inner) };
        let layouts = [
            layout(product.right, fast, slow)?,
            layout(product.left, inner, rows)?,
            layout(product.out, columns, rows)?,
        ];
        let desc = result::create_matmul_desc(Compute::CUBLAS_COMPUTE_32F, DataType::CUDA_R_32F).checked()?;
        let transpose = i32::from(product.transposed);
        set_desc(desc, DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA, &transpose).checked()?;
        let epilogue = match product.epilogue {
            Epilogue::None => LtEpilogue::CUBLASLT_EPILOGUE_DEFAULT,
            Epilogue::Bias => LtEpilogue::CUBLASLT_EPILOGUE_BIAS,
            Epilogue::BiasGelu => LtEpilogue::CUBLASLT_EPILOGUE_GELU_BIAS,
        };
        set_desc(desc, DescAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue).checked()?;
        if product.scaled {
            let mode = sys::cublasLtMatmulMatrixScale_t::CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
            set_desc(desc, DescAttribute::CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &mode).checked()?;
            set_desc(desc, DescAttribute::CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &mode).checked()?;
            set_desc(desc, DescAttribute::CUBLASLT_MATMUL_DESC_FAST_ACCUM, &1_i8).checked()?;
        }
        // The library wants to see the addresses before it chooses.
        set_addresses(desc, product, operands)?;
        let preference = result::create_matmul_pref().checked()?;
        let choose = |splitting: bool| -> Result<Option<sys::cublasLtMatmulAlgo_t>> {
            use PreferenceAttribute as Name;
            set_preference(preference, Name::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &(WORKSPACE as u64))
                .checked()?;
            let names = [
                Name::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                Name::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                Name::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                Name::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
            ];
            for (name, alignment) in names.into_iter().zip(alignments) {
                set_preference(preference, name, &alignment).checked()?;
            }
            if !splitting {
                set_preference(preference, Name::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &0_u32).checked()?;
            }
            let [a, b, c] = layouts;
            // SAFETY: all descriptors were made above and are alive.
            let found = unsafe { result::get_matmul_algo_heuristic(handle, desc, a, b, c, c, preference) };
            Ok(found.ok().map(|found| found.algo))
        };
        // For few rows the library likes to split the inner dimension, and then finds that it cannot with scales.
        let chosen = choose(true).and_then(|chosen| if chosen.is_some() { Ok(chosen) } else { choose(false) });
        // SAFETY: made above; nothing uses it after this.
        let _ = unsafe { result::destroy_matmul_pref(preference) };
        Ok(chosen?.map(|algorithm| Self { desc, layouts, algorithm }))
    }
}

/// What a plan reads beside its operands. A plan serves many layers, so this is set anew for each.
fn set_addresses(desc: sys::cublasLtMatmulDesc_t, product: &Product, operands: &Operands) -> Result<()> {
    if product.scaled {
        set_desc(desc, DescAttribute::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &operands.right_scales).checked()?;
        set_desc(desc, DescAttribute::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &operands.left_scales).checked()?;
    }
    if product.epilogue != Epilogue::None {
        set_desc(desc, DescAttribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &operands.bias).checked()?;
    }
    Ok(())
}

fn set_layout<T>(
    layout: sys::cublasLtMatrixLayout_t,
    name: LayoutAttribute,
    value: &T,
) -> std::result::Result<(), CublasError> {
    // SAFETY: the library copies that many bytes of the value.
    unsafe { result::set_matrix_layout_attribute(layout, name, ptr::from_ref(value).cast(), size_of_val(value)) }
}

fn set_desc<T>(
    desc: sys::cublasLtMatmulDesc_t,
    name: DescAttribute,
    value: &T,
) -> std::result::Result<(), CublasError> {
    // SAFETY: the library copies that many bytes of the value.
    unsafe { result::set_matmul_desc_attribute(desc, name, ptr::from_ref(value).cast(), size_of_val(value)) }
}

fn set_preference<T>(
    preference: sys::cublasLtMatmulPreference_t,
    name: PreferenceAttribute,
    value: &T,
) -> std::result::Result<(), CublasError> {
    // SAFETY: the library copies that many bytes of the value.
    unsafe { result::set_matmul_pref_attribute(preference, name, ptr::from_ref(value).cast(), size_of_val(value)) }
}

impl Gpu {
    /// Queues a product. The caller vouches that the operands are as large as `product` says.
    pub fn multiply(&self, product: &Product, operands: Operands) -> Result<()> {
        if self.try_multiply(product, operands)? {
            return Ok(());
        }
        bail!("cuBLASLt has no way to compute {product:?}")
    }

    /// The same, but false where the library has no way to compute it.
    pub fn try_multiply(&self, product: &Product, operands: Operands) -> Result<bool> {
        if product.rows == 0 || product.columns == 0 {
            return Ok(true);
        }
        let Operands { left, right, out, .. } = operands;
        // Which kernels the library may take depends on what the addresses are multiples of.
        let alignment = |address: u64| (1_u64 << address.trailing_zeros().min(8)) as u32;
        let alignments = [alignment(right), alignment(left), alignment(out), alignment(out)];
        let mut plans = self.matmul.plans.borrow_mut();
        let plan = match plans.entry((*product, alignments)) {
            Entry::Occupied(plan) => plan.into_mut(),
            Entry::Vacant(place) => place.insert(Plan::new(self.matmul.handle, product, &operands, alignments)?),
        };
        let Some(plan) = plan else { return Ok(false) };
        set_addresses(plan.desc, product, &operands)?;
        let workspace = self.scratch(WORKSPACE)?;
        let (alpha, beta) = (1.0_f32, 0.0_f32);
        let [a, b, c] = plan.layouts;
        // SAFETY: descriptors are alive; addresses are device memory that lives until this work has run, by the
        // caller's word and because memory is freed in the order of the stream; the scalars outlive the call.
        unsafe {
            result::matmul(
                self.matmul.handle,
                plan.desc,
                ptr::from_ref(&alpha).cast(),
                ptr::from_ref(&beta).cast(),
                right as *const _,
                a,
                left as *const _,
                b,
                out as *const _,
                c,
                out as *mut _,
                c,
                &plan.algorithm,
                workspace as *mut _,
                WORKSPACE,
                self.stream.cu_stream().cast(),
            )
        }
        .checked()?;
        Ok(true)
    }
}
