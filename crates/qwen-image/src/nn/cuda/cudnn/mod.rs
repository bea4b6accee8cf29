//! cuDNN through its backend interface: create descriptors, set their attributes, finalize them, and build an execution
//! plan from them.

pub mod sys;

use std::{ffi::c_void, ptr, sync::Arc};

use candle_core::{Result, cuda::cudarc::driver::CudaStream};

use self::sys::{
    AttributeName::{self, *},
    AttributeType::{self, *},
    BackendDescriptor, ConvolutionMode, CudnnFunctions, CudnnHandle, DataType,
    DescriptorType::{self, *},
    HeurMode::{self, *},
    PointwiseMode,
};

/// A value of an attribute.
#[derive(Debug, Clone, Copy)]
pub enum AttributeValue<'a> {
    Handle(&'a Cudnn),
    DataType(DataType),
    Boolean(bool),
    Int64(&'a [i64]),
    Float(f32),
    Addresses(&'a [u64]),
    ConvolutionMode(ConvolutionMode),
    HeurMode(HeurMode),
    PointwiseMode(PointwiseMode),
    Descriptors(&'a [&'a Descriptor]),
}

/// A descriptor of the backend.
#[derive(Debug)]
pub struct Descriptor {
    raw: BackendDescriptor,
    api: &'static CudnnFunctions,
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the library created the descriptor `raw` for this owner only, which is dropped here.
        unsafe { (self.api.destroy_descriptor)(self.raw) };
    }
}

impl Descriptor {
    pub fn set(&self, name: AttributeName, value: AttributeValue<'_>) -> Result<()> {
        let raw = |kind: AttributeType, count: usize, data: *const c_void| {
            // SAFETY: `raw` lives as long as its owner. All calls below pass a `data` that points to `count` values of
            // the type `kind`, which live until this returns. The library copies them, and refuses values that do not
            // fit `name`.
            let status = unsafe { (self.api.set_attribute)(self.raw, name, kind, count as i64, data) };
            self.api.check(status, format_args!("{name:?}"))
        };
        match value {
            AttributeValue::Handle(cudnn) => raw(CUDNN_TYPE_HANDLE, 1, ptr::from_ref(&cudnn.handle).cast()),
            AttributeValue::DataType(value) => raw(CUDNN_TYPE_DATA_TYPE, 1, ptr::from_ref(&value).cast()),
            AttributeValue::Boolean(value) => raw(CUDNN_TYPE_BOOLEAN, 1, ptr::from_ref(&value).cast()),
            AttributeValue::Int64(values) => raw(CUDNN_TYPE_INT64, values.len(), values.as_ptr().cast()),
            AttributeValue::Float(value) => raw(CUDNN_TYPE_FLOAT, 1, ptr::from_ref(&value).cast()),
            AttributeValue::Addresses(values) => raw(CUDNN_TYPE_VOID_PTR, values.len(), values.as_ptr().cast()),
            AttributeValue::ConvolutionMode(value) => raw(CUDNN_TYPE_CONVOLUTION_MODE, 1, ptr::from_ref(&value).cast()),
            AttributeValue::HeurMode(value) => raw(CUDNN_TYPE_HEUR_MODE, 1, ptr::from_ref(&value).cast()),
            AttributeValue::PointwiseMode(value) => raw(CUDNN_TYPE_POINTWISE_MODE, 1, ptr::from_ref(&value).cast()),
            AttributeValue::Descriptors(values) => {
                let values: Vec<BackendDescriptor> = values.iter().map(|value| value.raw).collect();
                raw(CUDNN_TYPE_BACKEND_DESCRIPTOR, values.len(), values.as_ptr().cast())
            }
        }
    }

    pub fn finalize(self) -> Result<Self> {
        // SAFETY: `raw` lives as long as its owner.
        let status = unsafe { (self.api.finalize)(self.raw) };
        self.api.check(status, "descriptor")?;
        Ok(self)
    }
}

