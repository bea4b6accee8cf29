//! Opens, describes and tests the device.

use std::{path::Path, str::FromStr};

use candle_core::{DType, Device, Tensor};

use super::{device_options::DeviceOptions, what_if};
use crate::{
    Error,
    models::WeightOptions,
    nn,
    pipeline::{self, PipelineKind},
};

/// A device that models can compute on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum DeviceChoice {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU by its number.
    Cuda(usize),
}

impl DeviceChoice {
    /// The name in settings: `cpu`, `cuda:0`.
    pub fn name(self) -> String {
        match self {
            Self::Cpu => "cpu".to_owned(),
            Self::Cuda(index) => format!("cuda:{index}"),
        }
    }

    /// The default number format of a device.
    pub fn default_dtype(self) -> ComputeDType {
        match self {
            Self::Cpu => ComputeDType::F32,
            Self::Cuda(_) => ComputeDType::Bf16,
        }
    }

    /// Refuses a device that this build does not support.
    ///
    /// # Errors
    /// [`Error::Invalid`] for `Cuda` without the `cuda` feature.
    pub fn check(self) -> Result<(), Error> {
        if matches!(self, Self::Cuda(_)) && !candle_core::utils::cuda_is_available() {
            return Err(Error::invalid(
                "device",
                "this build has no CUDA; use cpu, or a build with the `cuda` feature",
            ));
        }
        Ok(())
    }
}

/// The devices of a program that uses several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Devices {
    /// All GPUs of this machine.
    AllCuda,
    /// These, which are different and of one kind.
    These(Vec<DeviceChoice>),
}

impl Devices {
    /// The number format that is the default of all of them.
    pub fn default_dtype(&self) -> ComputeDType {
        self.first().default_dtype()
    }

    /// One of them, for what is the same for all.
    pub fn first(&self) -> DeviceChoice {
        match self {
            Self::AllCuda => DeviceChoice::Cuda(0),
            Self::These(devices) => devices.first().copied().unwrap_or_default(),
        }
    }

    /// The devices one by one.
    ///
    /// # Errors
    /// [`Error::Invalid`] if this build does not support them; [`Error::Device`] if a GPU is not there.
    pub fn list(&self) -> Result<Vec<DeviceChoice>, Error> {
        self.first().check()?;
        let invalid = |reason: String| Error::invalid("device", reason);
        let count = || nn::count_cuda().map_err(|source| Error::device("cuda", source));
        match self {
            Self::AllCuda => match count()? {
                0 => Err(invalid("cuda:all: this machine has no NVIDIA GPU, or its driver does not see it".to_owned())),
                count => Ok((0..count).map(DeviceChoice::Cuda).collect()),
            },
            // A single one is opened later, with the driver's own message.
            Self::These(devices) if devices.len() == 1 => Ok(devices.clone()),
            Self::These(devices) => {
                let count = count()?;
                let missing =
                    devices.iter().find(|device| matches!(device, DeviceChoice::Cuda(index) if *index >= count));
                match missing {
                    Some(device) => {
                        Err(invalid(format!("{} is not there: this machine has {count} GPUs", device.name())))
                    }
                    None => Ok(devices.clone()),
                }
            }
        }
    }
}

impl std::fmt::Display for Devices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AllCuda => f.write_str("cuda:all"),
            Self::These(devices) => {
                f.write_str(&devices.iter().map(|device| device.name()).collect::<Vec<_>>().join(","))
            }
        }
    }
}

impl FromStr for Devices {
    type Err = String;

    /// A device, several with commas between them, or `cuda:all`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "cuda:all" {
            return Ok(Self::AllCuda);
        }
        let mut devices = Vec::new();
        for name in text.split(',') {
            let device: DeviceChoice = name.trim().parse().map_err(|reason: String| match text.contains(',') {
                true if name.trim().is_empty() => {
                    format!("`{text}` has an empty place; write for instance cuda:0,cuda:1")
                }
                true => reason,
                false => format!("{reason}, several such as cuda:0,cuda:1, or cuda:all"),
            })?;
            if devices.contains(&device) {
                return Err(format!("{} is named twice", device.name()));
            }
            devices.push(device);
        }
        if devices.len() > 1 && devices.contains(&DeviceChoice::Cpu) {
            return Err("cpu cannot be combined with GPUs: it would take hours for a job of seconds".to_owned());
        }
        Ok(Self::These(devices))
    }
}

/// The number format of weights and activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ComputeDType {
    /// float32, for the CPU.
    F32,
    /// bfloat16, for GPUs.
    Bf16,
    /// Like `Bf16`, with the transformer's blocks in fp8: faster and smaller, less exact. For GPUs of compute
    /// capability 8.9 and newer.
    Fp8,
}

