//! The devices of a cache: the main one, and that of the negative branch if it has its own.

use candle_core::Device;

use super::{
    device::{DeviceChoice, open_device},
    device_options::DeviceOptions,
    memory_plan::MemoryPlan,
};
use crate::{
    Error, nn,
    pipeline::{CfgParallelOptions, ComponentPlacement},
};

#[derive(Debug, Clone)]
pub(super) struct OpenDevices {
    pub main: Device,
    pub negative: Option<Device>,
}

impl OpenDevices {
    /// Opens them, and refuses two GPUs that would not compute the same.
    pub fn open(options: &DeviceOptions) -> Result<Self, Error> {
        let main = open_device(options.device)?;
        let negative = options.cfg_parallel_device.map(open_device).transpose()?;
        if let (DeviceChoice::Cuda(first), Some(DeviceChoice::Cuda(second))) =
            (options.device, options.cfg_parallel_device)
        {
            let describe = |gpu: usize| {
                nn::describe_cuda(gpu).map_err(|source| Error::device(&DeviceChoice::Cuda(gpu).name(), source))
            };
            let (one, other) = (describe(first)?, describe(second)?);
            if one != other {
                let reason = format!(
                    "cuda:{second} is another kind of GPU ({other}) than cuda:{first} ({one}), so the branches of \
                     guidance would not be computed alike; give two of one kind"
                );
                return Err(Error::invalid("cfg_parallel_device", reason));
            }
        }
        let devices = Self { main, negative };
        for (device, opened) in devices.named(options) {
            tracing::info!(
                device,
                dtype = options.dtype.as_str(),
                attention = nn::attention_kernel(opened, options.dtype.candle()),
                "device opened"
            );
        }
        Ok(devices)
    }

    /// The devices with their names, the main one first.
    pub fn named(&self, options: &DeviceOptions) -> impl Iterator<Item = (String, &Device)> {
        let negative = options.cfg_parallel_device.map(DeviceChoice::name).zip(self.negative.as_ref());
        std::iter::once((options.device.name(), &self.main)).chain(negative)
    }

    /// How to load the transformer of the negative branch.
    pub fn cfg_parallel(&self, plan: Option<&MemoryPlan>) -> Option<CfgParallelOptions<'_>> {
        let placement = plan.map_or(ComponentPlacement::KEPT, |plan| plan.placement.transformer);
        self.negative.as_ref().map(|device| CfgParallelOptions { device, placement })
    }
}

/// The device of the negative branch and the placement there, after those of the main one.
pub(super) fn negative_branch(device: DeviceChoice, plan: Option<&MemoryPlan>) -> String {
    let plan = plan.map(|plan| format!(", {plan}")).unwrap_or_default();
    format!("; negative branch on {}{plan}", device.name())
}
