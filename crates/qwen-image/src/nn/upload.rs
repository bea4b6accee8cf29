//! Uploads tensors from files to a device, faster than one after the other.

use std::{fs::File, path::PathBuf, sync::Arc};

use candle_core::{DType, Device, Result, Shape, Tensor};

/// The position of a tensor in a file.
#[derive(Debug, Clone)]
pub struct Source {
    /// The open file.
    pub file: Arc<File>,
    /// The file's path, for messages.
    pub path: PathBuf,
    /// The position of the first byte in the file.
    pub offset: u64,
    /// The shape of the tensor.
    pub shape: Shape,
    /// The number format in the file, which the tensor keeps on the device.
    pub dtype: DType,
}

impl Source {
    /// The size of the tensor in bytes.
    pub fn bytes(&self) -> usize {
        self.shape.elem_count() * self.dtype.size_in_bytes()
    }
}

/// Uploads tensors before they are requested.
#[derive(Debug)]
pub enum Uploader {
    /// To an NVIDIA GPU, through pinned buffers on threads of its own.
    #[cfg(feature = "cuda")]
    Cuda(super::cuda::CudaUploader),
}

impl Uploader {
    /// Starts with `sources`, in the expected order of requests. None if there is no faster way than reading each
    /// tensor on request.
    pub fn start(sources: Vec<Source>, device: &Device) -> Result<Option<Self>> {
        #[cfg(feature = "cuda")]
        if device.is_cuda() {
            return super::cuda::CudaUploader::start(sources, device).map(Self::Cuda).map(Some);
        }
        let _ = (sources, device);
        Ok(None)
    }

    /// Whether tensors of a number format can be uploaded this way.
    pub fn takes(dtype: DType) -> bool {
        #[cfg(feature = "cuda")]
        return super::cuda::uploads(dtype);
        #[cfg(not(feature = "cuda"))]
        {
            let _ = dtype;
            false
        }
    }

    /// The tensor of a source, in its file's number format.
    ///
    /// # Errors
    /// If a file could not be read, or the device failed.
    pub fn take(&self, source: usize) -> Result<Tensor> {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda(uploader) => uploader.take(source),
            #[cfg(not(feature = "cuda"))]
            _ => candle_core::bail!("no way to upload source {source}"),
        }
    }

    /// Marks a source that will not be requested.
    ///
    /// # Errors
    /// Like [`Self::take`].
    pub fn skip(&self, source: usize) -> Result<()> {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda(uploader) => uploader.skip(source),
            #[cfg(not(feature = "cuda"))]
            _ => candle_core::bail!("no way to upload source {source}"),
        }
    }
}
