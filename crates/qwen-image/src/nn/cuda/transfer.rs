//! Host memory that the GPU reads by itself, and the stream that copies go through.

use std::sync::Arc;

use candle_core::{
    Device, Result, Tensor, bail,
    cuda::{
        WrapErr,
        cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, result, sys},
    },
};
use rayon::prelude::*;

use super::view::Region;

const PAGE: usize = 4096;

/// Pinned host memory; pageable, and slower to copy, where the system does not let it be pinned.
#[derive(Debug)]
pub struct HostBytes {
    /// One page more than is used, so that the start can lie at the start of one.
    memory: Vec<u8>,
    start: usize,
    len: usize,
    pinned: bool,
    /// Of the computation.
    stream: Arc<CudaStream>,
}

impl HostBytes {
    pub fn new(device: &Device, len: usize) -> Result<Self> {
        let stream = device.as_cuda_device()?.cuda_stream();
        stream.context().bind_to_thread().w()?;
        let mut memory: Vec<u8> = Vec::new();
        if let Err(error) = memory.try_reserve_exact(len + PAGE) {
            bail!("{len} bytes of host memory: {error}");
        }
        drop(memory);
        let mut memory = vec![0_u8; len + PAGE];
        // The system gives pages when they are touched; several threads get them sooner than the driver's one.
        memory.par_chunks_mut(PAGE).for_each(|page| page[0] = std::hint::black_box(0));
        let start = memory.as_ptr().align_offset(PAGE);
        // SAFETY: the range lies inside `memory`, whose contents stay where they are when the owner moves, and are freed
        // after they are unregistered, in `drop`.
        let pinned = unsafe {
            sys::cuMemHostRegister_v2(
                memory.as_mut_ptr().add(start).cast(),
                len.next_multiple_of(PAGE).min(len + PAGE - start),
                0,
            )
        }
        .result();
        if let Err(error) = &pinned {
            tracing::warn!(?error, bytes = len, "host memory cannot be pinned; transfers will be slower");
        }
        Ok(Self { memory, start, len, pinned: pinned.is_ok(), stream })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..][..self.len]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..self.len]
    }

    /// Copies tensors to here, each to begin at a byte, in the order of the computation, and waits for them.
    pub fn read<'a>(&mut self, tensors: impl IntoIterator<Item = (usize, &'a Tensor)>) -> Result<()> {
        let queued = tensors.into_iter().try_for_each(|(start, tensor)| {
            let from = Region::of(tensor)?;
            let bytes = tensor.elem_count() * tensor.dtype().size_in_bytes();
            if from.bytes() != bytes {
                bail!("a tensor with gaps, {:?}, as bytes", tensor.layout());
            }
            let stream = self.stream.clone();
            let to = &mut self.bytes_mut()[start..][..bytes];
            // SAFETY: source and destination have so many bytes. The destination is borrowed until all copies are there,
            // which is waited for below; the source is freed in the order of the stream.
            unsafe { result::memcpy_dtoh_async(to, *from.address(), stream.cu_stream()) }.w()
        });
        // Also after an error: what was queued before it writes to here.
        self.stream.synchronize().w()?;
        queued
    }
}

impl Drop for HostBytes {
    fn drop(&mut self) {
        let context = self.stream.context();
        // Copies from here may be under way.
        match context.synchronize() {
            // The process is ending, and its memory with it.
            Err(DriverError(sys::CUresult::CUDA_ERROR_DEINITIALIZED)) => return,
            Err(error) => tracing::warn!(?error, "the device does not respond"),
            Ok(()) => {}
        }
        if self.pinned {
            // SAFETY: it was registered at this address, and the wait above was for whoever copies from it.
            let freed = unsafe { sys::cuMemHostUnregister(self.memory.as_mut_ptr().add(self.start).cast()) }.result();
            if let Err(error) = freed {
                tracing::warn!(?error, "host memory stays pinned");
            }
        }
    }
}

/// A stream of transfers beside the computation's.
#[derive(Debug)]
pub struct CopyStream {
    copies: Arc<CudaStream>,
    computation: Arc<CudaStream>,
}

impl CopyStream {
    pub fn new(device: &Device) -> Result<Self> {
        let computation = device.as_cuda_device()?.cuda_stream();
        let context: &Arc<CudaContext> = computation.context();
        Ok(Self { copies: context.new_stream().w()?, computation })
    }

    /// Queues a copy of `bytes` bytes from `start` of the host's memory to the beginning of a tensor.
    ///
    /// # Safety
    /// Until the copy is done, the caller changes nothing of the host's memory, and frees the tensor's only in the order
    /// of a computation that waits for it (see [`Self::before`]). Freeing the host's memory waits by itself.
    pub unsafe fn write(&self, host: &HostBytes, start: usize, bytes: usize, to: &Tensor) -> Result<()> {
        let region = Region::of(to)?;
        if bytes > region.bytes() {
            bail!("{bytes} bytes into a tensor of {:?}", to.shape());
        }
        let from = &host.bytes()[start..][..bytes];
        // SAFETY: both have so many bytes, and stay as they are until the copy is done by the caller's promise.
        unsafe { result::memcpy_htod_async(*region.address(), from, self.copies.cu_stream()) }.w()
    }

    pub fn copied(&self) -> Result<CudaEvent> {
        self.copies.record_event(None).w()
    }

    pub fn computed(&self) -> Result<CudaEvent> {
        self.computation.record_event(None).w()
    }

    pub fn after(&self, mark: &CudaEvent) -> Result<()> {
        self.copies.wait(mark).w()
    }

    pub fn before(&self, mark: &CudaEvent) -> Result<()> {
        self.computation.wait(mark).w()
    }
}
