//! Opens a GPU, and reports and frees its memory.

use candle_core::{
    Device, Result,
    cuda::{
        CudaDevice, WrapErr,
        cudarc::driver::{CudaContext, sys},
    },
};

use crate::nn::CardMemory;

/// Opens a GPU with one stream, and keeps freed memory for later use.
pub fn open(ordinal: usize) -> Result<Device> {
    let device = CudaDevice::new_with_stream(ordinal)?;
    // SAFETY: all work of this program on this device is queued on the one stream created here. Code that adds another
    // stream synchronizes it with this one by its own events.
    unsafe { device.disable_event_tracking() };
    keep_memory(&device)?;
    Ok(Device::Cuda(device))
}

/// How many GPUs the driver sees.
pub fn count() -> Result<usize> {
    usize::try_from(CudaContext::device_count().w()?).map_err(candle_core::Error::wrap)
}

/// A description such as `NVIDIA H100 80GB HBM3, 79.2 GiB, CUDA 13.0`.
pub fn describe(ordinal: usize) -> Result<String> {
    let context = CudaContext::new(ordinal).w()?;
    let bytes = context.total_mem().w()?;
    let mut version = 0;
    // SAFETY: the driver writes one number.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().w()?;
    let (major, minor) = (version / 1000, version % 1000 / 10);
    Ok(format!("{}, {:.1} GiB, CUDA {major}.{minor}", context.name().w()?, bytes as f64 / f64::from(1 << 30)))
}

/// The peak memory in use in the driver's pool, in bytes.
pub fn peak_memory(device: &Device) -> Result<u64> {
    get(pool(device.as_cuda_device()?)?, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)
}

pub fn reset_peak_memory(device: &Device) -> Result<()> {
    set(pool(device.as_cuda_device()?)?, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH, 0)
}

/// The free memory: what the driver reports as free, and what the pool keeps unused.
pub fn card_memory(device: &Device) -> Result<CardMemory> {
    let cuda = device.as_cuda_device()?;
    let (free, total) = cuda.cuda_stream().context().mem_get_info().w()?;
    let pool = pool(cuda)?;
    let reserved = get(pool, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
    let used = get(pool, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?;
    Ok(CardMemory { free: free as u64 + reserved.saturating_sub(used), total: total as u64 })
}

/// Waits for the device, then returns the pool's unused memory to the driver.
pub fn free_unused(device: &Device) -> Result<()> {
    let cuda = device.as_cuda_device()?;
    cuda.cuda_stream().synchronize().w()?;
    // SAFETY: only unused memory is returned.
    unsafe { sys::cuMemPoolTrimTo(pool(cuda)?, 0) }.result().w()
}

/// Keeps freed memory in the pool. By default, it is returned to the driver whenever the stream is synchronized, and
/// every step would have to allocate it again.
fn keep_memory(device: &CudaDevice) -> Result<()> {
    set(pool(device)?, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, u64::MAX)
}

/// The memory pool of the device's allocations.
fn pool(device: &CudaDevice) -> Result<sys::CUmemoryPool> {
    let mut pool = std::ptr::null_mut();
    // SAFETY: the driver writes the pool's handle.
    unsafe { sys::cuDeviceGetDefaultMemPool(&mut pool, device.cuda_stream().context().cu_device()) }.result().w()?;
    Ok(pool)
}

fn get(pool: sys::CUmemoryPool, attribute: sys::CUmemPool_attribute) -> Result<u64> {
    let mut value = 0_u64;
    // SAFETY: the driver writes one 64-bit number.
    unsafe { sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut value).cast()) }.result().w()?;
    Ok(value)
}

fn set(pool: sys::CUmemoryPool, attribute: sys::CUmemPool_attribute, mut value: u64) -> Result<()> {
    // SAFETY: the driver reads one 64-bit number.
    unsafe { sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut value).cast()) }.result().w()
}
