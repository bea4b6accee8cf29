//! The devices of a model cache, and the memory that it may take.

use super::{
    device::{ComputeDType, DeviceChoice},
    host_memory,
    memory_plan::CpuOffload,
};
use crate::Error;

/// The part of [`crate::PipelineOptions`] about devices and memory, with the number format chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceOptions {
    pub device: DeviceChoice,
    pub cfg_parallel_device: Option<DeviceChoice>,
    pub dtype: ComputeDType,
    pub cpu_offload: CpuOffload,
    /// In bytes, as is the memory budget.
    pub vram_budget: Option<u64>,
    pub memory_budget: Option<u64>,
}

impl DeviceOptions {
    /// Checks that the values do not contradict each other, and that this build supports them.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the first field that contradicts another one.
    pub fn check(&self) -> Result<(), Error> {
        self.device.check()?;
        self.check_cfg_parallel()?;
        self.dtype.check(self.device)?;
        if self.device == DeviceChoice::Cpu {
            if self.vram_budget.is_some() {
                return Err(Error::invalid(
                    "vram_budget",
                    "bounds a GPU's memory, but device is cpu; use memory_budget",
                ));
            }
            if matches!(self.cpu_offload, CpuOffload::Model | CpuOffload::Sequential) {
                return Err(Error::invalid("cpu_offload", "moves weights off a GPU, but device is cpu; use auto"));
            }
        }
        Ok(())
    }

    /// Two CPUs are one, which only tests need.
    fn check_cfg_parallel(&self) -> Result<(), Error> {
        let Some(second) = self.cfg_parallel_device else { return Ok(()) };
        let reason = match (self.device, second) {
            (DeviceChoice::Cuda(first), DeviceChoice::Cuda(second)) if first == second => {
                format!("is cuda:{first}, as device is; give another GPU")
            }
            (DeviceChoice::Cuda(_), DeviceChoice::Cuda(_)) | (DeviceChoice::Cpu, DeviceChoice::Cpu) => return Ok(()),
            (first, second) => {
                format!("is {}, but device is {}; both branches need a GPU", second.name(), first.name())
            }
        };
        Err(Error::invalid("cfg_parallel_device", reason))
    }

    /// The host memory that models may use, in bytes.
    pub(super) fn host_memory(&self) -> u64 {
        self.memory_budget.unwrap_or_else(host_memory::available_memory)
    }
}
