//! cuBLASLt's handle and descriptors, each destroyed with its owner.

use std::{mem::size_of_val, ptr};

use candle_core::{
    Result,
    cuda::cudarc::cublaslt::{
        result::{self, CublasError},
        sys::{
            cublasComputeType_t::CUBLAS_COMPUTE_32F, cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t,
            cublasLtMatmulDescAttributes_t, cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t,
            cublasLtMatrixLayout_t, cublasLtMatrixLayoutAttribute_t, cudaDataType_t,
        },
    },
};

/// The library's status as an error.
pub trait Checked<T> {
    fn checked(self) -> Result<T>;
}

impl<T> Checked<T> for std::result::Result<T, CublasError> {
    fn checked(self) -> Result<T> {
        self.map_err(|error| candle_core::Error::Msg(format!("cuBLASLt: {error}")).bt())
    }
}

/// Gives a type its raw pointer, which is good while the owner lives, and a destructor.
macro_rules! owned {
    ($type:ident: $raw:ty, $destroy:path) => {
        impl $type {
            pub fn raw(&self) -> $raw {
                self.0
            }
        }

        impl Drop for $type {
            fn drop(&mut self) {
                // SAFETY: the library made it for this owner alone, who is gone after this.
                let _ = unsafe { $destroy(self.0) };
            }
        }
    };
}

pub struct LtHandle(cublasLtHandle_t);
owned!(LtHandle: cublasLtHandle_t, result::destroy_handle);

impl LtHandle {
    pub fn new() -> Result<Self> {
        Ok(Self(result::create_handle().checked()?))
    }

    /// How the library would compute the product of the layouts of A and B into that of C; none where it cannot.
    pub fn algorithm(
        &self,
        desc: &MatmulDesc,
        [a, b, c]: &[MatrixLayout; 3],
        preference: &MatmulPreference,
    ) -> Option<cublasLtMatmulAlgo_t> {
        // SAFETY: handle and descriptors are alive as long as their owners.
        let found = unsafe {
            result::get_matmul_algo_heuristic(
                self.raw(),
                desc.raw(),
                a.raw(),
                b.raw(),
                c.raw(),
                c.raw(),
                preference.raw(),
            )
        };
        found.ok().map(|found| found.algo)
    }
}

pub struct MatrixLayout(cublasLtMatrixLayout_t);
owned!(MatrixLayout: cublasLtMatrixLayout_t, result::destroy_matrix_layout);

impl MatrixLayout {
    /// `slow` columns of `fast` elements, at `distance` elements.
    pub fn new(dtype: cudaDataType_t, fast: usize, slow: usize, distance: usize) -> Result<Self> {
        Ok(Self(result::create_matrix_layout(dtype, fast as u64, slow as u64, distance as i64).checked()?))
    }

    pub fn set<T: Copy>(&self, name: cublasLtMatrixLayoutAttribute_t, value: &T) -> Result<()> {
        // SAFETY: the descriptor is alive as long as its owner. The library copies as many bytes as the value has, and
        // refuses another number than the attribute's.
        unsafe {
            result::set_matrix_layout_attribute(self.raw(), name, ptr::from_ref(value).cast(), size_of_val(value))
        }
        .checked()
    }
}

pub struct MatmulDesc(cublasLtMatmulDesc_t);
owned!(MatmulDesc: cublasLtMatmulDesc_t, result::destroy_matmul_desc);

impl MatmulDesc {
    /// Sums and scalars in float32.
    pub fn new() -> Result<Self> {
        Ok(Self(result::create_matmul_desc(CUBLAS_COMPUTE_32F, cudaDataType_t::CUDA_R_32F).checked()?))
    }

    pub fn set<T: Copy>(&self, name: cublasLtMatmulDescAttributes_t, value: &T) -> Result<()> {
        // SAFETY: as in `MatrixLayout::set`. An address is copied here too; it is used when a product is queued.
        unsafe { result::set_matmul_desc_attribute(self.raw(), name, ptr::from_ref(value).cast(), size_of_val(value)) }
            .checked()
    }
}

pub struct MatmulPreference(cublasLtMatmulPreference_t);
owned!(MatmulPreference: cublasLtMatmulPreference_t, result::destroy_matmul_pref);

impl MatmulPreference {
    pub fn new() -> Result<Self> {
        Ok(Self(result::create_matmul_pref().checked()?))
    }

    pub fn set<T: Copy>(&self, name: cublasLtMatmulPreferenceAttributes_t, value: &T) -> Result<()> {
        // SAFETY: as in `MatrixLayout::set`.
        unsafe { result::set_matmul_pref_attribute(self.raw(), name, ptr::from_ref(value).cast(), size_of_val(value)) }
            .checked()
    }
}
