//! A model that can be offloaded and come back, shared by several jobs or pipelines.

use std::{
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use candle_core::{Device, Result};

use crate::nn::{CopyStream, DeviceBuffer, HostWeights, Tensors, bytes_of, release};

/// A model as pieces, each of which moves with one transfer.
pub trait OffloadGroups {
    /// The pieces that are on the device while the model computes.
    fn groups(&mut self) -> Vec<&mut dyn Tensors>;

    /// Frees what it holds on the device in addition to its pieces.
    fn vacate(&mut self) {}
}

/// Clones share the model.
pub struct Offloadable<T>(Arc<Mutex<OffloadState<T>>>);

impl<T> Clone for Offloadable<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct OffloadState<T> {
    model: T,
    device: Device,
    /// The host copies of its pieces, once it was offloaded.
    copies: Vec<HostWeights>,
    away: bool,
    /// Whether it is on the device only while it computes.
    in_turn: bool,
}

impl<T: OffloadGroups> Offloadable<T> {
    /// A model that is on the device.
    pub fn new(model: T, device: &Device) -> Self {
        let held = OffloadState { model, device: device.clone(), copies: Vec::new(), away: false, in_turn: false };
        Self(Arc::new(Mutex::new(held)))
    }

    /// The same, but on the device only while it computes; it is offloaded now.
    ///
    /// # Errors
    /// If there is no host memory for it, or the device fails.
    pub fn in_turn(model: T, device: &Device) -> Result<Self> {
        let part = Self::new(model, device);
        let mut held = part.lock();
        held.in_turn = true;
        held.leave()?;
        drop(held);
        Ok(part)
    }

    /// The model, on the device at least until the guard is dropped.
    ///
    /// # Errors
    /// If the device has no room for it.
    pub fn enter(&self) -> Result<Entered<'_, T>> {
        let mut held = self.lock();
        held.enter()?;
        Ok(Entered(held))
    }

    /// The model itself, if it is on the device and nothing else shares it.
    pub fn into_model(self) -> Option<T> {
        let held = Arc::into_inner(self.0)?.into_inner().unwrap_or_else(PoisonError::into_inner);
        (!held.away).then_some(held.model)
    }

    /// The model for questions that need no weights.
    pub fn about<R>(&self, ask: impl FnOnce(&T) -> R) -> R {
        ask(&self.lock().model)
    }

    /// Whether both are the same model.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Frees the device's memory; the weights stay on the host.
    ///
    /// # Errors
    /// If there is no host memory for it, or the device fails.
    pub fn leave(&self) -> Result<()> {
        self.lock().leave()
    }

    /// The size on the device in bytes, without the buffers of streamed blocks.
    ///
    /// # Errors
    /// Never for the models here.
    pub fn bytes_on_device(&self) -> Result<u64> {
        self.lock().bytes_on_device()
    }

    fn lock(&self) -> MutexGuard<'_, OffloadState<T>> {
        // A panic ends the thread that computes, so the state is not used any more.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: OffloadGroups> OffloadState<T> {
    fn enter(&mut self) -> Result<()> {
        if !self.away {
            return Ok(());
        }
        let stream = CopyStream::new(&self.device)?;
        // Allocate all buffers first: if one fails, no tensor points into a buffer yet.
        let rooms =
            self.copies.iter().map(|copy| stream.bring(copy, &self.device)).collect::<Result<Vec<DeviceBuffer>>>()?;
        for ((piece, copy), room) in self.model.groups().into_iter().zip(&self.copies).zip(&rooms) {
            copy.point(piece, room)?;
        }
        self.away = false;
        Ok(())
    }

    fn leave(&mut self) -> Result<()> {
        if self.away {
            return Ok(());
        }
        if self.copies.is_empty() {
            let device = &self.device;
            self.copies =
                self.model.groups().into_iter().map(|piece| HostWeights::of(piece, device)).collect::<Result<_>>()?;
        }
        self.model.groups().into_iter().try_for_each(release)?;
        self.model.vacate();
        self.away = true;
        Ok(())
    }

    fn bytes_on_device(&mut self) -> Result<u64> {
        self.model.groups().into_iter().map(|piece| bytes_of(piece).map(|bytes| bytes as u64)).sum()
    }
}

/// A model on the device.
pub struct Entered<'a, T: OffloadGroups>(MutexGuard<'a, OffloadState<T>>);

impl<T: OffloadGroups> Deref for Entered<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.model
    }
}

impl<T: OffloadGroups> Drop for Entered<'_, T> {
    fn drop(&mut self) {
        if self.0.in_turn
            && let Err(error) = self.0.leave()
        {
            tracing::warn!(%error, "a model could not be moved off the device");
        }
    }
}
