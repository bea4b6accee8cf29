//! What one device is used for, and how much of it.

use super::{
    device::{ComputeDType, DeviceChoice},
    host_memory,
    memory_plan::CpuOffload,
};

/// A device, its number format, and the memory that models may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub device: DeviceChoice,
    pub dtype: ComputeDType,
    /// What may leave a GPU while it is not needed there.
    pub cpu_offload: CpuOffload,
    /// Most bytes that models may take on a GPU; none: what it has free.
    pub vram_budget: Option<u64>,
    /// Most bytes that models may take in the host's memory; none: what the machine has free.
    pub memory_budget: Option<u64>,
}

impl Limits {
    /// Bytes of the host that models may take.
    pub(super) fn host_memory(&self) -> u64 {
        self.memory_budget.unwrap_or_else(host_memory::available_memory)
    }
}

impl Default for Limits {
    /// The CPU in float32, with all of its memory.
    fn default() -> Self {
        let device = DeviceChoice::default();
        Self {
            device,
            dtype: device.default_dtype(),
            cpu_offload: CpuOffload::default(),
            vram_budget: None,
            memory_budget: None,
        }
    }
}
