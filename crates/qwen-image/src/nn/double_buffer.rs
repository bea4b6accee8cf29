//! Parts of a model that take turns in two buffers on the device: while one is used, the next one is transferred.

use std::collections::VecDeque;

use candle_core::{Device, Result};

use super::{DeviceBuffer, HostWeights};

/// The stream for transfers, separate from that of the computation. On the CPU, a transfer is an immediate copy.
#[derive(Debug)]
pub enum CopyStream {
    /// Copies at once, in the order of the computation.
    Immediate,
    /// A stream of its own on an NVIDIA GPU.
    #[cfg(feature = "cuda")]
    Cuda(super::cuda::CudaCopyStream),
}

/// A point in one of the two streams.
#[derive(Debug)]
enum StreamEvent {
    Immediate,
    #[cfg(feature = "cuda")]
    Cuda(super::cuda::CudaEvent),
}

impl CopyStream {
    /// The stream for transfers to this device.
    ///
    /// # Errors
    /// If the driver cannot create a stream.
    pub fn new(device: &Device) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if device.is_cuda() {
            return super::cuda::CudaCopyStream::new(device).map(Self::Cuda);
        }
        let _ = device;
        Ok(Self::Immediate)
    }

    #[cfg(feature = "cuda")]
    pub(super) fn cuda(&self) -> Result<&super::cuda::CudaCopyStream> {
        match self {
            Self::Cuda(stream) => Ok(stream),
            Self::Immediate => candle_core::bail!("a transfer to a GPU without its stream"),
        }
    }

    /// Everything queued in this stream so far.
    fn copied(&self) -> Result<StreamEvent> {
        match self {
            Self::Immediate => Ok(StreamEvent::Immediate),
            #[cfg(feature = "cuda")]
            Self::Cuda(stream) => stream.copied().map(StreamEvent::Cuda),
        }
    }

    /// Everything that the computation has queued so far.
    fn computed(&self) -> Result<StreamEvent> {
        match self {
            Self::Immediate => Ok(StreamEvent::Immediate),
            #[cfg(feature = "cuda")]
            Self::Cuda(stream) => stream.computed().map(StreamEvent::Cuda),
        }
    }

    /// Later transfers wait for a point of the computation.
    fn after(&self, event: &StreamEvent) -> Result<()> {
        match (self, event) {
            #[cfg(feature = "cuda")]
            (Self::Cuda(stream), StreamEvent::Cuda(event)) => stream.after(event),
            _ => Ok(()),
        }
    }

    /// The computation's later work waits for transfers.
    fn before(&self, event: &StreamEvent) -> Result<()> {
        match (self, event) {
            #[cfg(feature = "cuda")]
            (Self::Cuda(stream), StreamEvent::Cuda(event)) => stream.before(event),
            _ => Ok(()),
        }
    }

    /// Fills a new buffer; the computation's later work waits for it.
    pub fn bring(&self, copy: &HostWeights, device: &Device) -> Result<DeviceBuffer> {
        let buffer = DeviceBuffer::for_any([copy], device)?;
        self.after(&self.computed()?)?;
        // SAFETY: even if it fails, the computation waits for what was queued, and the buffer is freed in its order.
        let filled = unsafe { copy.fill(&buffer, self) };
        self.before(&self.copied()?)?;
        filled?;
        Ok(buffer)
    }
}

const BUFFERS: usize = 2;

/// Two buffers, and the copies that are in them or in transfer.
#[derive(Debug)]
pub struct DoubleBuffer {
    stream: CopyStream,
    buffers: [DeviceBuffer; BUFFERS],
    /// The copies in the order of their use.
    filled: VecDeque<Filled>,
    /// The last use of each buffer.
    used: [StreamEvent; BUFFERS],
    next: usize,
}

#[derive(Debug)]
struct Filled {
    copy: u64,
    buffer: usize,
    event: StreamEvent,
}

impl DoubleBuffer {
    /// Buffers for any of these copies.
    pub fn new<'a>(copies: impl IntoIterator<Item = &'a HostWeights> + Clone, device: &Device) -> Result<Self> {
        let stream = CopyStream::new(device)?;
        let buffers = [DeviceBuffer::for_any(copies.clone(), device)?, DeviceBuffer::for_any(copies, device)?];
        // Memory is allocated in the order of the computation, which may still be using it.
        let used = [stream.computed()?, stream.computed()?];
        Ok(Self { stream, buffers, filled: VecDeque::new(), used, next: 0 })
    }

    /// Starts a pass over `copies`. With `again`, [`Self::finish`] transfers the first ones again, for the next pass
    /// over the same copies.
    pub fn begin(&mut self, copies: &[HostWeights], again: bool) -> BufferCursor {
        let expected = self.filled.iter().zip(copies).all(|(filled, copy)| filled.copy == copy.id());
        if !expected || self.filled.len() > copies.len() {
            self.filled.clear();
        }
        let last = if again { copies.len() + BUFFERS } else { copies.len() };
        BufferCursor { shown: 0, fetched: self.filled.len(), last, again }
    }

    /// Visits the next copy in its buffer. None after the last one of the pass.
    pub fn next<R>(
        &mut self,
        copies: &[HostWeights],
        cursor: &mut BufferCursor,
        visit: impl FnOnce(&HostWeights, &DeviceBuffer) -> Result<R>,
    ) -> Result<Option<R>> {
        let Some(copy) = copies.get(cursor.shown) else { return Ok(None) };
        self.fetch_ahead(copies, cursor)?;
        let Some(Filled { buffer, event, .. }) = self.filled.pop_front() else { return Ok(None) };
        cursor.shown += 1;
        self.stream.before(&event)?;
        let visited = visit(copy, &self.buffers[buffer]);
        self.used[buffer] = self.stream.computed()?;
        visited.map(Some)
    }

    /// Ends a pass after its last copy.
    pub fn finish(&mut self, copies: &[HostWeights], cursor: &mut BufferCursor) -> Result<()> {
        if cursor.again { self.fetch_ahead(copies, cursor) } else { Ok(()) }
    }

    fn fetch_ahead(&mut self, copies: &[HostWeights], cursor: &mut BufferCursor) -> Result<()> {
        while self.filled.len() < BUFFERS && cursor.fetched < cursor.last {
            let copy = &copies[cursor.fetched % copies.len()];
            let buffer = self.next;
            self.stream.after(&self.used[buffer])?;
            // SAFETY: the buffers are freed in the order of the computation, which waits for the last transfer in
            // `drop`.
            unsafe { copy.fill(&self.buffers[buffer], &self.stream)? };
            self.filled.push_back(Filled { copy: copy.id(), buffer, event: self.stream.copied()? });
            self.next = (buffer + 1) % BUFFERS;
            cursor.fetched += 1;
        }
        Ok(())
    }
}

/// The progress of a pass.
#[derive(Debug, Default)]
pub struct BufferCursor {
    shown: usize,
    /// The number of this pass's copies that are or were in a buffer.
    fetched: usize,
    last: usize,
    again: bool,
}

impl Drop for DoubleBuffer {
    /// The buffers' memory is freed in the order of the computation, which therefore has to wait for the last transfer.
    fn drop(&mut self) {
        if let Err(error) = self.stream.copied().and_then(|event| self.stream.before(&event)) {
            tracing::warn!(%error, "transfers were still under way");
        }
    }
}
