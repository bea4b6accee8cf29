//! Opening a GPU, and its memory.

use candle_core::{
    Device, Result,
    cuda::{
        CudaDevice, WrapErr,
        cudarc::driver::{CudaContext, sys},
    },
};

use crate::nn::CardMemory;

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
    get(pool(device.as_cuda_device()?)?, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)
}

pub fn reset_peak_memory(device: &Device) -> Result<()> {
    set(pool(device.as_cuda_device()?)?, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH, 0)
}

/// What the driver calls free, and what the pool keeps without use.
pub fn card_memory(device: &Device) -> Result<CardMemory> {
    let cuda = device.as_cuda_device()?;
    let (free, total) = cuda.cuda_stream().context().mem_get_info().w()?;
    let pool = pool(cuda)?;
    let reserved = get(pool, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
    let used = get(pool, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?;
    Ok(CardMemory { free: free as u64 + reserved.saturating_sub(used), total: total as u64 })
}

/// Waits for the device, then gives back what the pool keeps without use.
pub fn free_unused(device: &Device) -> Result<()> {
    let cuda = device.as_cuda_device()?;
    cuda.cuda_stream().synchronize().w()?;
    // SAFETY: only memory that nothing uses is given back.
    unsafe { sys::cuMemPoolTrimTo(pool(cuda)?, 0) }.result().w()
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
