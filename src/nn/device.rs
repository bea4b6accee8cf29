//! Opening a GPU.

use candle_core::{Device, Result};

/// Opens an NVIDIA GPU with what the kernels here need. Work from several threads is queued one after the other.
///
/// # Errors
/// Without the `cuda` feature, and when there is no such GPU.
pub fn open_cuda(ordinal: usize) -> Result<Device> {
    #[cfg(feature = "cuda")]
    return super::cuda::open(ordinal);
    #[cfg(not(feature = "cuda"))]
    Device::new_cuda(ordinal)
}

/// The GPU in words: its name, memory, and the driver's version of CUDA.
///
/// # Errors
/// Like [`open_cuda`].
pub fn describe_cuda(ordinal: usize) -> Result<String> {
    #[cfg(feature = "cuda")]
    return super::cuda::describe(ordinal);
    #[cfg(not(feature = "cuda"))]
    Device::new_cuda(ordinal).map(|_| String::new())
}
