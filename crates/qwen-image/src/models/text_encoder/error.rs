use crate::models::ModelError;

/// Why the text encoder cannot read a prompt or a picture.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A prompt with more tokens than the model has positions.
    #[error(
        "the prompt is {tokens} tokens long with its template and pictures, but the text encoder reads at most \
         {limit}; shorten it"
    )]
    TooLong {
        /// The tokens of the prompt, with its template and pictures.
        tokens: usize,
        /// The most that can be read.
        limit: usize,
    },
    /// The text contains the token that stands for a picture.
    #[error("the text contains the picture token {token} {found} times for {pictures} pictures; remove it")]
    Placeholders {
        /// The token.
        token: String,
        /// How often it occurs.
        found: usize,
        /// The number of pictures.
        pictures: usize,
    },
    /// A picture that cannot become patches.
    #[error("the picture is {width}x{height}: {reason}")]
    Picture {
        /// Its width in pixels.
        width: usize,
        /// Its height in pixels.
        height: usize,
        /// Why not.
        reason: String,
    },
    /// The tokenizer failed on a text.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(String),
    /// The text encoder was loaded without the head that captions need.
    #[error("this text encoder was loaded without its language head, so it cannot write captions; give a prompt")]
    NoHead,
    /// The language model computed NaN or infinity.
    #[error("the text encoder's logits became NaN or infinite after {tokens} tokens of the caption")]
    NonFinite {
        /// The tokens of the caption before that.
        tokens: usize,
    },
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(#[from] candle_core::Error),
}

/// Errors in a checkpoint's tokenizer are errors of the checkpoint, not of the prompt.
pub(super) fn broken_tokenizer(path: &std::path::Path, error: impl std::fmt::Display) -> ModelError {
    ModelError::invalid(path, format!("is not a readable tokenizer ({error}); download it again"))
}
