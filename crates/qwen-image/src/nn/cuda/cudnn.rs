//! cuDNN's backend interface, opened at run time: descriptors are made, given attributes, finalised, and an execution
//! plan comes out.

use std::{
    ffi::{CStr, c_char, c_void},
    ptr,
    sync::{Arc, OnceLock},
};

use candle_core::{Result, bail, cuda::cudarc::driver::CudaStream};
use libloading::Library;

type Handle = *mut c_void;
type Raw = *mut c_void;
type Status = i32;

/// 9.13, the first with attention as one operation.
const OLDEST: usize = 91_300;

/// The functions of the library that are used.
struct Api {
    create: unsafe extern "C" fn(*mut Handle) -> Status,
    destroy: unsafe extern "C" fn(Handle) -> Status,
    set_stream: unsafe extern "C" fn(Handle, *mut c_void) -> Status,
    error_string: unsafe extern "C" fn(Status) -> *const c_char,
    create_descriptor: unsafe extern "C" fn(i32, *mut Raw) -> Status,
    destroy_descriptor: unsafe extern "C" fn(Raw) -> Status,
    set_attribute: unsafe extern "C" fn(Raw, i32, i32, i64, *const c_void) -> Status,
    get_attribute: unsafe extern "C" fn(Raw, i32, i32, i64, *mut i64, *mut c_void) -> Status,
    finalize: unsafe extern "C" fn(Raw) -> Status,
    execute: unsafe extern "C" fn(Handle, Raw, Raw) -> Status,
    version: usize,
    _library: Library,
}

impl Api {
    /// The library of this process; none when there is none that is new enough.
    fn get() -> Option<&'static Self> {
        static API: OnceLock<Option<Api>> = OnceLock::new();
        API.get_or_init(|| ["libcudnn.so.9", "libcudnn.so"].iter().find_map(|name| Self::load(name))).as_ref()
    }

    fn load(name: &str) -> Option<Self> {
        // SAFETY: NVIDIA's library has no initialisers that depend on the state of this program; the types of the
        // functions are those of its header, and they live as long as the library, which is kept beside them.
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

    fn check(&self, status: Status, what: &str) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the function gives a static string for any status.
        let reason = unsafe { CStr::from_ptr((self.error_string)(status)) };
        bail!("cuDNN {what}: {}", reason.to_string_lossy())
    }
}

/// Kinds of descriptors, `cudnnBackendDescriptorType_t`.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Pointwise = 0,
    Convolution = 1,
    EngineConfig = 3,
    EngineHeuristics = 4,
    ExecutionPlan = 5,
    OperationConvolution = 10,
    OperationPointwise = 13,
    OperationGraph = 15,
    VariantPack = 16,
    Tensor = 17,
    OperationAttention = 41,
}

/// A value of an attribute, with its `cudnnBackendAttributeType_t`.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    DataType(i32),
    Boolean(bool),
    Longs(&'a [i64]),
    Float(f32),
    Addresses(&'a [u64]),
    ConvolutionMode(i32),
    HeuristicsMode(i32),
    PointwiseMode(i32),
    Descriptors(&'a [&'a Descriptor]),
}

pub const FLOAT: i32 = 0;
pub const BFLOAT16: i32 = 9;

/// A descriptor of the backend.
#[derive(Debug)]
pub struct Descriptor {
    raw: Raw,
    api: &'static Api,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cuDNN {}", self.version)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: made by the library, and nothing uses it after this.
        unsafe { (self.api.destroy_descriptor)(self.raw) };
    }
}

impl Descriptor {
    /// Sets an attribute, a number of `cudnnBackendAttributeName_t`.
    pub fn set(&self, name: i32, value: Value<'_>) -> Result<()> {
        let raw = |kind: i32, count: usize, data: *const c_void| {
            // SAFETY: `data` points to `count` values of the type that `kind` stands for; the library copies them.
            let status = unsafe { (self.api.set_attribute)(self.raw, name, kind, count as i64, data) };
            self.api.check(status, &format!("attribute {name}"))
        };
        match value {
            Value::DataType(value) => raw(1, 1, ptr::from_ref(&value).cast()),
            Value::Boolean(value) => raw(2, 1, ptr::from_ref(&value).cast()),
            Value::Longs(values) => raw(3, values.len(), values.as_ptr().cast()),
            Value::Float(value) => raw(4, 1, ptr::from_ref(&value).cast()),
            Value::Addresses(values) => raw(6, values.len(), values.as_ptr().cast()),
            Value::ConvolutionMode(value) => raw(7, 1, ptr::from_ref(&value).cast()),
            Value::HeuristicsMode(value) => raw(8, 1, ptr::from_ref(&value).cast()),
            Value::PointwiseMode(value) => raw(14, 1, ptr::from_ref(&value).cast()),
            Value::Descriptors(values) => {
                let values: Vec<Raw> = values.iter().map(|value| value.raw).collect();
                raw(15, values.len(), values.as_ptr().cast())
            }
        }
    }

    pub fn finalize(self) -> Result<Self> {
        // SAFETY: a live descriptor.
        let status = unsafe { (self.api.finalize)(self.raw) };
        self.api.check(status, "descriptor")?;
        Ok(self)
    }
}

/// The library with a handle on one stream.
pub struct Cudnn {
    api: &'static Api,
    handle: Handle,
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        // SAFETY: made in `open`, and nothing uses it after this.
        unsafe { (self.api.destroy)(self.handle) };
    }
}

/// Operations that run as one.
#[derive(Debug)]
pub struct Plan {
    plan: Descriptor,
    pub workspace: usize,
}

