//! Uploads tensors from files to the GPU in parallel: threads read pieces of the files into pinned memory, and each
//! piece is copied while the next one is read.
//!
//! Tensors are uploaded in the order of the expected requests, a bounded number of bytes ahead. A tensor that is
//! requested out of order is uploaded at once.

use std::{
    collections::VecDeque,
    os::unix::fs::FileExt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use candle_core::{
    DType, Device, Result, Tensor, bail,
    cuda::{
        WrapErr,
        cudarc::driver::{CudaEvent, CudaStream, result},
    },
};

use super::{transfer::HostBytes, view::Region};
use crate::nn::upload::Source;

const THREADS: usize = 8;
/// The size of a piece, in bytes. Each thread has two pinned pieces: one is copied while the other is read.
const PIECE: usize = 8 << 20;
/// The maximum number of bytes uploaded ahead of requests.
const AHEAD: usize = 1536 << 20;

#[derive(Debug)]
pub struct CudaUploader {
    shared: Arc<UploadShared>,
    threads: Vec<JoinHandle<()>>,
    computation: Arc<CudaStream>,
}

#[derive(Debug)]
struct UploadShared {
    device: Device,
    sources: Vec<Source>,
    state: Mutex<UploadState>,
    /// Notified when there may be work for a thread.
    work: Condvar,
    /// Notified when a tensor is complete, or when uploading has failed.
    came: Condvar,
}

#[derive(Debug)]
struct UploadState {
    /// Sources that have not been started.
    waiting: VecDeque<usize>,
    pieces: VecDeque<UploadPiece>,
    items: Vec<TensorUpload>,
    ahead: usize,
    failed: Option<String>,
    stopping: bool,
}

#[derive(Debug)]
enum TensorUpload {
    Waiting,
    Coming {
        tensor: Tensor,
        allocated: Arc<CudaEvent>,
        left: usize,
        copied: Vec<CudaEvent>,
    },
    /// Taken, or skipped.
    Gone,
}

#[derive(Debug, Clone, Copy)]
struct UploadPiece {
    source: usize,
    offset: usize,
    len: usize,
}

impl CudaUploader {
    /// Starts with `sources`, in the expected order of requests.
    pub fn start(sources: Vec<Source>, device: &Device) -> Result<Self> {
        let computation = device.as_cuda_device()?.cuda_stream();
        let state = UploadState {
            waiting: (0..sources.len()).collect(),
            pieces: VecDeque::new(),
            items: sources.iter().map(|_| TensorUpload::Waiting).collect(),
            ahead: 0,
            failed: None,
            stopping: false,
        };
        let shared = Arc::new(UploadShared {
            device: device.clone(),
            sources,
            state: Mutex::new(state),
            work: Condvar::new(),
            came: Condvar::new(),
        });
        let threads = (0..THREADS)
            .map(|index| {
                let shared = shared.clone();
                std::thread::Builder::new().name(format!("load-{index}")).spawn(move || shared.run())
            })
            .collect::<std::io::Result<_>>()?;
        Ok(Self { shared, threads, computation })
    }

    /// The tensor, in its file's number format. All work that is queued from now on sees its contents.
    ///
    /// # Errors
    /// If a file could not be read, or the device failed.
    pub fn take(&self, source: usize) -> Result<Tensor> {
        let mut state = self.shared.lock();
        if matches!(state.items[source], TensorUpload::Waiting) {
            state.waiting.retain(|&waiting| waiting != source);
            self.shared.begin(&mut state, source)?;
            self.shared.work.notify_all();
        }
        loop {
            if let Some(reason) = &state.failed {
                bail!("{reason}");
            }
            match &state.items[source] {
                TensorUpload::Coming { left: 0, .. } => break,
                TensorUpload::Gone => bail!("a tensor that was taken before"),
                TensorUpload::Coming { .. } | TensorUpload::Waiting => {}
            }
            state = self.shared.came.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let TensorUpload::Coming { tensor, copied, .. } =
            std::mem::replace(&mut state.items[source], TensorUpload::Gone)
        else {
            bail!("a tensor that was lost")
        };
        state.ahead -= self.shared.sources[source].bytes();
        self.shared.work.notify_all();
        drop(state);
        copied.iter().try_for_each(|event| self.computation.wait(event)).w()?;
        Ok(tensor)
    }

    /// Marks a source that will not be requested.
    pub fn skip(&self, source: usize) -> Result<()> {
        let mut state = self.shared.lock();
        if matches!(state.items[source], TensorUpload::Waiting) {
            state.waiting.retain(|&waiting| waiting != source);
            state.items[source] = TensorUpload::Gone;
            return Ok(());
        }
        let taken = matches!(state.items[source], TensorUpload::Gone);
        drop(state);
        // An upload in progress must finish before its memory is freed.
        if taken { Ok(()) } else { self.take(source).map(drop) }
    }
}

impl Drop for CudaUploader {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::warn!("a thread that uploads tensors panicked");
            }
        }
        // Tensors that were not taken are freed in the order of the computation, which must first wait for their
        // copies.
        let mut state = self.shared.lock();
        for item in &mut state.items {
            if let TensorUpload::Coming { copied, .. } = item
                && let Err(error) = copied.iter().try_for_each(|event| self.computation.wait(event))
            {
                tracing::warn!(?error, "the device does not respond");
            }
            *item = TensorUpload::Gone;
        }
    }
}

