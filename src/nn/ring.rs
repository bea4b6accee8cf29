//! Parts of a model that take turns in two rooms on the device: while one is used, the next one comes in.

use std::collections::VecDeque;

use candle_core::{Device, Result};

use super::{HostCopy, Room};

/// The queue that transfers go through, beside the one of the computation. On the CPU a transfer is a copy on the spot.
#[derive(Debug)]
pub enum CopyStream {
    Immediate,
    #[cfg(feature = "cuda")]
    Cuda(super::cuda::CopyStream),
}

/// A point in one of the two queues.
#[derive(Debug)]
enum Mark {
    Immediate,
    #[cfg(feature = "cuda")]
    Cuda(super::cuda::Mark),
}

impl CopyStream {
    pub fn new(device: &Device) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if device.is_cuda() {
            return super::cuda::CopyStream::new(device).map(Self::Cuda);
        }
        let _ = device;
        Ok(Self::Immediate)
    }

    #[cfg(feature = "cuda")]
    pub(super) fn cuda(&self) -> Result<&super::cuda::CopyStream> {
        match self {
            Self::Cuda(stream) => Ok(stream),
            Self::Immediate => candle_core::bail!("a transfer to a GPU without its stream"),
        }
    }

    /// What is queued here so far.
    fn copied(&self) -> Result<Mark> {
        match self {
            Self::Immediate => Ok(Mark::Immediate),
            #[cfg(feature = "cuda")]
            Self::Cuda(stream) => stream.copied().map(Mark::Cuda),
        }
    }

    /// What the computation has queued so far.
    fn computed(&self) -> Result<Mark> {
        match self {
            Self::Immediate => Ok(Mark::Immediate),
            #[cfg(feature = "cuda")]
            Self::Cuda(stream) => stream.computed().map(Mark::Cuda),
        }
    }

    /// Later transfers wait for a point of the computation.
    fn after(&self, mark: &Mark) -> Result<()> {
        match (self, mark) {
            #[cfg(feature = "cuda")]
            (Self::Cuda(stream), Mark::Cuda(mark)) => stream.after(mark),
            _ => Ok(()),
        }
    }

    /// The computation's later work waits for transfers.
    fn before(&self, mark: &Mark) -> Result<()> {
        match (self, mark) {
            #[cfg(feature = "cuda")]
            (Self::Cuda(stream), Mark::Cuda(mark)) => stream.before(mark),
            _ => Ok(()),
        }
    }

    /// Fills a new room of its own; the computation's later work waits for it.
    pub fn bring(&self, copy: &HostCopy, device: &Device) -> Result<Room> {
        let room = Room::for_any([copy], device)?;
        self.after(&self.computed()?)?;
        copy.fill(&room, self)?;
        self.before(&self.copied()?)?;
        Ok(room)
    }
}

const ROOMS: usize = 2;

/// Two rooms and what is in them, or on its way.
#[derive(Debug)]
pub struct Ring {
    stream: CopyStream,
    rooms: [Room; ROOMS],
    /// In the order in which they will be used.
    filled: VecDeque<Filled>,
    /// Who used each room last.
    used: [Mark; ROOMS],
    next: usize,
}

#[derive(Debug)]
struct Filled {
    copy: u64,
    room: usize,
    mark: Mark,
}

impl Ring {
    /// Rooms for any of these copies.
    pub fn new<'a>(copies: impl IntoIterator<Item = &'a HostCopy> + Clone, device: &Device) -> Result<Self> {
        let stream = CopyStream::new(device)?;
        let rooms = [Room::for_any(copies.clone(), device)?, Room::for_any(copies, device)?];
        // Memory is given out in the order of the computation, and may have belonged to what it still does.
        let used = [stream.computed()?, stream.computed()?];
        Ok(Self { stream, rooms, filled: VecDeque::new(), used, next: 0 })
    }

    /// Shows every copy in turn, in a room. With `again`, the first ones are fetched anew at the end, for the next
    /// pass over the same copies.
    pub fn pass(
        &mut self,
        copies: &[HostCopy],
        again: bool,
        mut visit: impl FnMut(usize, &HostCopy, &Room) -> Result<()>,
    ) -> Result<()> {
        let expected = self.filled.iter().zip(copies).all(|(filled, copy)| filled.copy == copy.id());
        if !expected || self.filled.len() > copies.len() {
            self.filled.clear();
        }
        let last = if again { copies.len() + ROOMS } else { copies.len() };
        let mut next = self.filled.len();
        for (index, copy) in copies.iter().enumerate() {
            self.fetch_ahead(copies, &mut next, last)?;
            let Some(Filled { room, mark, .. }) = self.filled.pop_front() else { break };
            self.stream.before(&mark)?;
            let visited = visit(index, copy, &self.rooms[room]);
            self.used[room] = self.stream.computed()?;
            visited?;
        }
        if again {
            self.fetch_ahead(copies, &mut next, last)?;
        }
        Ok(())
    }

    fn fetch_ahead(&mut self, copies: &[HostCopy], next: &mut usize, last: usize) -> Result<()> {
        while self.filled.len() < ROOMS && *next < last {
            let copy = &copies[*next % copies.len()];
            let room = self.next;
            self.stream.after(&self.used[room])?;
            copy.fill(&self.rooms[room], &self.stream)?;
            self.filled.push_back(Filled { copy: copy.id(), room, mark: self.stream.copied()? });
            self.next = (room + 1) % ROOMS;
            *next += 1;
        }
        Ok(())
    }
}

impl Drop for Ring {
    /// The rooms' memory is freed in the order of the computation, so that has to come after the last transfer.
    fn drop(&mut self) {
        if let Err(error) = self.stream.copied().and_then(|mark| self.stream.before(&mark)) {
            tracing::warn!(%error, "transfers were still under way");
        }
    }
}
