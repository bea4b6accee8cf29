//! `[qwen_image]`: the checkpoints, the device, and the defaults of requests.

use std::{path::PathBuf, str::FromStr};

use qwen_image::{
    ComputeDType, CpuOffload, Devices, Error, ImageProcessorBackend, Lora, Preset, Sampler, TextPositions,
    hub::LoraSource,
};
use serde::{Deserialize, Deserializer};

use super::{set, store::list};
use crate::job::{DecomposeParams, JobError, LayerCount, Sampling};

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QwenImage {
    /// A folder or a hub id.
    #[serde(deserialize_with = "set")]
    pub model_path: Option<String>,
    #[serde(deserialize_with = "set")]
    pub edit_model_path: Option<String>,
    /// Files with weights instead of the models' own.
    #[serde(deserialize_with = "set")]
    pub transformer_path: Option<PathBuf>,
    #[serde(deserialize_with = "set")]
    pub edit_transformer_path: Option<PathBuf>,
    #[serde(deserialize_with = "set")]
    pub text_encoder_path: Option<PathBuf>,
    /// Round the text encoder's layers to fp8.
    pub text_encoder_fp8: bool,
    pub load_edit_model: bool,
    #[serde(deserialize_with = "offload")]
    pub cpu_offload: CpuOffload,
    /// In bytes; 0: all free GPU memory.
    #[serde(deserialize_with = "memory")]
    pub vram_budget: u64,
    pub layer_num: u32,
    pub num_inference_steps: u32,
    pub cfg_scale: f64,
    /// Replaces `num_inference_steps`, `sampler`, `step_cache` and `cfg_until`.
    #[serde(deserialize_with = "unless_empty")]
    pub preset: Option<Preset>,
    /// Absent: as the checkpoint says.
    #[serde(deserialize_with = "unless_empty")]
    pub sampler: Option<Sampler>,
    pub step_cache: u32,
    pub cfg_until: f64,
    /// 0: the checkpoint's own resolution.
    pub resolution: u32,
    #[serde(deserialize_with = "device")]
    pub device: Devices,
    #[serde(deserialize_with = "guidance")]
    pub guidance: GuidanceMode,
    /// Absent: chosen by the device.
    #[serde(deserialize_with = "unless_empty")]
    pub dtype: Option<ComputeDType>,
    /// In bytes; 0: all free memory.
    #[serde(deserialize_with = "memory")]
    pub memory_budget: u64,
    /// Absent: as the checkpoint says.
    #[serde(deserialize_with = "unless_empty")]
    pub text_positions: Option<TextPositions>,
    /// Absent: as the checkpoint says.
    #[serde(deserialize_with = "unless_empty")]
    pub image_processor: Option<ImageProcessorBackend>,
    /// Ask the text encoder what layers are that the caption does not name.
    pub name_layers: bool,
    /// The LoRAs of jobs that name none, each as `FILE|HUB_ID[:FILE][=STRENGTH]`: for decompose, and for edits.
    #[serde(deserialize_with = "list")]
    pub loras: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub edit_loras: Vec<String>,
    /// What jobs may name, each as `FILE|HUB_ID[:FILE]`.
    #[serde(deserialize_with = "list")]
    pub allowed_loras: Vec<String>,
}

/// Where the two branches of guidance are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GuidanceMode {
    /// One after the other on one device.
    #[default]
    Serial,
    /// At the same time on two devices.
    Parallel,
}

impl FromStr for GuidanceMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" | "serial" => Ok(Self::Serial),
            "parallel" => Ok(Self::Parallel),
            other => Err(format!(
                "`{other}` is not a way to compute guidance; write serial or parallel (its scale is cfg_scale)"
            )),
        }
    }
}

