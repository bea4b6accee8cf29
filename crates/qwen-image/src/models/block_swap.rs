//! Blocks of a model that are on the host and move to the device one after the other, each while the previous one
//! computes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{Device, Result};

use crate::nn::{BufferCursor, DeviceBuffer, DoubleBuffer, HostWeights};

/// The placement of a model's blocks while it computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockPlacement {
    /// All of them stay on the device.
    OnDevice,
    /// The first `resident` blocks stay on the device; the others take turns in two buffers.
    Streamed {
        /// The number of blocks that stay.
        resident: usize,
    },
}

impl BlockPlacement {
    /// How many of `count` blocks are resident.
    pub fn resident(self, count: usize) -> usize {
        match self {
            Self::OnDevice => count,
            Self::Streamed { resident } => resident.min(count),
        }
    }
}

/// Host copies of the blocks that are not resident, in one or more sets with separate passes.
#[derive(Debug)]
pub struct BlockSwap<const SETS: usize> {
    device: Device,
    sets: [Vec<HostWeights>; SETS],
    /// Made at the first pass.
    buffer: Mutex<Option<DoubleBuffer>>,
}

impl<const SETS: usize> BlockSwap<SETS> {
    pub fn new(sets: [Vec<HostWeights>; SETS], device: &Device) -> Self {
        Self { device: device.clone(), sets, buffer: Mutex::default() }
    }

    /// The copies; the device's memory is freed.
    pub fn into_sets(self) -> [Vec<HostWeights>; SETS] {
        self.sets
    }

    /// Starts a pass over the copies of a set. With `again`, the same set is expected next. If a pass is dropped early,
    /// the next one detects it.
    pub fn begin(&self, set: usize, again: bool) -> Result<SwapPass<'_>> {
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.is_none() {
            *buffer = Some(DoubleBuffer::new(self.sets.iter().flatten(), &self.device)?);
        }
        let copies = &self.sets[set];
        let cursor = buffer.as_mut().map(|buffer| buffer.begin(copies, again)).unwrap_or_default();
        Ok(SwapPass { buffer, copies, cursor })
    }

    /// Visits each copy of a set in its buffer.
    pub fn pass(
        &self,
        set: usize,
        again: bool,
        mut visit: impl FnMut(usize, &HostWeights, &DeviceBuffer) -> Result<()>,
    ) -> Result<()> {
        let mut pass = self.begin(set, again)?;
        for index in 0..self.sets[set].len() {
            pass.next(|copy, buffer| visit(index, copy, buffer))?;
        }
        pass.finish()
    }

    /// Frees the device's memory.
    pub fn vacate(&self) {
        *self.buffer.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// One pass over the copies of a set, a copy at a time.
#[derive(Debug)]
pub struct SwapPass<'a> {
    buffer: MutexGuard<'a, Option<DoubleBuffer>>,
    copies: &'a [HostWeights],
    cursor: BufferCursor,
}

impl SwapPass<'_> {
    /// Visits the next copy in its buffer, and starts the transfer of the one after it. None after the last one.
    pub fn next<R>(&mut self, visit: impl FnOnce(&HostWeights, &DeviceBuffer) -> Result<R>) -> Result<Option<R>> {
        let Some(buffer) = &mut *self.buffer else { return Ok(None) };
        buffer.next(self.copies, &mut self.cursor, visit)
    }

    /// Starts the first transfers of the next pass, if it was announced.
    pub fn finish(mut self) -> Result<()> {
        match &mut *self.buffer {
            Some(buffer) => buffer.finish(self.copies, &mut self.cursor),
            None => Ok(()),
        }
    }
}
