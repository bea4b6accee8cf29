//! The errors of a pipeline.

use std::{fmt::Display, ops::RangeInclusive};

use candle_core::Device;

use crate::{models::text_encoder::TextError, nn};

/// Why a run of a pipeline failed.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The caller stopped the run, through [`Callbacks`](crate::Callbacks).
    #[error("cancelled")]
    Cancelled,
    /// A latent became NaN or infinite; `step` counts from 1.
    #[error("the latents became NaN or infinite at step {step}")]
    NonFinite {
        /// The step, from 1.
        step: usize,
    },
    /// This checkpoint does not support the request.
    #[error("{field}: {reason}")]
    Invalid {
        /// The name of the option.
        field: &'static str,
        /// What is wrong with its value.
        reason: String,
    },
    /// The VAE decoded a picture with the wrong number of bytes.
    #[error("the VAE decoded {bytes} bytes for a picture of {width}x{height}")]
    DecodedSize {
        /// The bytes that were decoded.
        bytes: usize,
        /// The width of the picture in pixels.
        width: u32,
        /// Its height in pixels.
        height: u32,
    },
    /// The text encoder cannot read the prompt or a picture.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The device failed.
    #[error("{0}")]
    Device(#[from] candle_core::Error),
    /// The device of the negative branch failed.
    #[error("the negative branch on {device}: {source}")]
    NegativeBranch {
        /// Its name, such as `cuda:1`.
        device: String,
        /// The reason.
        source: Box<candle_core::Error>,
    },
}

impl PipelineError {
    pub(crate) fn invalid(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { field, reason: reason.into() }
    }

    pub(crate) fn not_between<T: Display>(field: &'static str, value: T, bounds: RangeInclusive<T>) -> Self {
        let (least, most) = bounds.into_inner();
        Self::invalid(field, format!("{value} is not between {least} and {most}"))
    }

    /// For the errors of the negative branch's own device.
    pub(crate) fn in_negative_branch(device: &Device) -> impl Fn(candle_core::Error) -> Self {
        let device = nn::device_name(device);
        move |source| Self::NegativeBranch { device: device.clone(), source: Box::new(source) }
    }
}

pub type Result<T> = std::result::Result<T, PipelineError>;