impl QwenImage {
    /// The first default that is out of the bounds of requests, and why.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        // With the settings that a preset hides, which must be right, too.
        for (key, loras) in [("qwen_image.loras", &self.loras), ("qwen_image.edit_loras", &self.edit_loras)] {
            parse_loras(loras).map_err(|reason| (key, reason))?;
        }
        for text in &self.allowed_loras {
            LoraSource::parse(text).map_err(|error| ("qwen_image.allowed_loras", error.to_string()))?;
        }
        let params = Self { preset: None, ..self.clone() }.decompose();
        let Err(error) = params.validate("") else { return Ok(()) };
        let JobError::InvalidRequest { field, reason } = error else {
            return Err(("qwen_image", error.to_string()));
        };
        let key = match field.as_str() {
            ".layers" => "qwen_image.layer_num",
            ".steps" => "qwen_image.num_inference_steps",
            ".cfg_scale" => "qwen_image.cfg_scale",
            ".step_cache" => "qwen_image.step_cache",
            ".cfg_until" => "qwen_image.cfg_until",
            ".resolution" => "qwen_image.resolution",
            _ => "qwen_image",
        };
        Err((key, reason))
    }

    /// The defaults of sampling parameters.
    pub fn sampling(&self) -> Sampling {
        let sampling = Sampling {
            steps: self.num_inference_steps,
            cfg_scale: self.cfg_scale,
            sampler: self.sampler,
            step_cache: self.step_cache,
            cfg_until: self.cfg_until,
            ..Sampling::default()
        };
        match self.preset {
            Some(preset) => {
                sampling.preset(preset).steps_for(self.loras.iter().chain(&self.edit_loras).map(String::as_str))
            }
            None => sampling,
        }
    }

    /// The defaults of decompose.
    pub fn decompose(&self) -> DecomposeParams {
        let resolution = Some(self.resolution).filter(|resolution| *resolution > 0);
        DecomposeParams {
            layers: LayerCount::Exactly(self.layer_num),
            resolution,
            ..DecomposeParams::sampled(self.sampling())
        }
    }

    /// The number format for the device, or why the configured one is not possible.
    pub fn dtype(&self) -> Result<ComputeDType, String> {
        let dtype = self.dtype.unwrap_or(self.device.default_dtype());
        match dtype.check(self.device.first()) {
            Ok(()) => Ok(dtype),
            Err(Error::Invalid { reason, .. }) => Err(reason),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The LoRAs of a setting.
///
/// # Errors
/// A text about the first that is not valid.
pub fn parse_loras(texts: &[String]) -> Result<Vec<Lora>, String> {
    texts.iter().map(|text| Lora::parse(text).map_err(|error| error.to_string())).collect()
}

/// `auto`, `none`, `model` or `sequential`. `true` means `auto`, `false` means `none`.
pub fn parse_offload(text: &str) -> Result<CpuOffload, String> {
    match text {
        "" | "auto" | "true" => Ok(CpuOffload::Auto),
        "none" | "false" => Ok(CpuOffload::Never),
        "model" => Ok(CpuOffload::Model),
        "sequential" => Ok(CpuOffload::Sequential),
        other => Err(format!("`{other}` is not an offload mode; write auto, none, model or sequential")),
    }
}

/// More than that is a mistake.
const MOST_BYTES: f64 = (1_u64 << 60) as f64;

/// `20 GiB`, `20GB`, `512MiB`, or bytes; empty is 0.
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
    let number: f64 =
        number.parse().map_err(|_| format!("`{text}` is not an amount of memory; write for instance 20 GiB"))?;
    let bytes = number * unit;
    if bytes >= MOST_BYTES {
        return Err(format!("`{text}` is more memory than any machine has; write for instance 20 GiB"));
    }
    Ok(bytes as u64)
}

/// A setting that may be a number, a boolean or a text.
#[derive(Deserialize)]
#[serde(untagged, expecting = "is neither a text in quotes nor a whole number, 0 or more")]
pub(super) enum Scalar {
    Truth(bool),
    Number(u64),
    Text(String),
}

impl Scalar {
    pub(super) fn into_text(self) -> String {
        match self {
            Self::Truth(truth) => truth.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text,
        }
    }
}

fn offload<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<CpuOffload, D::Error> {
    parse_offload(&Scalar::deserialize(deserializer)?.into_text()).map_err(serde::de::Error::custom)
}

/// Like [`bytes`], but refuses a number that was meant in GiB.
fn memory<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match bytes(deserializer)? {
        few @ 1..1_048_576 => Err(serde::de::Error::custom(format!(
            "`{few}` is {few} bytes of memory; write the unit, for instance {few} GiB"
        ))),
        bytes => Ok(bytes),
    }
}

pub(super) fn bytes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    parse_bytes(&Scalar::deserialize(deserializer)?.into_text()).map_err(serde::de::Error::custom)
}

fn device<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Devices, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

fn guidance<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<GuidanceMode, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

/// Parses a text; an empty one is `None`.
fn unless_empty<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = String>,
{
    let text = String::deserialize(deserializer)?;
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(serde::de::Error::custom) }
}
