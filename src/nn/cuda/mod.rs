//! The building blocks on NVIDIA GPUs: hand-written kernels, cuBLASLt's matrix products, cuDNN's attention and
//! convolutions.
//!
//! Everything is queued on the one stream of candle's device, so order is the only synchronisation that is needed.
//! Numbers are float32 or bfloat16 in memory and float32 in registers.

mod attention;
mod conv;
mod cudnn;
mod joint;
mod kernels;
mod matmul;
mod norm;
mod plan;
mod pointwise;
mod view;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
};

use candle_core::{
    DType, Device, Result, Tensor,
    cuda::{
        CudaDevice, WrapErr,
        cudarc::driver::{CudaContext, CudaFunction, CudaSlice, CudaStream, DevicePtr, sys},
    },
};

use self::pointwise::add_bias;
pub use self::{
    attention::{attention, attention_kernel},
    conv::Conv,
    joint::joint_qkv,
    matmul::{linear, linear_into},
    norm::{gated_add, gated_norm, layer_norm_modulate, rms_norm, rms_normalize},
    pointwise::{rotate_half, swiglu, upsample_nearest_2x},
};

/// True when the kernels of this module apply to a tensor.
pub fn applies(x: &Tensor) -> bool {
    x.device().is_cuda() && matches!(x.dtype(), DType::F32 | DType::BF16)
}

/// Opens a GPU for this program: one stream, memory that is kept between uses.
pub fn open(ordinal: usize) -> Result<Device> {
    let device = CudaDevice::new_with_stream(ordinal)?;
    // SAFETY: all work of this program on this device is queued on the one stream that was made here; whoever adds a
    // stream synchronises it with this one by events of their own.
    unsafe { device.disable_event_tracking() };
    keep_memory(&device)?;
    Ok(Device::Cuda(device))
}

/// As in `NVIDIA H100 80GB HBM3, 79.2 GiB, CUDA 13.0`.
pub fn describe(ordinal: usize) -> Result<String> {
    let context = CudaContext::new(ordinal).w()?;
    let bytes = context.total_mem().w()?;
    let mut version = 0;
    // SAFETY: the driver writes one number.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().w()?;
    let (major, minor) = (version / 1000, version % 1000 / 10);
    Ok(format!("{}, {:.1} GiB, CUDA {major}.{minor}", context.name().w()?, bytes as f64 / f64::from(1 << 30)))
}

/// By default freed memory goes back to the driver whenever the stream is waited for, and every step would take it
/// anew.
fn keep_memory(device: &CudaDevice) -> Result<()> {
    let context = device.cuda_stream().context().clone();
    let mut pool = std::ptr::null_mut();
    let mut threshold = u64::MAX;
    // SAFETY: plain driver calls; `pool` is written before it is read, and `threshold` outlives the call.
    unsafe {
        sys::cuDeviceGetDefaultMemPool(&mut pool, context.cu_device()).result().w()?;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut threshold).cast()).result().w()
    }
}

/// Handles, plans and loaded kernels of one device. They belong to the thread that made them: the engine's.
struct Gpu {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    functions: RefCell<HashMap<&'static str, CudaFunction>>,
    matmul: matmul::Matmuls,
    cudnn: Option<cudnn::Cudnn>,
    attention_plans: plan::Plans<attention::FusedShape>,
    conv_plans: plan::Plans<conv::ConvShape>,
    /// Room for whichever library call runs; they run one after the other.
    workspace: RefCell<Option<CudaSlice<u8>>>,
    warned: Cell<bool>,
}

impl Gpu {
    /// The state of the tensor's device.
    fn of(x: &Tensor) -> Result<Rc<Self>> {
        Self::of_device(x.device().as_cuda_device()?)
    }

    fn of_device(device: &CudaDevice) -> Result<Rc<Self>> {
        thread_local! {
            static OPEN: RefCell<Vec<Rc<Gpu>>> = const { RefCell::new(Vec::new()) };
        }
        OPEN.with_borrow_mut(|open| {
            if let Some(gpu) = open.iter().find(|gpu| gpu.device.id() == device.id()) {
                return Ok(gpu.clone());
            }
            let stream = device.cuda_stream();
            let gpu = Rc::new(Self {
                device: device.clone(),
                matmul: matmul::Matmuls::new()?,
                cudnn: cudnn::Cudnn::open(&stream),
                stream,
                attention_plans: plan::Plans::default(),
                conv_plans: plan::Plans::default(),
                functions: RefCell::default(),
                workspace: RefCell::default(),
                warned: Cell::new(false),
            });
            open.push(gpu.clone());
            Ok(gpu)
        })
    }

    /// The address of at least so many bytes of scratch memory.
    fn scratch(&self, bytes: usize) -> Result<u64> {
        let mut room = self.workspace.borrow_mut();
        if room.as_ref().is_none_or(|room| room.len() < bytes) {
            // The old one is freed in the order of the stream, after whoever uses it.
            *room = None;
            // SAFETY: nobody reads it before writing it.
            *room = Some(unsafe { self.device.alloc::<u8>(bytes.max(32 << 20))? });
        }
        Ok(room.as_ref().map_or(0, |room| room.device_ptr(&self.stream).0))
    }

    /// Says once that a slower way was taken.
    fn warn_once(&self, reason: &str) {
        if !self.warned.replace(true) {
            tracing::warn!(reason, "cuDNN does not serve this; a slower kernel does");
        }
    }
}
