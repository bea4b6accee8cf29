//! Opens GPUs.

use candle_core::{Device, DeviceLocation, Result};

/// A device's name in settings: `cpu`, `cuda:0`.
pub fn device_name(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu => "cpu".to_owned(),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// Opens an NVIDIA GPU with what our kernels need. Work from several threads is queued in order.
///
/// # Errors
/// Without the `cuda` feature, or if there is no such GPU.
pub fn open_cuda(ordinal: usize) -> Result<Device> {
    #[cfg(feature = "cuda")]
    return super::cuda::open(ordinal);
    #[cfg(not(feature = "cuda"))]
    Device::new_cuda(ordinal)
}

/// How many NVIDIA GPUs there are; 0 without the `cuda` feature.
///
/// # Errors
/// If the driver does not respond.
pub fn count_cuda() -> Result<usize> {
    #[cfg(feature = "cuda")]
    return super::cuda::count();
    #[cfg(not(feature = "cuda"))]
    Ok(0)
}

/// The GPU's description: its name, memory, and the driver's version of CUDA.
///
/// # Errors
/// Like [`open_cuda`].
pub fn describe_cuda(ordinal: usize) -> Result<String> {
    #[cfg(feature = "cuda")]
    return super::cuda::describe(ordinal);
    #[cfg(not(feature = "cuda"))]
    Device::new_cuda(ordinal).map(|_| String::new())
}

/// The peak memory in use on a GPU since [`reset_peak_memory`], in bytes; none elsewhere.
///
/// # Errors
/// If the driver does not respond.
pub fn peak_memory(device: &Device) -> Result<Option<u64>> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return super::cuda::peak_memory(device).map(Some);
    }
    let _ = device;
    Ok(None)
}

/// Resets [`peak_memory`].
///
/// # Errors
/// If the driver does not respond.
pub fn reset_peak_memory(device: &Device) -> Result<()> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return super::cuda::reset_peak_memory(device);
    }
    let _ = device;
    Ok(())
}

/// Memory of a GPU in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CardMemory {
    /// Neither used nor cached by this program.
    pub free: u64,
    /// All memory of the GPU.
    pub total: u64,
}

/// The free memory of a GPU; none elsewhere.
///
/// # Errors
/// If the driver does not respond.
pub fn card_memory(device: &Device) -> Result<Option<CardMemory>> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return super::cuda::card_memory(device).map(Some);
    }
    let _ = device;
    Ok(None)
}

/// Returns cached memory to the driver.
///
/// # Errors
/// If the driver does not respond.
pub fn free_unused(device: &Device) -> Result<()> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return super::cuda::free_unused(device);
    }
    let _ = device;
    Ok(())
}
