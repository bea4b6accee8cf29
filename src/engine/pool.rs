//! The devices of an engine, and which call gets which.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::{Resident, Work, gone};
use crate::job::JobError;

/// What the devices' threads and the calls share.
#[derive(Debug)]
pub(super) struct Pool {
    /// A permit for each free device. Calls get them in order.
    free: Arc<Semaphore>,
    devices: Mutex<Vec<PooledDevice>>,
    resident: watch::Sender<Resident>,
}

#[derive(Debug, Clone, Default)]
struct PooledDevice {
    state: DeviceState,
    resident: Resident,
    /// The number of the last call that it was lent for.
    used: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum DeviceState {
    #[default]
    Free,
    Lent,
    /// It failed, and is not used any more.
    Left,
}

/// A device that one call has for itself, until this is dropped.
#[derive(Debug)]
pub(super) struct LentDevice {
    pool: Arc<Pool>,
    pub index: usize,
    permit: Option<OwnedSemaphorePermit>,
}

impl Pool {
    pub fn new(devices: usize) -> Arc<Self> {
        let free = Arc::new(Semaphore::new(devices));
        Arc::new(Self {
            free,
            devices: Mutex::new(vec![PooledDevice::default(); devices]),
            resident: watch::channel(Resident::default()).0,
        })
    }

    /// Waits for a free device. Of several, the one that has the model is chosen, then one that has none, then the one
    /// that was used longest ago.
    ///
    /// # Errors
    /// If all devices have failed.
    pub async fn lend(self: &Arc<Self>, work: Option<&Work>) -> Result<LentDevice, JobError> {
        loop {
            let permit = self.free.clone().acquire_owned().await.map_err(|_| gone())?;
            let mut devices = self.lock();
            let last = devices.iter().map(|device| device.used).max().unwrap_or_default();
            let free = devices.iter_mut().enumerate().filter(|(_, device)| device.state == DeviceState::Free);
            let best = free.min_by_key(|(_, device)| (device.distance(work), device.used));
            let Some((index, device)) = best else {
                // It failed after its permit was given out.
                permit.forget();
                continue;
            };
            (device.state, device.used) = (DeviceState::Lent, last + 1);
            return Ok(LentDevice { pool: self.clone(), index, permit: Some(permit) });
        }
    }

    /// Never lends a device again. After the last one, waiting calls fail.
    pub fn leave(&self, index: usize) {
        let mut devices = self.lock();
        let device = &mut devices[index];
        let was = std::mem::replace(&mut device.state, DeviceState::Left);
        device.resident = Resident::default();
        if was == DeviceState::Free {
            self.free.forget_permits(1);
        }
        if devices.iter().all(|device| device.state == DeviceState::Left) {
            self.free.close();
        }
        self.tell(&devices);
    }

    /// How many devices can still be used.
    pub fn usable(&self) -> usize {
        self.lock().iter().filter(|device| device.state != DeviceState::Left).count()
    }

    pub fn is_usable(&self, index: usize) -> bool {
        self.lock()[index].state != DeviceState::Left
    }

    pub fn resident_on(&self, index: usize) -> Resident {
        self.lock()[index].resident.clone()
    }

    /// The models on all devices together.
    pub fn resident(&self) -> watch::Receiver<Resident> {
        self.resident.subscribe()
    }

    pub fn models_changed(&self, index: usize, resident: Resident) {
        let mut devices = self.lock();
        devices[index].resident = resident;
        self.tell(&devices);
    }

    fn tell(&self, devices: &[PooledDevice]) {
        let first =
            |id: fn(&Resident) -> &Option<String>| devices.iter().find_map(|device| id(&device.resident).clone());
        self.resident.send_replace(Resident {
            decompose: first(|resident| &resident.decompose),
            edit: first(|resident| &resident.edit),
        });
    }

    /// No code under the lock can leave it inconsistent.
    fn lock(&self) -> MutexGuard<'_, Vec<PooledDevice>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PooledDevice {
    /// How much has to change before the work can begin: 0 nothing, 1 a model is loaded, 2 perhaps another one leaves.
    fn distance(&self, work: Option<&Work>) -> u8 {
        let has_it = match work {
            Some(Work::Decompose { .. }) => self.resident.decompose.is_some(),
            Some(Work::Edit { .. }) => self.resident.edit.is_some(),
            None => false,
        };
        match (has_it, &self.resident) {
            (true, _) => 0,
            (false, Resident { decompose: None, edit: None }) => 1,
            (false, _) => 2,
        }
    }
}

impl Drop for LentDevice {
    fn drop(&mut self) {
        let mut devices = self.pool.lock();
        let state = &mut devices[self.index].state;
        match state {
            DeviceState::Left => {
                if let Some(permit) = self.permit.take() {
                    permit.forget();
                }
            }
            DeviceState::Free | DeviceState::Lent => *state = DeviceState::Free,
        }
        drop(devices);
        // After the device is free, because the next call looks for it at once.
        self.permit = None;
    }
}