/// The library, with a handle for one stream.
#[derive(Debug)]
pub struct Cudnn {
    api: &'static CudnnFunctions,
    handle: CudnnHandle,
    /// Keeps the handle's stream alive.
    _stream: Arc<CudaStream>,
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        // SAFETY: the library created `handle` for this owner only, which is dropped here.
        unsafe { (self.api.destroy)(self.handle) };
    }
}

/// Operations that run together.
#[derive(Debug)]
pub struct ExecutionPlan {
    plan: Descriptor,
    /// The size of the scratch memory, in bytes.
    pub workspace: usize,
}

/// A tensor's shape in memory.
#[derive(Debug, Clone, Copy)]
pub struct TensorSpec<'a> {
    /// Identifies the tensor when the plan is executed.
    pub id: i64,
    pub dtype: DataType,
    pub dims: &'a [i64],
    pub strides: &'a [i64],
    /// A number in host memory instead of a tensor on the device.
    pub by_value: bool,
    /// An intermediate result of the plan, which is never written to memory.
    pub is_virtual: bool,
}

/// The alignment of every tensor's address, in bytes.
const ALIGNMENT: i64 = 16;

/// The maximum number of engine configurations to try, best first.
const MOST_CONFIGS: usize = 8;

impl Cudnn {
    pub fn open(stream: &Arc<CudaStream>) -> Option<Self> {
        let api = CudnnFunctions::get()?;
        let mut handle = ptr::null_mut();
        // SAFETY: the library writes the handle.
        let status = unsafe { (api.create)(&mut handle) };
        let opened = api.check(status, "handle").and_then(|()| {
            let cudnn = Self { api, handle, _stream: stream.clone() };
            // SAFETY: the handle was just created, and `cudnn` keeps the stream alive.
            let status = unsafe { (api.set_stream)(handle, stream.cu_stream().cast()) };
            api.check(status, "stream of the handle").map(|()| cudnn)
        });
        opened.inspect_err(|error| tracing::warn!(%error, "cuDNN was found but cannot be initialized")).ok()
    }

    /// The version, such as `9.19.0`.
    pub fn version(&self) -> String {
        let version = self.api.version;
        format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
    }

    pub fn descriptor(&self, kind: DescriptorType) -> Result<Descriptor> {
        let mut raw = ptr::null_mut();
        // SAFETY: the library writes the descriptor.
        let status = unsafe { (self.api.create_descriptor)(kind, &mut raw) };
        self.api.check(status, format_args!("{kind:?}"))?;
        Ok(Descriptor { raw, api: self.api })
    }

