//! Opening a GPU, and its memory.

use candle_core::{
    Device, Result,
    cuda::{
        CudaDevice, WrapErr,
        cudarc::driver::{CudaContext, sys},
    },
};

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

/// Memory of the driver's pool that was in use at most, in bytes.
pub fn peak_memory(device: &Device) -> Result<u64> {
    let pool = pool(device.as_cuda_device()?)?;
    let mut bytes = 0_u64;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    // SAFETY: the driver writes one 64-bit number.
    unsafe { sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut bytes).cast()) }.result().w()?;
    Ok(bytes)
}

pub fn reset_peak_memory(device: &Device) -> Result<()> {
    set(pool(device.as_cuda_device()?)?, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH, 0)
}

/// By default freed memory goes back to the driver whenever the stream is waited for, and every step would take it
/// anew.
fn keep_memory(device: &CudaDevice) -> Result<()> {
    set(pool(device)?, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, u64::MAX)
}

/// Where the device's allocations come from.
fn pool(device: &CudaDevice) -> Result<sys::CUmemoryPool> {
    let mut pool = std::ptr::null_mut();
    // SAFETY: the driver writes the pool's handle.
    unsafe { sys::cuDeviceGetDefaultMemPool(&mut pool, device.cuda_stream().context().cu_device()) }.result().w()?;
    Ok(pool)
}

fn set(pool: sys::CUmemoryPool, attribute: sys::CUmemPool_attribute, mut value: u64) -> Result<()> {
    // SAFETY: the driver reads one 64-bit number.
    unsafe { sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut value).cast()) }.result().w()
}
