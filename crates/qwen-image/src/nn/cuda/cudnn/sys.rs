//! The part of cuDNN's backend interface that is used: functions of `cudnn_graph.h`, opened at run time, and its
//! constants under NVIDIA's names.

#![allow(non_camel_case_types, reason = "the constants are those of NVIDIA's headers and documentation")]

use std::{
    ffi::{CStr, c_char, c_void},
    fmt::Display,
    sync::OnceLock,
};

use candle_core::{Result, bail};
use libloading::Library;

/// `cudnnStatus_t`
pub type CudnnStatus = i32;
/// `cudnnHandle_t`
pub type CudnnHandle = *mut c_void;
/// `cudnnBackendDescriptor_t`
pub type BackendDescriptor = *mut c_void;

pub const CUDNN_STATUS_SUCCESS: CudnnStatus = 0;

/// `cudnnBackendDescriptorType_t`
#[derive(Debug, Clone, Copy)]
#[repr(i32)]
pub enum DescriptorType {
    CUDNN_BACKEND_POINTWISE_DESCRIPTOR = 0,
    CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR = 1,
    CUDNN_BACKEND_ENGINECFG_DESCRIPTOR = 3,
    CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR = 4,
    CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR = 5,
    CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR = 10,
    CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR = 13,
    CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR = 15,
    CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR = 16,
    CUDNN_BACKEND_TENSOR_DESCRIPTOR = 17,
    CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR = 41,
}

/// `cudnnBackendAttributeName_t`
#[derive(Debug, Clone, Copy)]
#[repr(i32)]
pub enum AttributeName {
    CUDNN_ATTR_POINTWISE_MODE = 0,
    CUDNN_ATTR_POINTWISE_MATH_PREC = 1,
    CUDNN_ATTR_CONVOLUTION_COMP_TYPE = 100,
    CUDNN_ATTR_CONVOLUTION_CONV_MODE = 101,
    CUDNN_ATTR_CONVOLUTION_DILATIONS = 102,
    CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES = 103,
    CUDNN_ATTR_CONVOLUTION_POST_PADDINGS = 104,
    CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS = 105,
    CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS = 106,
    CUDNN_ATTR_ENGINEHEUR_MODE = 200,
    CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH = 201,
    CUDNN_ATTR_ENGINEHEUR_RESULTS = 202,
    CUDNN_ATTR_EXECUTION_PLAN_HANDLE = 400,
    CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG = 401,
    CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE = 402,
    CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA = 700,
    CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA = 701,
    CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC = 702,
    CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W = 703,
    CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X = 704,
    CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y = 705,
    CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR = 750,
    CUDNN_ATTR_OPERATION_POINTWISE_XDESC = 751,
    CUDNN_ATTR_OPERATION_POINTWISE_BDESC = 752,
    CUDNN_ATTR_OPERATION_POINTWISE_YDESC = 753,
    CUDNN_ATTR_OPERATIONGRAPH_HANDLE = 800,
    CUDNN_ATTR_OPERATIONGRAPH_OPS = 801,
    CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT = 900,
    CUDNN_ATTR_TENSOR_DATA_TYPE = 901,
    CUDNN_ATTR_TENSOR_DIMENSIONS = 902,
    CUDNN_ATTR_TENSOR_STRIDES = 903,
    CUDNN_ATTR_TENSOR_UNIQUE_ID = 906,
    CUDNN_ATTR_TENSOR_IS_VIRTUAL = 907,
    CUDNN_ATTR_TENSOR_IS_BY_VALUE = 908,
    CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS = 1000,
    CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS = 1001,
    CUDNN_ATTR_VARIANT_PACK_WORKSPACE = 1003,
    CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC = 2800,
    CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC = 2801,
    CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC = 2802,
    CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC = 2803,
    CUDNN_ATTR_OPERATION_SDPA_FWD_STATSDESC = 2804,
    CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC = 2805,
}

/// `cudnnBackendAttributeType_t`
#[derive(Debug, Clone, Copy)]
#[repr(i32)]
pub enum AttributeType {
    CUDNN_TYPE_HANDLE = 0,
    CUDNN_TYPE_DATA_TYPE = 1,
    CUDNN_TYPE_BOOLEAN = 2,
    CUDNN_TYPE_INT64 = 3,
    CUDNN_TYPE_FLOAT = 4,
    CUDNN_TYPE_VOID_PTR = 6,
    CUDNN_TYPE_CONVOLUTION_MODE = 7,
    CUDNN_TYPE_HEUR_MODE = 8,
    CUDNN_TYPE_POINTWISE_MODE = 14,
    CUDNN_TYPE_BACKEND_DESCRIPTOR = 15,
}