    pub fn tensor(&self, spec: TensorSpec<'_>) -> Result<Descriptor> {
        let tensor = self.descriptor(CUDNN_BACKEND_TENSOR_DESCRIPTOR)?;
        tensor.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, AttributeValue::Int64(&[ALIGNMENT]))?;
        tensor.set(CUDNN_ATTR_TENSOR_DATA_TYPE, AttributeValue::DataType(spec.dtype))?;
        tensor.set(CUDNN_ATTR_TENSOR_DIMENSIONS, AttributeValue::Int64(spec.dims))?;
        tensor.set(CUDNN_ATTR_TENSOR_STRIDES, AttributeValue::Int64(spec.strides))?;
        tensor.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, AttributeValue::Int64(&[spec.id]))?;
        if spec.is_virtual {
            tensor.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, AttributeValue::Boolean(true))?;
        }
        if spec.by_value {
            tensor.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, AttributeValue::Boolean(true))?;
        }
        tensor.finalize()
    }

    /// The first plan that the library's heuristics propose for these operations and that can be built.
    pub fn plan(&self, operations: &[&Descriptor]) -> Result<ExecutionPlan> {
        let graph = self.descriptor(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?;
        graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, AttributeValue::Handle(self))?;
        graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, AttributeValue::Descriptors(operations))?;
        let graph = graph.finalize()?;
        let mut last = None;
        for mode in [CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK] {
            let heuristics = self.descriptor(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?;
            heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, AttributeValue::Descriptors(&[&graph]))?;
            heuristics.set(CUDNN_ATTR_ENGINEHEUR_MODE, AttributeValue::HeurMode(mode))?;
            let heuristics = match heuristics.finalize() {
                Ok(heuristics) => heuristics,
                Err(error) => {
                    last = Some(error);
                    continue;
                }
            };
            for config in self.configs(&heuristics)? {
                match self.plan_of(&config) {
                    Ok(plan) => return Ok(plan),
                    Err(error) => last = Some(error),
                }
            }
        }
        Err(last.unwrap_or_else(|| candle_core::Error::Msg("cuDNN proposes no engine".to_owned())))
    }

    fn configs(&self, heuristics: &Descriptor) -> Result<Vec<Descriptor>> {
        let configs: Vec<_> =
            (0..MOST_CONFIGS).map(|_| self.descriptor(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR)).collect::<Result<_>>()?;
        let mut raws: Vec<BackendDescriptor> = configs.iter().map(|config| config.raw).collect();
        let mut found = 0;
        // SAFETY: the library fills up to `MOST_CONFIGS` of the descriptors in `raws`, which `configs` keeps alive, and
        // writes their number.
        let status = unsafe {
            (self.api.get_attribute)(
                heuristics.raw,
                CUDNN_ATTR_ENGINEHEUR_RESULTS,
                CUDNN_TYPE_BACKEND_DESCRIPTOR,
                MOST_CONFIGS as i64,
                &mut found,
                raws.as_mut_ptr().cast(),
            )
        };
        self.api.check(status, "heuristics")?;
        Ok(configs.into_iter().take(usize::try_from(found).unwrap_or(0)).collect())
    }

    fn plan_of(&self, config: &Descriptor) -> Result<ExecutionPlan> {
        let plan = self.descriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?;
        plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, AttributeValue::Handle(self))?;
        plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, AttributeValue::Descriptors(&[config]))?;
        let plan = plan.finalize()?;
        let (mut workspace, mut count) = (0_i64, 0);
        // SAFETY: the library writes one 64-bit number, and the count of numbers written.
        let status = unsafe {
            (self.api.get_attribute)(
                plan.raw,
                CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                CUDNN_TYPE_INT64,
                1,
                &mut count,
                ptr::from_mut(&mut workspace).cast(),
            )
        };
        self.api.check(status, "workspace size")?;
        Ok(ExecutionPlan { plan, workspace: usize::try_from(workspace).unwrap_or(0) })
    }

    /// Queues a plan of this handle. The tensors may be dropped right after the call, because device memory is freed in
    /// the order of the stream.
    ///
    /// # Safety
    /// The caller guarantees that
    /// - `ids` has all tensors of the plan that are not virtual, and `addresses` is in the same order;
    /// - each address is a multiple of 16 and points to memory on the stream's device, with the number format, dims and
    ///   strides of the tensor's description; for a tensor by value, it points to that number in host memory, which
    ///   lives until this returns;
    /// - `workspace` is the address of `plan.workspace` bytes on the device that are used only by work on this stream.
    pub unsafe fn execute(&self, plan: &ExecutionPlan, ids: &[i64], addresses: &[u64], workspace: u64) -> Result<()> {
        let pack = self.descriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?;
        pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, AttributeValue::Int64(ids))?;
        pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, AttributeValue::Addresses(addresses))?;
        pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, AttributeValue::Addresses(&[workspace]))?;
        let pack = pack.finalize()?;
        // SAFETY: the handle and the descriptors live as long as their owners. The caller guarantees that the memory is
        // as the plan reads and writes it.
        let status = unsafe { (self.api.execute)(self.handle, plan.plan.raw, pack.raw) };
        self.api.check(status, "execution")
    }
}
