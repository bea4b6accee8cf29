//! cuDNN through its backend interface: descriptors are made, given attributes, finalised, and an execution plan comes
//! out.

pub mod sys;

use std::{ffi::c_void, ptr, sync::Arc};

use candle_core::{Result, cuda::cudarc::driver::CudaStream};

use self::sys::{
    Api,
    AttributeName::{self, *},
    AttributeType::{self, *},
    BackendDescriptor, ConvolutionMode, CudnnHandle, DataType,
    DescriptorType::{self, *},
    HeurMode::{self, *},
    PointwiseMode,
};

/// A value of an attribute.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
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
    api: &'static Api,
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: `raw` is a descriptor that the library made for this owner alone, who is gone after this.
        unsafe { (self.api.destroy_descriptor)(self.raw) };
    }
}

impl Descriptor {
    pub fn set(&self, name: AttributeName, value: Value<'_>) -> Result<()> {
        let raw = |kind: AttributeType, count: usize, data: *const c_void| {
            // SAFETY: `raw` is alive as long as its owner; below, `data` points to `count` values of the type that
            // `kind` names, alive until this returns. The library copies them, and refuses what does not fit `name`.
            let status = unsafe { (self.api.set_attribute)(self.raw, name, kind, count as i64, data) };
            self.api.check(status, format_args!("{name:?}"))
        };
        match value {
            Value::Handle(cudnn) => raw(CUDNN_TYPE_HANDLE, 1, ptr::from_ref(&cudnn.handle).cast()),
            Value::DataType(value) => raw(CUDNN_TYPE_DATA_TYPE, 1, ptr::from_ref(&value).cast()),
            Value::Boolean(value) => raw(CUDNN_TYPE_BOOLEAN, 1, ptr::from_ref(&value).cast()),
            Value::Int64(values) => raw(CUDNN_TYPE_INT64, values.len(), values.as_ptr().cast()),
            Value::Float(value) => raw(CUDNN_TYPE_FLOAT, 1, ptr::from_ref(&value).cast()),
            Value::Addresses(values) => raw(CUDNN_TYPE_VOID_PTR, values.len(), values.as_ptr().cast()),
            Value::ConvolutionMode(value) => raw(CUDNN_TYPE_CONVOLUTION_MODE, 1, ptr::from_ref(&value).cast()),
            Value::HeurMode(value) => raw(CUDNN_TYPE_HEUR_MODE, 1, ptr::from_ref(&value).cast()),
            Value::PointwiseMode(value) => raw(CUDNN_TYPE_POINTWISE_MODE, 1, ptr::from_ref(&value).cast()),
            Value::Descriptors(values) => {
                let values: Vec<BackendDescriptor> = values.iter().map(|value| value.raw).collect();
                raw(CUDNN_TYPE_BACKEND_DESCRIPTOR, values.len(), values.as_ptr().cast())
            }
        }
    }

    pub fn finalize(self) -> Result<Self> {
        // SAFETY: `raw` is alive as long as its owner.
        let status = unsafe { (self.api.finalize)(self.raw) };
        self.api.check(status, "descriptor")?;
        Ok(self)
    }
}

/// The library with a handle on one stream.
#[derive(Debug)]
pub struct Cudnn {
    api: &'static Api,
    handle: CudnnHandle,
    /// The handle queues on it.
    _stream: Arc<CudaStream>,
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        // SAFETY: `handle` is one that the library made for this owner alone, who is gone after this.
        unsafe { (self.api.destroy)(self.handle) };
    }
}

/// Operations that run as one.
#[derive(Debug)]
pub struct ExecutionPlan {
    plan: Descriptor,
    /// Bytes of scratch memory.
    pub workspace: usize,
}

/// A tensor's shape in memory.
#[derive(Debug, Clone, Copy)]
pub struct TensorSpec<'a> {
    /// By which the plan's caller names it.
    pub id: i64,
    pub dtype: DataType,
    pub dims: &'a [i64],
    pub strides: &'a [i64],
    /// The number itself stands where the address would.
    pub by_value: bool,
    /// Only passed between operations of one plan.
    pub is_virtual: bool,
}

