//! The devices of an engine's threads: one each, or two each that compute the branches of guidance in parallel.

use qwen_image::{DeviceChoice, Devices, PipelineOptions};

use crate::job::JobError;

/// The devices of one thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceGroup {
    pub device: DeviceChoice,
    /// The device of the negative branch, if it has its own.
    pub cfg_parallel: Option<DeviceChoice>,
}

impl DeviceGroup {
    /// As in settings: `cuda:0`, or `cuda:0,cuda:1`.
    pub fn name(self) -> String {
        let second = self.cfg_parallel.map(|second| format!(",{}", second.name()));
        self.device.name() + &second.unwrap_or_default()
    }

    /// These options with its devices.
    pub fn options(self, options: &PipelineOptions) -> PipelineOptions {
        PipelineOptions { device: self.device, cfg_parallel_device: self.cfg_parallel, ..options.clone() }
    }

    /// Each device for itself.
    ///
    /// # Errors
    /// If a device is not there.
    pub fn serial(devices: &Devices) -> Result<Vec<Self>, JobError> {
        Ok(devices.list()?.into_iter().map(Self::from).collect())
    }

    /// The devices in pairs, in order.
    ///
    /// # Errors
    /// If they are no pairs of GPUs, which names the setting; or if one is not there.
    pub fn parallel(devices: &Devices) -> Result<Vec<Self>, JobError> {
        // What was named is checked before the GPUs are counted.
        if let Devices::These(named) = devices {
            pairs(named)?;
        }
        pairs(&devices.list()?)
    }
}

impl From<DeviceChoice> for DeviceGroup {
    fn from(device: DeviceChoice) -> Self {
        Self { device, cfg_parallel: None }
    }
}

fn pairs(devices: &[DeviceChoice]) -> Result<Vec<DeviceGroup>, JobError> {
    let names = || devices.iter().map(|device| device.name()).collect::<Vec<_>>().join(",");
    let reason = if devices.contains(&DeviceChoice::Cpu) {
        "device is cpu"
    } else if devices.len() % 2 == 1 {
        &format!("device is {}, which makes no pairs", names())
    } else {
        let pair = |pair: &[DeviceChoice]| DeviceGroup { device: pair[0], cfg_parallel: Some(pair[1]) };
        return Ok(devices.chunks_exact(2).map(pair).collect());
    };
    let reason = format!(
        "`parallel` computes the two branches of guidance on two GPUs, but {reason}; give two or more GPUs in pairs, such \
         as cuda:0,cuda:1, or set `serial`"
    );
    Err(JobError::invalid("qwen_image.guidance", reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(devices: &str) -> Result<Vec<String>, JobError> {
        let devices: Devices = devices.parse().unwrap();
        let Devices::These(devices) = devices else { panic!("{devices}") };
        Ok(pairs(&devices)?.into_iter().map(DeviceGroup::name).collect())
    }

    #[test]
    fn devices_are_paired_in_order() {
        assert_eq!(names("cuda:0,cuda:1").unwrap(), ["cuda:0,cuda:1"]);
        assert_eq!(names("cuda:3,cuda:0,cuda:2,cuda:1").unwrap(), ["cuda:3,cuda:0", "cuda:2,cuda:1"]);
    }

    #[test]
    fn what_is_no_pair_is_refused_and_names_the_setting() {
        for (devices, reason) in [
            ("cpu", "but device is cpu; give"),
            ("cuda", "but device is cuda:0, which makes no pairs; give"),
            ("cuda:0,cuda:1,cuda:2", "but device is cuda:0,cuda:1,cuda:2, which makes no pairs; give"),
        ] {
            let error = names(devices).unwrap_err();
            assert!(
                matches!(&error, JobError::InvalidRequest { field, .. } if field == "qwen_image.guidance"),
                "{error}"
            );
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
}
