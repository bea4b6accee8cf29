//! The building blocks on NVIDIA GPUs: hand-written kernels, matrix products by cuBLASLt, attention and convolutions by
//! cuDNN.
//!
//! All work is queued on the one stream of candle's device, so its order is the only synchronization that is needed.
//! Numbers are float32 or bfloat16 in memory and float32 in registers.

mod attention;
mod conv;
mod cublaslt;
mod cudnn;
mod dequantize;
mod joint_attention_qkv;
mod kernels;
mod linear;
mod matmul;
mod norm;
mod open;
mod plan_cache;
mod pointwise;
#[cfg(test)]
mod tests;
mod transfer;
mod upload;
mod view;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
};

use candle_core::{
    DType, Result, Tensor,
    cuda::{
        CudaDevice, WrapErr,
        cudarc::driver::{CudaFunction, CudaSlice, CudaStream, DevicePtr},
    },
};

pub use candle_core::cuda::cudarc::driver::CudaEvent;

use self::pointwise::add_bias;
pub use self::{
    attention::{attention, attention_kernel},
    conv::Conv,
    dequantize::{check_fp8, dequantize, dequantize_to_fp8, multiplies_in_fp8, widen_fp8},
    joint_attention_qkv::joint_attention_qkv,
    linear::{LinearOperands, linear, linear_into, quantizable, quantize},
    norm::{gated_add, gated_norm, layer_norm_modulate, rms_norm, rms_normalize},
    open::{card_memory, count, describe, free_unused, open, peak_memory, reset_peak_memory},
    pointwise::{rotate_half, swiglu, upsample_nearest_2x},
    transfer::{CudaCopyStream, HostBytes},
    upload::{CudaUploader, takes as uploads},
};

/// Whether the kernels of this module support a tensor.
pub fn applies(x: &Tensor) -> bool {
    x.device().is_cuda() && matches!(x.dtype(), DType::F32 | DType::BF16)
}

/// Handles, plans and loaded kernels of one device. They belong to the thread that created them: the engine's.
struct Gpu {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    functions: RefCell<HashMap<&'static str, CudaFunction>>,
    matmul: matmul::Matmuls,
    /// These fields come before their handle, `cudnn`, so that they are dropped first.
    attention_plans: plan_cache::PlanCache<attention::FusedShape>,
    conv_plans: plan_cache::PlanCache<conv::ConvShape>,
    cudnn: Option<cudnn::Cudnn>,
    /// Scratch memory for library calls; they share it, because they run one after the other.
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
        let stream = device.cuda_stream();
        // cuBLASLt and cuDNN work in the thread's current context, and a thread may use two GPUs in turn.
        stream.context().bind_to_thread().w()?;
        OPEN.with_borrow_mut(|open| {
            if let Some(gpu) = open.iter().find(|gpu| gpu.device.id() == device.id()) {
                return Ok(gpu.clone());
            }
            let gpu = Rc::new(Self {
                device: device.clone(),
                matmul: matmul::Matmuls::new()?,
                cudnn: cudnn::Cudnn::open(&stream),
                stream,
                attention_plans: plan_cache::PlanCache::default(),
                conv_plans: plan_cache::PlanCache::default(),
                functions: RefCell::default(),
                workspace: RefCell::default(),
                warned: Cell::new(false),
            });
            open.push(gpu.clone());
            Ok(gpu)
        })
    }

    /// The address of at least this many bytes of scratch memory.
    fn scratch(&self, bytes: usize) -> Result<u64> {
        let mut room = self.workspace.borrow_mut();
        if room.as_ref().is_none_or(|room| room.len() < bytes) {
            // The old memory is freed in the order of the stream, after the work that uses it.
            *room = None;
            // SAFETY: it is written before it is read.
            *room = Some(unsafe { self.device.alloc::<u8>(bytes.max(32 << 20))? });
        }
        Ok(room.as_ref().map_or(0, |room| room.device_ptr(&self.stream).0))
    }

    /// Logs once that a slower kernel is used.
    fn warn_once(&self, reason: &str) {
        if !self.warned.replace(true) {
            tracing::warn!(reason, "cuDNN cannot be used here; using a slower kernel");
        }
    }
}
