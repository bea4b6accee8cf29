//! The options of a pipeline: its checkpoints, its device, and the memory that it may take.

use std::path::{Path, PathBuf};

use crate::{
    ComputeDType, Conditioning, CpuOffload, DeviceChoice, Error, WhatIf,
    hub::{HubConfig, Lora, ModelRef},
    model_cache::{self, DeviceOptions},
    models::WeightOptions,
    pipeline::{PipelineKind, check_loras},
};

/// The options of a pipeline. By default, it computes on the CPU in float32 with all free memory, and uses Hugging
/// Face's cache in the home folder.
#[derive(Debug, Clone, Default)]
pub struct PipelineOptions {
    /// The model for edits. None: the full Qwen-Image-Edit-2509, downloaded on first use.
    pub edit_model: Option<ModelRef>,
    /// Load the edit model at once instead of on first use.
    pub load_edit_model: bool,
    /// A file with the transformer's weights instead of the model's own: GGUF, fp8, or one of ComfyUI's files. The
    /// model's folder still gives everything else.
    pub transformer: Option<PathBuf>,
    /// The same for the edit model.
    pub edit_transformer: Option<PathBuf>,
    /// The same for the text encoder of both models, for instance ComfyUI's `qwen_2.5_vl_7b_fp8_scaled`.
    pub text_encoder: Option<PathBuf>,
    /// Round the text encoder's layers to fp8, which halves its memory on a GPU. Needs no GPU that multiplies fp8.
    pub text_encoder_fp8: bool,
    /// Where models compute.
    pub device: DeviceChoice,
    /// The number format that they compute in. None: the device's, float32 on the CPU and bf16 on a GPU.
    pub dtype: Option<ComputeDType>,
    /// What may be offloaded from a GPU while it is not needed: diffusers' `enable_model_cpu_offload` and
    /// `enable_sequential_cpu_offload`, or whichever the free memory needs.
    pub cpu_offload: CpuOffload,
    /// CFG parallelism: a second device, of the same kind, computes the negative branch of each step while `device`
    /// computes the positive one. It needs memory for the transformer, not for the rest of the model. None: `device`
    /// computes both.
    pub cfg_parallel_device: Option<DeviceChoice>,
    /// The maximum GPU memory for models, in bytes. None: all that is free.
    pub vram_budget: Option<u64>,
    /// The maximum host memory for models, in bytes. None: all that is free.
    pub memory_budget: Option<u64>,
    /// How the text encoder reads pictures, where that is not left to the checkpoint.
    pub conditioning: Conditioning,
    /// The LoRAs of the model for decompose, in the order in which they are added, if a call does not name its own.
    pub loras: Vec<Lora>,
    /// The same for edits.
    pub edit_loras: Vec<Lora>,
    /// Where checkpoints and LoRAs are downloaded from, and where they are cached.
    pub hub: HubConfig,
}

impl PipelineOptions {
    /// Checks that the options do not contradict each other, and that this build supports them.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the first field that contradicts another one.
    pub fn check(&self) -> Result<(), Error> {
        self.device_options().check()?;
        let loras = [("loras", &self.loras), ("edit_loras", &self.edit_loras)];
        let checked = loras.into_iter().try_for_each(|(field, loras)| check_loras(field, loras));
        checked.map_err(|source| Error::pipeline("", "", "", source))
    }

    /// How a checkpoint would be placed on the device now, in words; empty for a CPU.
    ///
    /// # Errors
    /// [`Error::Model`] if the checkpoint is unusable; [`Error::TooLarge`] if it does not fit; [`Error::Device`] if a
    /// device does not respond.
    pub fn describe_placement(&self, folder: &Path, pipeline: PipelineKind) -> Result<String, Error> {
        model_cache::describe_placement(&self.device_options(), folder, &self.weight_options(pipeline), pipeline)
    }

    /// How a checkpoint would be placed on a GPU with `vram` bytes, in bf16 unless `dtype` is fp8.
    ///
    /// # Errors
    /// [`Error::Model`] if the checkpoint is unusable.
    pub fn estimate_for_gpu(&self, folder: &Path, pipeline: PipelineKind, vram: u64) -> Result<WhatIf, Error> {
        model_cache::estimate_for_gpu(&self.device_options(), folder, &self.weight_options(pipeline), pipeline, vram)
    }

    /// The files that replace weights of a pipeline's model.
    pub fn weight_options(&self, pipeline: PipelineKind) -> WeightOptions {
        let transformer = match pipeline {
            PipelineKind::Layered => &self.transformer,
            PipelineKind::EditPlus => &self.edit_transformer,
        };
        WeightOptions {
            transformer: transformer.clone(),
            text_encoder: self.text_encoder.clone(),
            text_encoder_fp8: self.text_encoder_fp8,
        }
    }

    pub(crate) fn device_options(&self) -> DeviceOptions {
        DeviceOptions {
            device: self.device,
            cfg_parallel_device: self.cfg_parallel_device,
            dtype: self.compute_dtype(),
            cpu_offload: self.cpu_offload,
            vram_budget: self.vram_budget,
            memory_budget: self.memory_budget,
        }
    }

    /// The number format, chosen.
    pub(crate) fn compute_dtype(&self) -> ComputeDType {
        self.dtype.unwrap_or_else(|| self.device.default_dtype())
    }
}
