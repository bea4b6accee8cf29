use crate::models::ModelError;

/// Why the text encoder cannot read a prompt or a picture.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    #[error(
        "the prompt is {tokens} tokens long with its template and pictures, but the text encoder reads at most \
         {limit}; shorten it"
    )]
    TooLong { tokens: usize, limit: usize },
    #[error("the text contains the picture token {token} {found} times for {pictures} pictures; remove it")]
    Placeholders { token: String, found: usize, pictures: usize },
    #[error("the picture is {width}x{height}: {reason}")]
    Picture { width: usize, height: usize, reason: String },
    #[error("the tokenizer failed: {0}")]
    Tokenizer(String),
    #[error("this text encoder was loaded without its language head, so it cannot write captions; give a prompt")]
    NoHead,
    #[error("the text encoder's logits became NaN or infinite after {tokens} tokens of the caption")]
    NonFinite { tokens: usize },
    #[error("the device failed: {0}")]
    Device(#[from] candle_core::Error),
}

/// Errors in a checkpoint's tokenizer are errors of the checkpoint, not of the prompt.
pub(super) fn broken_tokenizer(path: &std::path::Path, error: impl std::fmt::Display) -> ModelError {
    ModelError::invalid(path, format!("is not a readable tokenizer ({error}); download it again"))
}
