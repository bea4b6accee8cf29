//! Pinned host memory, which the GPU reads directly, and the stream for copies.

use std::sync::Arc;

use candle_core::{
    Device, Result, Tensor, bail,
    cuda::{
        WrapErr,
        cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, result, sys},
    },
};
use memmap2::MmapMut;
use rayon::prelude::*;

use super::view::Region;

const PAGE: usize = 4 << 10;
const HUGE_PAGE: usize = 2 << 20;

/// Pinned host memory. If the system does not allow pinning, it is pageable, and copies are slower.
#[derive(Debug)]
pub struct HostBytes {
    /// One huge page more than is used, so that the start can be aligned to one.
    memory: MmapMut,
    start: usize,
    len: usize,
    pinned: bool,
    /// The computation's stream.
    stream: Arc<CudaStream>,
}

impl HostBytes {
    pub fn new(device: &Device, len: usize) -> Result<Self> {
        let stream = device.as_cuda_device()?.cuda_stream();
        stream.context().bind_to_thread().w()?;
        let used = len.next_multiple_of(PAGE);
        let mut memory = match MmapMut::map_anon(used + HUGE_PAGE) {
            Ok(memory) => memory,
            Err(error) => bail!("{len} bytes of host memory: {error}"),
        };
        let start = memory.as_ptr().align_offset(HUGE_PAGE);
        // Without huge pages, pinning takes ten times as long.
        #[cfg(target_os = "linux")]
        if let Err(error) = memory.advise(memmap2::Advice::HugePage) {
            tracing::debug!(%error, "no huge pages; pinning memory will be slower");
        }
        // The system allocates pages on first use; several threads do that faster than the driver's single one.
        memory[start..][..used]
            .par_chunks_mut(HUGE_PAGE)
            .for_each(|chunk| chunk.iter_mut().step_by(PAGE).for_each(|byte| *byte = std::hint::black_box(0)));
        // SAFETY: the range is inside `memory`. Its contents stay in place when the owner moves, and are freed only
        // after `drop` has unregistered them.
        let pinned = unsafe { sys::cuMemHostRegister_v2(memory.as_mut_ptr().add(start).cast(), used, 0) }.result();
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

    /// Copies tensors into this memory, each to its byte offset, in the order of the computation, and waits for them.
    pub fn read<'a>(&mut self, tensors: impl IntoIterator<Item = (usize, &'a Tensor)>) -> Result<()> {
        let queued = tensors.into_iter().try_for_each(|(start, tensor)| {
            let from = Region::of(tensor)?;
            let bytes = tensor.elem_count() * tensor.dtype().size_in_bytes();
            if from.bytes() != bytes {
                bail!("a tensor with gaps, {:?}, as bytes", tensor.layout());
            }
            let stream = self.stream.clone();
            let to = &mut self.bytes_mut()[start..][..bytes];
            // SAFETY: source and destination have `bytes` bytes. The destination stays borrowed until all copies are
            // done, see the wait below. The source is freed in the order of the stream.
            unsafe { result::memcpy_dtoh_async(to, *from.address(), stream.cu_stream()) }.w()
        });
        // Wait even after an error: copies that were queued before it still write to this memory.
        self.stream.synchronize().w()?;
        queued
    }
}

impl Drop for HostBytes {
    fn drop(&mut self) {
        let context = self.stream.context();
        // Copies from this memory may still be running.
        match context.synchronize() {
            // The process is ending, which frees its memory.
            Err(DriverError(sys::CUresult::CUDA_ERROR_DEINITIALIZED)) => return,
            Err(error) => tracing::warn!(?error, "the device does not respond"),
            Ok(()) => {}
        }
        if self.pinned {
            // SAFETY: it was registered at this address, and after the wait above, nothing copies from it.
            let freed = unsafe { sys::cuMemHostUnregister(self.memory.as_mut_ptr().add(self.start).cast()) }.result();
            if let Err(error) = freed {
                tracing::warn!(?error, "host memory could not be unpinned");
            }
        }
    }
}

/// The stream for transfers, separate from that of the computation.
#[derive(Debug)]
pub struct CudaCopyStream {
    copies: Arc<CudaStream>,
    computation: Arc<CudaStream>,
}

impl CudaCopyStream {
    pub fn new(device: &Device) -> Result<Self> {
        let computation = device.as_cuda_device()?.cuda_stream();
        let context: &Arc<CudaContext> = computation.context();
        Ok(Self { copies: context.new_stream().w()?, computation })
    }

    /// Queues a copy of `bytes` bytes, from offset `start` of the host's memory to the beginning of a tensor.
    ///
    /// # Safety
    /// Until the copy is done, the caller must not change the host's memory, and may free the tensor's memory only in
    /// the order of a computation that waits for the copy (see [`Self::before`]). Freeing the host's memory waits for
    /// it.
    pub unsafe fn write(&self, host: &HostBytes, start: usize, bytes: usize, to: &Tensor) -> Result<()> {
        let region = Region::of(to)?;
        if bytes > region.bytes() {
            bail!("{bytes} bytes into a tensor of {:?}", to.shape());
        }
        let from = &host.bytes()[start..][..bytes];
        // SAFETY: both have `bytes` bytes, and the caller guarantees that they stay unchanged until the copy is done.
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
