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

use super::view;

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
        // SAFETY: the range lies inside `memory`, which is neither moved nor freed before it is unregistered.
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

    /// Queues a copy of a tensor to here, in the order of the computation.
    pub fn read(&mut self, start: usize, tensor: &Tensor) -> Result<()> {
        let address = view::address(tensor)?;
        let stream = self.stream.clone();
        let bytes = &mut self.bytes_mut()[start..][..tensor.elem_count() * tensor.dtype().size_in_bytes()];
        // SAFETY: source and destination are as long as said; [`Self::finish_reads`] comes before either goes.
        unsafe { result::memcpy_dtoh_async(bytes, address, stream.cu_stream()) }.w()
    }

    pub fn finish_reads(&self) -> Result<()> {
        self.stream.synchronize().w()
    }
}

impl Drop for HostBytes {
    fn drop(&mut self) {
        let context = self.stream.context();
        // Copies from here may be under way.
        match context.synchronize() {
            // The process is ending, and its memory with it.
            Err(DriverError(sys::CUresult::CUDA_ERROR_DEINITIALIZED)) => return,
            Err(error) => tracing::warn!(?error, "the device does not answer"),
            Ok(()) => {}
        }
        if self.pinned {
            // SAFETY: it was registered at this address and nobody copies from it any more.
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

pub type Event = CudaEvent;

impl CopyStream {
    pub fn new(device: &Device) -> Result<Self> {
        let computation = device.as_cuda_device()?.cuda_stream();
        let context: &Arc<CudaContext> = computation.context();
        Ok(Self { copies: context.new_stream().w()?, computation })
    }

    /// Queues a copy of `bytes` bytes from `start` of the host's memory to the beginning of a tensor.
    pub fn write(&self, host: &HostBytes, start: usize, bytes: usize, to: &Tensor) -> Result<()> {
        if bytes > to.elem_count() * to.dtype().size_in_bytes() {
            bail!("{bytes} bytes into a tensor of {:?}", to.shape());
        }
        let from = &host.bytes()[start..][..bytes];
        // SAFETY: the destination is large enough, and whoever owns either waits for this stream before it is freed.
        unsafe { result::memcpy_htod_async(view::address(to)?, from, self.copies.cu_stream()) }.w()
    }

    pub fn copied(&self) -> Result<Event> {
        self.copies.record_event(None).w()
    }

    pub fn computed(&self) -> Result<Event> {
        self.computation.record_event(None).w()
    }

    pub fn after(&self, mark: &Event) -> Result<()> {
        self.copies.wait(mark).w()
    }

    pub fn before(&self, mark: &Event) -> Result<()> {
        self.computation.wait(mark).w()
    }
}