/// What the address of every tensor is a multiple of, in bytes.
const ALIGNMENT: i64 = 16;

/// Ways to compute that are tried, best first.
const MOST_CONFIGS: usize = 8;

impl Cudnn {
    pub fn open(stream: &Arc<CudaStream>) -> Option<Self> {
        let api = Api::get()?;
        let mut handle = ptr::null_mut();
        // SAFETY: the library writes the handle.
        let status = unsafe { (api.create)(&mut handle) };
        let opened = api.check(status, "handle").and_then(|()| {
            let cudnn = Self { api, handle, _stream: stream.clone() };
            // SAFETY: the handle was just made, and the stream lives beside it.
            let status = unsafe { (api.set_stream)(handle, stream.cu_stream().cast()) };
            api.check(status, "stream of the handle").map(|()| cudnn)
        });
        opened.inspect_err(|error| tracing::warn!(%error, "cuDNN was found but does not start")).ok()
    }

    /// As in `9.19.0`.
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
        tensor.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, Value::Int64(&[ALIGNMENT]))?;
        tensor.set(CUDNN_ATTR_TENSOR_DATA_TYPE, Value::DataType(spec.dtype))?;
        tensor.set(CUDNN_ATTR_TENSOR_DIMENSIONS, Value::Int64(spec.dims))?;
        tensor.set(CUDNN_ATTR_TENSOR_STRIDES, Value::Int64(spec.strides))?;
        tensor.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, Value::Int64(&[spec.id]))?;
        if spec.is_virtual {
            tensor.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, Value::Boolean(true))?;
        }
        if spec.by_value {
            tensor.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, Value::Boolean(true))?;
        }
        tensor.finalize()
    }

    /// The first plan for these operations that the library's heuristics propose and can build.
    pub fn plan(&self, operations: &[&Descriptor]) -> Result<ExecutionPlan> {
        let graph = self.descriptor(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?;
        graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, Value::Handle(self))?;
        graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, Value::Descriptors(operations))?;
        let graph = graph.finalize()?;
        let mut last = None;
        for mode in [CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK] {
            let heuristics = self.descriptor(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?;
            heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, Value::Descriptors(&[&graph]))?;
            heuristics.set(CUDNN_ATTR_ENGINEHEUR_MODE, Value::HeurMode(mode))?;
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
        // SAFETY: the library fills up to `MOST_CONFIGS` of the descriptors that `raws` names, which `configs` keeps
        // alive, and tells how many.
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
        plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, Value::Handle(self))?;
        plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, Value::Descriptors(&[config]))?;
        let plan = plan.finalize()?;
        let (mut workspace, mut count) = (0_i64, 0);
        // SAFETY: the library writes one 64-bit number, and how many it wrote.
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

    /// Queues a plan of this handle's. Device memory may be given back behind it, because it is freed in the order of
    /// the stream.
    ///
    /// # Safety
    /// The caller promises that
    /// - `ids` are those of all tensors of the plan that are not virtual, and `addresses` stand in the same order;
    /// - each is the address of memory of the stream's device, a multiple of 16, with the number format and room for
    ///   the dims and strides that the tensor was described with; or, for a tensor by value, of that number in host
    ///   memory, alive until this returns;
    /// - `workspace` is the address of `plan.workspace` bytes of the device that only this stream's work uses.
    pub unsafe fn execute(&self, plan: &ExecutionPlan, ids: &[i64], addresses: &[u64], workspace: u64) -> Result<()> {
        let pack = self.descriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?;
        pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, Value::Int64(ids))?;
        pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, Value::Addresses(addresses))?;
        pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, Value::Addresses(&[workspace]))?;
        let pack = pack.finalize()?;
        // SAFETY: handle and descriptors are alive as long as their owners; the memory is as the plan reads and writes
        // it by the caller's promise.
        let status = unsafe { (self.api.execute)(self.handle, plan.plan.raw, pack.raw) };
        self.api.check(status, "execution")
    }
}
