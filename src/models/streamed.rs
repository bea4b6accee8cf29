//! Blocks of a model that live on the host and come to the device one after the other, each while the one before it
//! computes.

use std::sync::{Mutex, PoisonError};

use candle_core::{Device, Result};

use crate::nn::{HostCopy, Ring, Room};

/// Where the blocks of a model are while it computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocks {
    OnDevice,
    /// The first `resident` stay on the device; the others take turns in two rooms.
    Streamed {
        resident: usize,
    },
}

impl Blocks {
    /// How many of `count` blocks stay on the device.
    pub fn resident(self, count: usize) -> usize {
        match self {
            Self::OnDevice => count,
            Self::Streamed { resident } => resident.min(count),
        }
    }
}

/// Copies of the blocks that are not resident, in one or more sets that are passed over separately.
#[derive(Debug)]
pub struct Streamed<const SETS: usize> {
    device: Device,
    sets: [Vec<HostCopy>; SETS],
    /// Made at the first pass.
    ring: Mutex<Option<Ring>>,
}

impl<const SETS: usize> Streamed<SETS> {
    pub fn new(sets: [Vec<HostCopy>; SETS], device: &Device) -> Self {
        Self { device: device.clone(), sets, ring: Mutex::default() }
    }

    /// Shows each copy of a set in its room. With `again` the same set is expected next.
    pub fn pass(
        &self,
        set: usize,
        again: bool,
        visit: impl FnMut(usize, &HostCopy, &Room) -> Result<()>,
    ) -> Result<()> {
        // A pass that failed has left nothing half-done that the next one would not notice.
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = match &mut *ring {
            Some(ring) => ring,
            None => ring.insert(Ring::new(self.sets.iter().flatten(), &self.device)?),
        };
        ring.pass(&self.sets[set], again, visit)
    }

    /// Gives the rooms back.
    pub fn vacate(&self) {
        *self.ring.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
