//! The errors of a pipeline.

use crate::models::text_encoder::TextError;

#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    #[error("cancelled")]
    Cancelled,
    /// A latent became NaN or infinite; `step` counts from 1.
    #[error("the latents became NaN or infinite at step {step}")]
    NonFinite { step: usize },
    /// This checkpoint does not support the request.
    #[error("{field}: {reason}")]
    Invalid { field: &'static str, reason: String },
    /// The VAE decoded a picture with the wrong number of bytes.
    #[error("the VAE decoded {bytes} bytes for a picture of {width}x{height}")]
    DecodedSize { bytes: usize, width: u32, height: u32 },
    #[error(transparent)]
    Text(#[from] TextError),
    #[error("{0}")]
    Device(#[from] candle_core::Error),
}

impl PipelineError {
    pub(crate) fn invalid(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { field, reason: reason.into() }
    }
}

pub type Result<T> = std::result::Result<T, PipelineError>;