/// A tensor's shape in memory.
#[derive(Debug, Clone, Copy)]
pub struct TensorSpec<'a> {
    pub id: i64,
    pub dtype: i32,
    pub dims: &'a [i64],
    pub strides: &'a [i64],
    /// The number itself stands where the address would.
    pub by_value: bool,
    /// Only passed between operations of one plan.
    pub inner: bool,
}

/// Ways to compute that are tried, best first.
const MOST_CONFIGS: usize = 8;

impl Cudnn {
    pub fn open(stream: &Arc<CudaStream>) -> Option<Self> {
        let api = Api::get()?;
        let mut handle = ptr::null_mut();
        // SAFETY: `handle` is written by the first call; the stream outlives the handle beside it.
        let status = unsafe {
            match (api.create)(&mut handle) {
                0 => (api.set_stream)(handle, stream.cu_stream().cast()),
                status => status,
            }
        };
        match api.check(status, "handle") {
            Ok(()) => Some(Self { api, handle }),
            Err(error) => {
                tracing::warn!(%error, "cuDNN is there but does not start");
                None
            }
        }
    }

    /// As in `9.19.0`.
    pub fn version(&self) -> String {
        let version = self.api.version;
        format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
    }

    pub fn descriptor(&self, kind: Kind) -> Result<Descriptor> {
        let mut raw = ptr::null_mut();
        // SAFETY: `raw` is written by the call.
        let status = unsafe { (self.api.create_descriptor)(kind as i32, &mut raw) };
        self.api.check(status, &format!("{kind:?}"))?;
        Ok(Descriptor { raw, api: self.api })
    }

    pub fn tensor(&self, spec: TensorSpec<'_>) -> Result<Descriptor> {
        let tensor = self.descriptor(Kind::Tensor)?;
        tensor.set(900, Value::Longs(&[16]))?; // byte alignment
        tensor.set(901, Value::DataType(spec.dtype))?;
        tensor.set(902, Value::Longs(spec.dims))?;
        tensor.set(903, Value::Longs(spec.strides))?;
        tensor.set(906, Value::Longs(&[spec.id]))?;
        if spec.inner {
            tensor.set(907, Value::Boolean(true))?;
        }
        if spec.by_value {
            tensor.set(908, Value::Boolean(true))?;
        }
        tensor.finalize()
    }

    /// The first plan for these operations that the library's heuristics propose and can build.
    pub fn plan(&self, operations: &[&Descriptor]) -> Result<Plan> {
        let graph = self.descriptor(Kind::OperationGraph)?;
        self.set_handle(&graph, 800)?;
        graph.set(801, Value::Descriptors(operations))?;
        let graph = graph.finalize()?;
        let mut last = None;
        // Mode A, then the fallback's.
        for mode in [3, 2] {
            let heuristics = self.descriptor(Kind::EngineHeuristics)?;
            heuristics.set(201, Value::Descriptors(&[&graph]))?;
            heuristics.set(200, Value::HeuristicsMode(mode))?;
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
        let configs: Vec<_> = (0..MOST_CONFIGS).map(|_| self.descriptor(Kind::EngineConfig)).collect::<Result<_>>()?;
        let raws: Vec<Raw> = configs.iter().map(|config| config.raw).collect();
        let mut found = 0;
        // SAFETY: the library fills up to `MOST_CONFIGS` of the descriptors that `raws` names, and tells how many.
        let status = unsafe {
            (self.api.get_attribute)(heuristics.raw, 202, 15, MOST_CONFIGS as i64, &mut found, raws.as_ptr() as *mut _)
        };
        self.api.check(status, "heuristics")?;
        Ok(configs.into_iter().take(usize::try_from(found).unwrap_or(0)).collect())
    }

    fn plan_of(&self, config: &Descriptor) -> Result<Plan> {
        let plan = self.descriptor(Kind::ExecutionPlan)?;
        self.set_handle(&plan, 400)?;
        plan.set(401, Value::Descriptors(&[config]))?;
        let plan = plan.finalize()?;
        let (mut workspace, mut count) = (0_i64, 0);
        // SAFETY: the library writes one 64-bit number.
        let status =
            unsafe { (self.api.get_attribute)(plan.raw, 402, 3, 1, &mut count, ptr::from_mut(&mut workspace).cast()) };
        self.api.check(status, "workspace size")?;
        Ok(Plan { plan, workspace: usize::try_from(workspace).unwrap_or(0) })
    }

    fn set_handle(&self, descriptor: &Descriptor, name: i32) -> Result<()> {
        // SAFETY: one handle, type 0, which the library copies.
        let status =
            unsafe { (self.api.set_attribute)(descriptor.raw, name, 0, 1, ptr::from_ref(&self.handle).cast()) };
        self.api.check(status, "handle of a descriptor")
    }

    /// Queues a plan. The caller vouches that the addresses are those of tensors as the plan describes them, host
    /// memory for those by value, and that `workspace` has the plan's size.
    pub fn execute(&self, plan: &Plan, ids: &[i64], addresses: &[u64], workspace: u64) -> Result<()> {
        let pack = self.descriptor(Kind::VariantPack)?;
        pack.set(1000, Value::Longs(ids))?;
        pack.set(1001, Value::Addresses(addresses))?;
        pack.set(1003, Value::Addresses(&[workspace]))?;
        let pack = pack.finalize()?;
        // SAFETY: by the caller's word; device memory is freed in the order of the stream.
        let status = unsafe { (self.api.execute)(self.handle, plan.plan.raw, pack.raw) };
        self.api.check(status, "execution")
    }
}
