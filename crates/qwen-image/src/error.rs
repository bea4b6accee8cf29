//! The library's errors.

use crate::{
    hub::HubError,
    image_processor::ImageError,
    models::{ModelError, lora::LoraError, text_encoder::TextError},
    pipeline::PipelineError,
};

/// Every way in which a call of [`crate::QwenImagePipeline`] can fail. Each variant keeps its cause.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller stopped the run, through [`crate::Callbacks`].
    #[error("cancelled")]
    Cancelled,
    /// An option or an input that this checkpoint or this build does not support; `field` names it.
    #[error("{field}: {reason}")]
    Invalid {
        /// The name of the option or input.
        field: String,
        /// What is wrong with its value.
        reason: String,
    },
    /// The checkpoint could not be found or downloaded.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The checkpoint exists but is unusable.
    #[error("model {model}: {source}")]
    Model {
        /// The hub id or the folder.
        model: String,
        /// The cause.
        source: ModelError,
    },
    /// A LoRA cannot be used, or does not fit the checkpoint.
    #[error("LoRA {0}")]
    Lora(#[from] LoraError),
    /// It fits neither on the device nor on the host.
    #[error("model {model} does not fit: {reason}")]
    TooLarge {
        /// The hub id or the folder.
        model: String,
        /// What it needs, and what there is.
        reason: String,
    },
    /// The checkpoint computed something that is not a picture or not a caption.
    #[error("model {model}: {source}")]
    Pipeline {
        /// The hub id or the folder.
        model: String,
        /// The cause.
        source: PipelineError,
    },
    /// Pictures that do not fit together.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The device could not be opened, or failed.
    #[error("device {device}: {}", first_line(source))]
    Device {
        /// The name of the device: `cpu`, `cuda:0`.
        device: String,
        /// The cause.
        source: candle_core::Error,
    },
    /// The device has too little memory.
    #[error("device {device} is out of memory: {}", first_line(source))]
    OutOfMemory {
        /// The name of the device.
        device: String,
        /// The cause.
        source: candle_core::Error,
    },
    /// The device computes wrong numbers.
    #[error("device {device}: {reason}")]
    DeviceUntrusted {
        /// The name of the device.
        device: String,
        /// How the self-test failed.
        reason: String,
    },
}

impl Error {
    pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), reason: reason.into() }
    }

    /// candle has no error kind for "out of memory", so this checks the driver's message.
    pub(crate) fn device(device: &str, source: candle_core::Error) -> Self {
        let reason = first_line(&source);
        let device = device.to_owned();
        if reason.to_ascii_lowercase().contains("out of memory") || reason.contains("OUT_OF_MEMORY") {
            Self::OutOfMemory { device, source }
        } else {
            Self::Device { device, source }
        }
    }

    /// An error of the device that computes the negative branch, which may have the same name as the main one.
    fn negative_branch(device: &str, source: &candle_core::Error) -> Self {
        Self::device(device, candle_core::Error::Msg(format!("in the negative branch: {source}")))
    }

    pub(crate) fn model(model: &str, device: &str, source: ModelError) -> Self {
        match source {
            ModelError::Device(source) => Self::device(device, source),
            ModelError::NegativeBranch { device, source } => Self::negative_branch(&device, &source),
            ModelError::Cancelled => Self::Cancelled,
            ModelError::Lora(source) => Self::Lora(source),
            source @ (ModelError::NotFound { .. }
            | ModelError::Invalid { .. }
            | ModelError::Output { .. }
            | ModelError::Write { .. }
            | ModelError::MixedForms { .. }
            | ModelError::MissingTensor { .. }
            | ModelError::WrongShape { .. }
            | ModelError::UnexpectedTensor { .. }
            | ModelError::UnsupportedForm { .. }) => Self::Model { model: model.to_owned(), source },
        }
    }

    /// `text` is the name of the option that the text encoder reads first.
    pub(crate) fn pipeline(model: &str, device: &str, text: &str, source: PipelineError) -> Self {
        match source {
            PipelineError::Cancelled => Self::Cancelled,
            PipelineError::Invalid { field, reason } => Self::invalid(field, reason),
            PipelineError::NegativeBranch { device, source } => Self::negative_branch(&device, &source),
            PipelineError::Device(source) | PipelineError::Text(TextError::Device(source)) => {
                Self::device(device, source)
            }
            PipelineError::Text(
                error @ (TextError::TooLong { .. }
                | TextError::Placeholders { .. }
                | TextError::Tokenizer(_)
                | TextError::NoHead),
            ) => Self::invalid(text, error.to_string()),
            PipelineError::Text(error @ TextError::Picture { .. }) => Self::invalid("image", error.to_string()),
            source @ (PipelineError::NonFinite { .. }
            | PipelineError::DecodedSize { .. }
            | PipelineError::Text(TextError::NonFinite { .. })) => Self::Pipeline { model: model.to_owned(), source },
        }
    }
}

/// A message without candle's appended backtrace.
pub(crate) fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_text_names_its_option() {
        for source in
            [TextError::NoHead, TextError::Tokenizer("?".to_owned()), TextError::TooLong { tokens: 9, limit: 8 }]
        {
            let error = Error::pipeline("m", "cpu", "prompt", source.into());
            assert!(matches!(&error, Error::Invalid { field, .. } if field == "prompt"), "{error}");
        }
    }

    #[test]
    fn what_a_checkpoint_computes_wrong_names_the_checkpoint() {
        for source in [
            PipelineError::NonFinite { step: 3 },
            PipelineError::DecodedSize { bytes: 9, width: 2, height: 2 },
            TextError::NonFinite { tokens: 4 }.into(),
        ] {
            let error = Error::pipeline("m", "cuda:0", "prompt", source);
            assert!(matches!(&error, Error::Pipeline { model, .. } if model == "m"), "{error}");
        }
    }
}