/// `cudnnDataType_t`
#[derive(Debug, Clone, Copy)]
#[repr(i32)]
pub enum DataType {
    CUDNN_DATA_FLOAT = 0,
    CUDNN_DATA_BFLOAT16 = 9,
}

/// `cudnnConvolutionMode_t`
#[derive(Debug, Clone, Copy)]
#[repr(i32)]
pub enum ConvolutionMode {
    CUDNN_CROSS_CORRELATION = 1,
}

/// `cudnnBackendHeurMode_t`
#[derive(Debug, Clone, Copy)]
#[repr(i32)]
pub enum HeurMode {
    CUDNN_HEUR_MODE_FALLBACK = 2,
    CUDNN_HEUR_MODE_A = 3,
}

/// `cudnnPointwiseMode_t`
#[derive(Debug, Clone, Copy)]
#[repr(i32)]
pub enum PointwiseMode {
    CUDNN_POINTWISE_ADD = 0,
}

/// 9.13, the first version with attention as one operation.
const OLDEST: usize = 91_300;

/// The functions, with the library that contains them.
pub struct CudnnFunctions {
    pub create: unsafe extern "C" fn(*mut CudnnHandle) -> CudnnStatus,
    pub destroy: unsafe extern "C" fn(CudnnHandle) -> CudnnStatus,
    pub set_stream: unsafe extern "C" fn(CudnnHandle, *mut c_void) -> CudnnStatus,
    error_string: unsafe extern "C" fn(CudnnStatus) -> *const c_char,
    pub create_descriptor: unsafe extern "C" fn(DescriptorType, *mut BackendDescriptor) -> CudnnStatus,
    pub destroy_descriptor: unsafe extern "C" fn(BackendDescriptor) -> CudnnStatus,
    pub set_attribute:
        unsafe extern "C" fn(BackendDescriptor, AttributeName, AttributeType, i64, *const c_void) -> CudnnStatus,
    pub get_attribute: unsafe extern "C" fn(
        BackendDescriptor,
        AttributeName,
        AttributeType,
        i64,
        *mut i64,
        *mut c_void,
    ) -> CudnnStatus,
    pub finalize: unsafe extern "C" fn(BackendDescriptor) -> CudnnStatus,
    pub execute: unsafe extern "C" fn(CudnnHandle, BackendDescriptor, BackendDescriptor) -> CudnnStatus,
    pub version: usize,
    _library: Library,
}

impl CudnnFunctions {
    /// The library, opened once per process; none if it is missing or too old.
    pub fn get() -> Option<&'static Self> {
        static API: OnceLock<Option<CudnnFunctions>> = OnceLock::new();
        API.get_or_init(|| ["libcudnn.so.9", "libcudnn.so"].iter().find_map(|name| Self::load(name))).as_ref()
    }

    fn load(name: &str) -> Option<Self> {
        // SAFETY: NVIDIA's library has no initializers that depend on this program's state. The functions' types are
        // those of its header, and they live as long as the library, which is stored with them.
        unsafe {
            let library = Library::new(name).ok()?;
            let version = library.get::<unsafe extern "C" fn() -> usize>(b"cudnnGetVersion\0").ok()?();
            if version < OLDEST {
                tracing::warn!(version, oldest = OLDEST, "this cuDNN is too old for its attention");
                return None;
            }
            Some(Self {
                create: *library.get(b"cudnnCreate\0").ok()?,
                destroy: *library.get(b"cudnnDestroy\0").ok()?,
                set_stream: *library.get(b"cudnnSetStream\0").ok()?,
                error_string: *library.get(b"cudnnGetErrorString\0").ok()?,
                create_descriptor: *library.get(b"cudnnBackendCreateDescriptor\0").ok()?,
                destroy_descriptor: *library.get(b"cudnnBackendDestroyDescriptor\0").ok()?,
                set_attribute: *library.get(b"cudnnBackendSetAttribute\0").ok()?,
                get_attribute: *library.get(b"cudnnBackendGetAttribute\0").ok()?,
                finalize: *library.get(b"cudnnBackendFinalize\0").ok()?,
                execute: *library.get(b"cudnnBackendExecute\0").ok()?,
                version,
                _library: library,
            })
        }
    }

    pub fn check(&self, status: CudnnStatus, what: impl Display) -> Result<()> {
        if status == CUDNN_STATUS_SUCCESS {
            return Ok(());
        }
        // SAFETY: the function gives a static string for any status.
        let reason = unsafe { CStr::from_ptr((self.error_string)(status)) };
        bail!("cuDNN {what}: {}", reason.to_string_lossy())
    }
}

impl std::fmt::Debug for CudnnFunctions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cuDNN {}", self.version)
    }
}
