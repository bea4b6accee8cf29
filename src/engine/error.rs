//! Maps the library's errors to job errors, whose code and class decide what happens next.

use std::io::ErrorKind;

use qwen_image::{
    Error,
    image_processor::ImageError,
    models::{ModelError, lora::LoraError, text_encoder::TextError},
    pipeline::PipelineError,
};

use crate::job::{JobError, parameter_of};

/// The library's options that are settings here.
const OF_THE_PIPELINE: [&str; 6] = ["device", "dtype", "cpu_offload", "vram_budget", "memory_budget", "edit_loras"];

impl From<Error> for JobError {
    fn from(error: Error) -> Self {
        let reason = error.to_string();
        match error {
            Error::Cancelled => Self::Cancelled,
            // Settings pair the devices; only GPUs of two kinds are noticed as late as here.
            Error::Invalid { field, reason } if field == "cfg_parallel_device" => {
                Self::invalid("qwen_image.guidance", reason)
            }
            Error::Invalid { field, reason } if field == "mask" => Self::invalid("input.mask", reason),
            Error::Invalid { field, reason } if field == "image" || field == "references" => {
                Self::invalid("input", reason)
            }
            Error::Invalid { field, reason } if OF_THE_PIPELINE.contains(&field.as_str()) => {
                Self::invalid(format!("qwen_image.{field}"), reason)
            }
            // It has the same name in a request. All others are parameters.
            Error::Invalid { field, reason } if field == "model" => Self::invalid(field, reason),
            Error::Invalid { field, reason } => Self::invalid(format!("params.{}", parameter_of(&field)), reason),
            Error::Hub(error) => error.into(),
            Error::Model { model, source } => match source {
                ModelError::NotFound { .. } => Self::ModelNotFound { model, reason: source.to_string() },
                ModelError::Cancelled => Self::Cancelled,
                ModelError::Lora(source) => source.into(),
                ModelError::Device(_)
                | ModelError::NegativeBranch { .. }
                | ModelError::Invalid { .. }
                | ModelError::Output { .. }
                | ModelError::Write { .. }
                | ModelError::MixedForms { .. }
                | ModelError::MissingTensor { .. }
                | ModelError::WrongShape { .. }
                | ModelError::UnexpectedTensor { .. }
                | ModelError::UnsupportedForm { .. } => Self::ModelInvalid { model, reason: source.to_string() },
            },
            Error::Lora(source) => source.into(),
            Error::TooLarge { model, reason } => Self::ModelTooLarge { model, reason },
            Error::Pipeline { model, source } => match source {
                PipelineError::NonFinite { .. } | PipelineError::Text(TextError::NonFinite { .. }) => {
                    Self::NonFinite { what: source.to_string() }
                }
                PipelineError::DecodedSize { .. } => Self::ModelInvalid { model, reason: source.to_string() },
                PipelineError::Cancelled => Self::Cancelled,
                PipelineError::Invalid { field, reason } => Self::invalid(field, reason),
                PipelineError::Text(_) | PipelineError::Device(_) | PipelineError::NegativeBranch { .. } => {
                    Self::device("engine", source.to_string()).caused_by(source)
                }
            },
            Error::Image(error) => error.into(),
            Error::Device { device, source } => {
                let reason = without_prefix(&reason, &device);
                Self::device(device, reason).caused_by(source)
            }
            Error::OutOfMemory { device, source } => {
                let reason = source.to_string().lines().next().unwrap_or_default().to_owned();
                Self::out_of_memory(device, reason).caused_by(source)
            }
            Error::DeviceUntrusted { device, reason } => Self::device(device, reason),
        }
    }
}

impl From<ImageError> for JobError {
    fn from(error: ImageError) -> Self {
        let reason = error.to_string();
        let (subject, reason) = reason.split_once(": ").unwrap_or(("input", &reason));
        match error {
            ImageError::NoLayers | ImageError::LayerSize { .. } => Self::invalid(subject, reason),
            ImageError::AlphaSize { .. } => Self::InvalidImage { input: subject.to_owned(), reason: reason.to_owned() },
        }
    }
}

impl From<LoraError> for JobError {
    fn from(error: LoraError) -> Self {
        let (model, reason) = (error.path().display().to_string(), error.to_string());
        let reason = reason.strip_prefix(&format!("{model}: ")).unwrap_or(&reason).to_owned();
        match error {
            LoraError::Io { source, .. } if source.kind() == ErrorKind::NotFound => {
                Self::ModelNotFound { model, reason: format!("there is no such LoRA ({reason})") }
            }
            LoraError::Io { source, .. } => Self::storage(model, reason).caused_by(source),
            LoraError::Invalid { .. }
            | LoraError::InvalidTensor { .. }
            | LoraError::Kind { .. }
            | LoraError::UnknownKeys { .. }
            | LoraError::WrongShapes { .. }
            | LoraError::Incomplete { .. }
            | LoraError::Twice { .. }
            | LoraError::Empty { .. } => Self::ModelInvalid { model, reason },
        }
    }
}

/// Removes the device's name, because the variant already has it.
fn without_prefix(reason: &str, device: &str) -> String {
    reason.strip_prefix(&format!("device {device}: ")).unwrap_or(reason).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::ErrorClass;

    /// A device whose checkpoint is at fault must not be given up.
    #[test]
    fn what_a_checkpoint_computes_wrong_is_not_the_devices_fault() {
        let code = |source: PipelineError| {
            let error = JobError::from(Error::Pipeline { model: "m".to_owned(), source });
            assert_eq!(error.class(), ErrorClass::Invalid, "{error}");
            error.code()
        };
        assert_eq!(code(PipelineError::DecodedSize { bytes: 9, width: 2, height: 2 }), "model_invalid");
        assert_eq!(code(PipelineError::NonFinite { step: 3 }), "non_finite");
        assert_eq!(code(TextError::NonFinite { tokens: 4 }.into()), "non_finite");
    }
}