/// A thread's two pieces of pinned memory.
struct Staging {
    memory: [HostBytes; 2],
    /// The end of the last copy from each.
    busy: [Option<CudaEvent>; 2],
    next: usize,
    stream: Arc<CudaStream>,
}

impl UploadShared {
    fn lock(&self) -> MutexGuard<'_, UploadState> {
        // A poisoned lock can be used: a thread that panics under it has not marked unfinished work as done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        if let Err(error) = self.serve() {
            let mut state = self.lock();
            state.failed.get_or_insert(error.to_string());
            state.stopping = true;
            self.work.notify_all();
            self.came.notify_all();
        }
    }

    fn serve(&self) -> Result<()> {
        let context = self.device.as_cuda_device()?.cuda_stream().context().clone();
        context.bind_to_thread().w()?;
        let mut staging = Staging {
            memory: [HostBytes::new(&self.device, PIECE)?, HostBytes::new(&self.device, PIECE)?],
            busy: [None, None],
            next: 0,
            stream: context.new_stream().w()?,
        };
        while let Some((piece, address, allocated)) = self.next_piece()? {
            let sent = self.send(&mut staging, piece, address, &allocated)?;
            let mut state = self.lock();
            if let TensorUpload::Coming { left, copied, .. } = &mut state.items[piece.source] {
                *left -= 1;
                copied.push(sent);
                if *left == 0 {
                    self.came.notify_all();
                }
            }
        }
        staging.stream.synchronize().w()
    }

    /// The next piece and its destination; none if there are no more.
    fn next_piece(&self) -> Result<Option<(UploadPiece, u64, Arc<CudaEvent>)>> {
        let mut state = self.lock();
        loop {
            if state.stopping {
                return Ok(None);
            }
            if let Some(piece) = state.pieces.pop_front() {
                if let TensorUpload::Coming { tensor, allocated, .. } = &state.items[piece.source] {
                    let address = Region::of(tensor)?.address() + piece.offset as u64;
                    return Ok(Some((piece, address, allocated.clone())));
                }
                continue;
            }
            match state.waiting.front().copied() {
                Some(source) if state.ahead == 0 || state.ahead + self.sources[source].bytes() <= AHEAD => {
                    state.waiting.pop_front();
                    self.begin(&mut state, source)?;
                    self.work.notify_all();
                }
                _ => state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Allocates a tensor and divides it into pieces.
    fn begin(&self, state: &mut UploadState, source: usize) -> Result<()> {
        let Source { shape, dtype, .. } = &self.sources[source];
        // SAFETY: `take` returns it only after all of its pieces were sent, and lets the computation wait for them.
        // Otherwise it is dropped unread.
        let tensor = unsafe { Tensor::empty(shape, *dtype, &self.device)? };
        let stream = self.device.as_cuda_device()?.cuda_stream();
        let allocated = Arc::new(stream.record_event(None).w()?);
        let bytes = self.sources[source].bytes();
        let pieces =
            (0..bytes).step_by(PIECE).map(|offset| UploadPiece { source, offset, len: PIECE.min(bytes - offset) });
        let left = pieces.len();
        state.pieces.extend(pieces);
        state.ahead += bytes;
        state.items[source] = TensorUpload::Coming { tensor, allocated, left, copied: Vec::new() };
        Ok(())
    }

    /// Reads a piece and queues its copy; returns the event after the copy.
    fn send(
        &self,
        staging: &mut Staging,
        piece: UploadPiece,
        address: u64,
        allocated: &CudaEvent,
    ) -> Result<CudaEvent> {
        let Source { file, path, offset, .. } = &self.sources[piece.source];
        let turn = staging.next;
        staging.next = 1 - turn;
        if let Some(busy) = staging.busy[turn].take() {
            busy.synchronize().w()?;
        }
        let bytes = &mut staging.memory[turn].bytes_mut()[..piece.len];
        file.read_exact_at(bytes, offset + piece.offset as u64)
            .map_err(|error| candle_core::Error::Msg(format!("{}: {error}", path.display())))?;
        staging.stream.wait(allocated).w()?;
        // SAFETY: `begin` made the piece a part of the tensor at `address`. The tensor is freed in the order of the
        // computation, which waits for all pieces when the tensor is taken or dropped. The staging memory is written
        // again only after the event that follows the copy, see the wait above, and its destructor waits for the copy.
        unsafe { result::memcpy_htod_async(address, bytes, staging.stream.cu_stream()) }.w()?;
        staging.busy[turn] = Some(staging.stream.record_event(None).w()?);
        staging.stream.record_event(None).w()
    }
}

/// Whether tensors of this number format can be uploaded.
pub fn takes(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::BF16 | DType::U8 | DType::U32 | DType::F8E4M3)
}