impl ComputeDType {
    /// The name in settings and manifests: `f32`, `bf16`, `fp8`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Fp8 => "fp8",
        }
    }

    /// The number format of tensors between the products.
    pub fn candle(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 | Self::Fp8 => DType::BF16,
        }
    }

    /// Refuses a format that would only be slower on this device.
    ///
    /// # Errors
    /// [`Error::Invalid`] for `Bf16` and `Fp8` on a CPU.
    pub fn check(self, device: DeviceChoice) -> Result<(), Error> {
        let reason = match (device, self) {
            (DeviceChoice::Cpu, Self::Bf16) => {
                "bf16 is for GPUs: on a CPU it is slower and less exact; use f32, or a CUDA device"
            }
            (DeviceChoice::Cpu, Self::Fp8) => "fp8 is for GPUs that support it; use f32, or a CUDA device",
            (DeviceChoice::Cpu, Self::F32) | (DeviceChoice::Cuda(_), _) => return Ok(()),
        };
        Err(Error::invalid("dtype", reason))
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    /// `cpu`, `cuda` or `cuda:N`.
    fn from_str(text: &str) -> Result<Self, String> {
        let index = match text {
            "cpu" => return Ok(Self::Cpu),
            "cuda" => Some(0),
            other => other.strip_prefix("cuda:").and_then(|index| index.parse().ok()),
        };
        index.map(Self::Cuda).ok_or_else(|| format!("`{text}` is not a device; write cpu, cuda or cuda:0"))
    }
}

impl FromStr for ComputeDType {
    type Err = String;

    /// `f32`, `bf16` or `fp8`; 16-bit floats are refused with a reason.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" | "float32" => Ok(Self::F32),
            "bf16" | "bfloat16" => Ok(Self::Bf16),
            "fp8" | "float8" => Ok(Self::Fp8),
            "fp16" | "f16" | "float16" | "half" => Err(format!(
                "{text} gives black pictures with this model: its activations overflow 16-bit floats; use bf16 or fp8 on a GPU, f32 on a CPU"
            )),
            other => Err(format!("`{other}` is not a number format; write f32, bf16 or fp8")),
        }
    }
}

/// Opens a device.
///
/// # Errors
/// [`Error::Device`] if there is no such GPU, or its driver fails.
pub fn open_device(device: DeviceChoice) -> Result<Device, Error> {
    match device {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Cuda(index) => nn::open_cuda(index),
    }
    .map_err(|source| Error::device(&device.name(), source))
}

/// Opens a GPU and returns its description, with the attention kernel that it will use.
///
/// # Errors
/// Like [`open_device`].
pub fn describe_device(device: DeviceChoice, dtype: ComputeDType) -> Result<String, Error> {
    let opened = open_device(device)?;
    let gpu = match device {
        DeviceChoice::Cpu => String::new(),
        DeviceChoice::Cuda(index) => {
            let gpu = nn::describe_cuda(index).map_err(|source| Error::device(&device.name(), source))?;
            format!(", {gpu}")
        }
    };
    let attention = nn::attention_kernel(&opened, dtype.candle());
    Ok(format!("{}{gpu}, {}, attention {attention}", device.name(), dtype.as_str()))
}

/// A description of how a checkpoint would be placed on a GPU now, and on that of the negative branch; empty for a CPU.
///
/// # Errors
/// [`Error::Model`] if the checkpoint is unusable; [`Error::TooLarge`] if it does not fit; [`Error::Device`] if a
/// device does not respond.
pub fn describe_placement(
    options: &DeviceOptions,
    folder: &Path,
    files: &WeightOptions,
    pipeline: PipelineKind,
) -> Result<String, Error> {
    let model = folder.display().to_string();
    let free = |device: DeviceChoice| -> Result<Option<u64>, Error> {
        let card = nn::card_memory(&open_device(device)?).map_err(|source| Error::device(&device.name(), source))?;
        Ok(card.map(|card| card.free))
    };
    let fp8 = options.dtype == ComputeDType::Fp8;
    let sizes = pipeline::sizes(folder, files, pipeline, options.dtype.candle(), fp8)
        .map_err(|source| Error::model(&model, &options.device.name(), source))?;
    let Some(first) = free(options.device)? else { return Ok(String::new()) };
    let second = match options.cfg_parallel_device {
        Some(device) => Some((device, free(device)?.unwrap_or(u64::MAX))),
        None => None,
    };
    what_if::place(options, sizes, options.host_memory(), first, second)
        .map_err(|reason| Error::TooLarge { model, reason })
}

/// The sum of the product of two 64x64 matrices of ones and twos: 64 * 64 * 64 * 1 * 2.
const PRODUCT_SUM: f64 = 524_288.0;

/// Multiplies two matrices whose product is known.
pub(super) fn self_test(name: &str, device: &Device, dtype: DType) -> Result<(), Error> {
    let sum = product_sum(device, dtype).map_err(|source| Error::device(name, source))?;
    if (sum - PRODUCT_SUM).abs() > PRODUCT_SUM * 1e-2 {
        let reason = format!("it computes {sum} instead of {PRODUCT_SUM}; do not trust it");
        return Err(Error::DeviceUntrusted { device: name.to_owned(), reason });
    }
    Ok(())
}

fn product_sum(device: &Device, dtype: DType) -> candle_core::Result<f64> {
    let ones = Tensor::ones((64, 64), dtype, device)?;
    let twos = (&ones * 2.0)?;
    let sum: f32 = ones.matmul(&twos)?.to_dtype(DType::F32)?.sum_all()?.to_scalar()?;
    Ok(f64::from(sum))
}
