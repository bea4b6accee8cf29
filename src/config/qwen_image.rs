//! `[qwen_image]`: the checkpoints, the device, and the defaults of requests.

use serde::Deserialize;

use super::set;
use crate::{
    engine::{DTypeChoice, DeviceChoice, Offload},
    job::{DecomposeParams, JobError},
};

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QwenImage {
    /// A folder or a hub id.
    #[serde(deserialize_with = "set")]
    pub model_path: Option<String>,
    #[serde(deserialize_with = "set")]
    pub edit_model_path: Option<String>,
    pub load_edit_model: bool,
    #[serde(deserialize_with = "offload")]
    pub cpu_offload: Offload,
    /// Bytes; 0: what the GPU has free.
    #[serde(deserialize_with = "bytes")]
    pub vram_budget: u64,
    pub layer_num: u32,
    pub num_inference_steps: u32,
    pub cfg_scale: f64,
    /// 0: what the checkpoint was made for.
    pub resolution: u32,
    #[serde(deserialize_with = "device")]
    pub device: DeviceChoice,
    /// Absent: chosen by the device.
    #[serde(deserialize_with = "dtype")]
    pub dtype: Option<DTypeChoice>,
    /// Bytes; 0: what the machine has free.
    #[serde(deserialize_with = "bytes")]
    pub memory_budget: u64,
}

impl QwenImage {
    /// The first default of requests that no request may have, and why. The bounds are those of requests.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let params = DecomposeParams {
            layers: self.layer_num,
            steps: self.num_inference_steps,
            cfg_scale: self.cfg_scale,
            resolution: Some(self.resolution).filter(|resolution| *resolution > 0),
            ..DecomposeParams::default()
        };
        let Err(error) = params.validate("") else { return Ok(()) };
        let JobError::InvalidRequest { field, reason } = error else {
            return Err(("qwen_image", error.to_string()));
        };
        let key = match field.as_str() {
            ".layers" => "qwen_image.layer_num",
            ".steps" => "qwen_image.num_inference_steps",
            ".cfg_scale" => "qwen_image.cfg_scale",
            ".resolution" => "qwen_image.resolution",
            _ => "qwen_image",
        };
        Err((key, reason))
    }

    /// The number format that the device gets, or why it cannot have the one that was asked for.
    pub fn dtype(&self) -> Result<DTypeChoice, String> {
        match (self.device, self.dtype) {
            (DeviceChoice::Cpu, Some(DTypeChoice::Bf16)) => {
                Err("bf16 is for GPUs: a CPU would only be slower with it, and less exact; use f32, or a CUDA device"
                    .to_owned())
            }
            (DeviceChoice::Cpu, Some(DTypeChoice::Fp8)) => {
                Err("fp8 is for GPUs that multiply such numbers; use f32, or a CUDA device".to_owned())
            }
            (DeviceChoice::Cpu, None) => Ok(DTypeChoice::F32),
            (DeviceChoice::Cuda(_), None) => Ok(DTypeChoice::Bf16),
            (_, Some(dtype)) => Ok(dtype),
        }
    }
}

/// `cpu`, `cuda` or `cuda:N`.
pub fn parse_device(text: &str) -> Result<DeviceChoice, String> {
    let index = match text {
        "cpu" => return Ok(DeviceChoice::Cpu),
        "cuda" => Some(0),
        other => other.strip_prefix("cuda:").and_then(|index| index.parse().ok()),
    };
    index.map(DeviceChoice::Cuda).ok_or_else(|| format!("`{text}` is not a device; write cpu, cuda or cuda:0"))
}

/// `f32`, `bf16` or `fp8`; 16-bit floats are refused with the reason.
pub fn parse_dtype(text: &str) -> Result<DTypeChoice, String> {
    match text {
        "f32" | "float32" => Ok(DTypeChoice::F32),
        "bf16" | "bfloat16" => Ok(DTypeChoice::Bf16),
        "fp8" | "float8" => Ok(DTypeChoice::Fp8),
        "fp16" | "f16" | "float16" | "half" => Err(format!(
            "{text} gives black pictures with this model: its activations overflow 16-bit floats; use bf16 or f32"
        )),
        other => Err(format!("`{other}` is not a number format; write f32, bf16 or fp8")),
    }
}

/// `auto`, `none`, `model` or `sequential`. `true` lets parts leave as memory asks for it, `false` keeps all of it on
/// the device.
pub fn parse_offload(text: &str) -> Result<Offload, String> {
    match text {
        "" | "auto" | "true" => Ok(Offload::Auto),
        "none" | "false" => Ok(Offload::Never),
        "model" => Ok(Offload::Model),
        "sequential" => Ok(Offload::Sequential),
        other => Err(format!("`{other}` is no way to offload; write auto, none, model or sequential")),
    }
}

/// `20 GiB`, `20GB`, `512MiB`, or bytes; nothing is 0.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: f64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "kib" | "k" => 1024.0,
        "mib" | "m" => 1024.0_f64.powi(2),
        "gib" | "g" => 1024.0_f64.powi(3),
        other => return Err(format!("`{other}` is not a unit of memory; write for instance 20 GiB or 20 GB")),
    };
    if text.is_empty() {
        return Ok(0);
    }
    let number: f64 = number.parse().map_err(|_| format!("`{text}` is not an amount of memory; write 20 GiB"))?;
    Ok((number * unit) as u64)
}

/// A setting that may be written as a number, a truth value or a text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Truth(bool),
    Number(u64),
    Text(String),
}

impl Scalar {
    fn into_text(self) -> String {
        match self {
            Self::Truth(truth) => truth.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text,
        }
    }
}

fn offload<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Offload, D::Error> {
    parse_offload(&Scalar::deserialize(deserializer)?.into_text()).map_err(serde::de::Error::custom)
}

fn bytes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    parse_bytes(&Scalar::deserialize(deserializer)?.into_text()).map_err(serde::de::Error::custom)
}

fn device<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<DeviceChoice, D::Error> {
    parse_device(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

fn dtype<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<DTypeChoice>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() { Ok(None) } else { parse_dtype(&text).map(Some).map_err(serde::de::Error::custom) }
}
