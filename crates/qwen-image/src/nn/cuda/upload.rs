//! Tensors from files to the GPU, many at a time: threads read pieces of the files into pinned memory, and each piece
//! travels while the next is read.
//!
//! Tensors come in the order in which they are expected to be asked for, a bounded number of bytes ahead; one that is
//! asked for out of turn comes at once.

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
/// Bytes of one piece. Each thread has two of them pinned: one travels while the other is read.
const PIECE: usize = 8 << 20;
/// Bytes that may be on the GPU, or on their way, before they are asked for.
const AHEAD: usize = 1536 << 20;

#[derive(Debug)]
pub struct Uploader {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    computation: Arc<CudaStream>,
}

#[derive(Debug)]
struct Shared {
    device: Device,
    sources: Vec<Source>,
    state: Mutex<State>,
    /// There may be something to do for a thread.
    work: Condvar,
    /// A tensor came, or none will come any more.
    came: Condvar,
}

#[derive(Debug)]
struct State {
    /// Sources that nobody has started on.
    waiting: VecDeque<usize>,
    pieces: VecDeque<Piece>,
    items: Vec<Item>,
    ahead: usize,
    failed: Option<String>,
    stopping: bool,
}

#[derive(Debug)]
enum Item {
    Waiting,
    Coming {
        tensor: Tensor,
        allocated: Arc<CudaEvent>,
        left: usize,
        copied: Vec<CudaEvent>,
    },
    /// Given away, or not wanted.
    Gone,
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    source: usize,
    offset: usize,
    len: usize,
}

impl Uploader {
    /// `sources` in the order in which they will probably be taken.
    pub fn start(sources: Vec<Source>, device: &Device) -> Result<Self> {
        let computation = device.as_cuda_device()?.cuda_stream();
        let state = State {
            waiting: (0..sources.len()).collect(),
            pieces: VecDeque::new(),
            items: sources.iter().map(|_| Item::Waiting).collect(),
            ahead: 0,
            failed: None,
            stopping: false,
        };
        let shared = Arc::new(Shared {
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

    /// The tensor, in its file's number format. Its contents are there for all work that is queued from now on.
    ///
    /// # Errors
    /// When a file could not be read, or the device refused.
    pub fn take(&self, source: usize) -> Result<Tensor> {
        let mut state = self.shared.lock();
        if matches!(state.items[source], Item::Waiting) {
            state.waiting.retain(|&waiting| waiting != source);
            self.shared.begin(&mut state, source)?;
            self.shared.work.notify_all();
        }
        loop {
            if let Some(reason) = &state.failed {
                bail!("{reason}");
            }
            match &state.items[source] {
                Item::Coming { left: 0, .. } => break,
                Item::Gone => bail!("a tensor that was taken before"),
                Item::Coming { .. } | Item::Waiting => {}
            }
            state = self.shared.came.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let Item::Coming { tensor, copied, .. } = std::mem::replace(&mut state.items[source], Item::Gone) else {
            bail!("a tensor that was lost")
        };
        state.ahead -= self.shared.sources[source].bytes();
        self.shared.work.notify_all();
        drop(state);
        copied.iter().try_for_each(|event| self.computation.wait(event)).w()?;
        Ok(tensor)
    }

    /// This one will not be asked for.
    pub fn skip(&self, source: usize) -> Result<()> {
        let mut state = self.shared.lock();
        if matches!(state.items[source], Item::Waiting) {
            state.waiting.retain(|&waiting| waiting != source);
            state.items[source] = Item::Gone;
            return Ok(());
        }
        let taken = matches!(state.items[source], Item::Gone);
        drop(state);
        // What is on its way has to arrive before its memory may go.
        if taken { Ok(()) } else { self.take(source).map(drop) }
    }
}

impl Drop for Uploader {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::warn!("a thread that loads tensors panicked");
            }
        }
        // Tensors that nobody took are freed in the order of the computation, which must come after their arrival.
        let mut state = self.shared.lock();
        for item in &mut state.items {
            if let Item::Coming { copied, .. } = item
                && let Err(error) = copied.iter().try_for_each(|event| self.computation.wait(event))
            {
                tracing::warn!(?error, "the device does not respond");
            }
            *item = Item::Gone;
        }
    }
}

/// A thread's two pieces of pinned memory.
struct Staging {
    memory: [HostBytes; 2],
    /// When each was last read by the GPU.
    busy: [Option<CudaEvent>; 2],
    next: usize,
    stream: Arc<CudaStream>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panics under the lock has marked nothing as done that is not.
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
            if let Item::Coming { left, copied, .. } = &mut state.items[piece.source] {
                *left -= 1;
                copied.push(sent);
                if *left == 0 {
                    self.came.notify_all();
                }
            }
        }
        staging.stream.synchronize().w()
    }

    /// The next piece and where it goes; none when there will be no more.
    fn next_piece(&self) -> Result<Option<(Piece, u64, Arc<CudaEvent>)>> {
        let mut state = self.lock();
        loop {
            if state.stopping {
                return Ok(None);
            }
            if let Some(piece) = state.pieces.pop_front() {
                if let Item::Coming { tensor, allocated, .. } = &state.items[piece.source] {
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

    /// Makes room for a tensor and cuts it into pieces.
    fn begin(&self, state: &mut State, source: usize) -> Result<()> {
        let Source { shape, dtype, .. } = &self.sources[source];
        // SAFETY: `take` gives it away when all of its pieces were sent, with the computation waiting for them; otherwise
        // it is dropped unread.
        let tensor = unsafe { Tensor::empty(shape, *dtype, &self.device)? };
        let stream = self.device.as_cuda_device()?.cuda_stream();
        let allocated = Arc::new(stream.record_event(None).w()?);
        let bytes = self.sources[source].bytes();
        let pieces = (0..bytes).step_by(PIECE).map(|offset| Piece { source, offset, len: PIECE.min(bytes - offset) });
        let left = pieces.len();
        state.pieces.extend(pieces);
        state.ahead += bytes;
        state.items[source] = Item::Coming { tensor, allocated, left, copied: Vec::new() };
        Ok(())
    }

    /// Reads a piece and queues its copy; gives the mark behind it.
    fn send(&self, staging: &mut Staging, piece: Piece, address: u64, allocated: &CudaEvent) -> Result<CudaEvent> {
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
        // SAFETY: `begin` cut the piece out of the tensor that `address` is of, and who takes or drops that orders the
        // computation, in which it is freed, behind all of its pieces. The staging memory is not written again before
        // the event behind the copy, which is waited for above when its turn comes, nor freed, for which its destructor
        // waits.
        unsafe { result::memcpy_htod_async(address, bytes, staging.stream.cu_stream()) }.w()?;
        staging.busy[turn] = Some(staging.stream.record_event(None).w()?);
        staging.stream.record_event(None).w()
    }
}

/// Whether tensors of this number format can be uploaded.
pub fn takes(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::BF16 | DType::U8 | DType::U32 | DType::F8E4M3)
}
