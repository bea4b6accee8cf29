//! Why a LoRA cannot be used. Every variant names the file; those about its content name the key.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// Why a LoRA cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoraError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The LoRA's file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is not valid safetensors.
    #[error("{}: {reason}", path.display())]
    Invalid {
        /// The LoRA's file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is damaged or hostile at this key.
    #[error("{}: tensor `{key}`: {reason}", path.display())]
    InvalidTensor {
        /// The LoRA's file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong there.
        reason: String,
    },
    /// Another kind of adapter.
    #[error(
        "{}: `{key}` is part of a {kind}, which is not supported; only plain LoRAs are, with two matrices a layer",
        path.display()
    )]
    Kind {
        /// The LoRA's file.
        path: PathBuf,
        /// A key that only that kind has.
        key: String,
        /// Its name.
        kind: &'static str,
    },
    /// Keys that are not of this transformer.
    #[error(
        "{}: {count} of {of} keys are not of this transformer: {}; is the LoRA for another model?",
        path.display(), KeyList(keys, *count)
    )]
    UnknownKeys {
        /// The LoRA's file.
        path: PathBuf,
        /// The first ones, with their shapes.
        keys: Vec<(String, Vec<usize>)>,
        /// How many there are.
        count: usize,
        /// The number of all keys.
        of: usize,
    },
    /// Matrices that do not fit this transformer.
    #[error(
        "{}: {count} tensors do not fit this transformer: {}; is the LoRA for another model?",
        path.display(), ShapeMismatches(misfits, *count)
    )]
    WrongShapes {
        /// The LoRA's file.
        path: PathBuf,
        /// The first ones.
        misfits: Vec<ShapeMismatch>,
        /// How many there are.
        count: usize,
    },
    /// A layer with one of its two matrices.
    #[error("{}: `{key}` is there, but its layer has no {missing}", path.display())]
    Incomplete {
        /// The LoRA's file.
        path: PathBuf,
        /// The key that is there.
        key: String,
        /// What is missing.
        missing: &'static str,
    },
    /// Two keys for the same matrix.
    #[error("{}: `{first}` and `{second}` are the same matrix of a layer", path.display())]
    Twice {
        /// The LoRA's file.
        path: PathBuf,
        /// One key.
        first: String,
        /// The other one.
        second: String,
    },
    /// A file without matrices.
    #[error("{}: has no LoRA matrices", path.display())]
    Empty {
        /// The LoRA's file.
        path: PathBuf,
    },
}

impl LoraError {
    /// The LoRA's file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Io { path, .. }
            | Self::Invalid { path, .. }
            | Self::InvalidTensor { path, .. }
            | Self::Kind { path, .. }
            | Self::UnknownKeys { path, .. }
            | Self::WrongShapes { path, .. }
            | Self::Incomplete { path, .. }
            | Self::Twice { path, .. }
            | Self::Empty { path } => path,
        }
    }
}

/// A matrix of the wrong size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeMismatch {
    /// The key of the matrix in the file.
    pub key: String,
    /// Its shape.
    pub found: Vec<usize>,
    /// The sizes that would fit, for instance `[rank, 3072]`.
    pub expected: String,
}

/// How many keys a message lists.
pub(super) const LISTED: usize = 6;

struct KeyList<'a>(&'a [(String, Vec<usize>)], usize);

impl fmt::Display for KeyList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = self.0.iter().map(|(key, shape)| format!("`{}` {shape:?}", key.escape_debug()));
        list(f, listed, self.1)
    }
}

struct ShapeMismatches<'a>(&'a [ShapeMismatch], usize);

impl fmt::Display for ShapeMismatches<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed =
            self.0.iter().map(|ShapeMismatch { key, found, expected }| format!("`{key}` is {found:?}, not {expected}"));
        list(f, listed, self.1)
    }
}

fn list(f: &mut fmt::Formatter<'_>, listed: impl ExactSizeIterator<Item = String>, count: usize) -> fmt::Result {
    let more = count.saturating_sub(listed.len());
    for (index, text) in listed.enumerate() {
        if index > 0 {
            f.write_str(", ")?;
        }
        f.write_str(&text)?;
    }
    if more > 0 { write!(f, " and {more} more") } else { Ok(()) }
}
