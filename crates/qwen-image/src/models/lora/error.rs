//! Why a LoRA cannot be used. Every variant names the file; those about its content name the key.

use std::{
    fmt,
    path::{Path, PathBuf},
};

#[derive(Debug, thiserror::Error)]
pub enum LoraError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{}: {reason}", path.display())]
    Invalid { path: PathBuf, reason: String },
    /// The file is damaged or hostile at this key.
    #[error("{}: tensor `{key}`: {reason}", path.display())]
    InvalidTensor { path: PathBuf, key: String, reason: String },
    /// Another kind of adapter.
    #[error(
        "{}: `{key}` is part of a {kind}, which is not supported; only plain LoRAs are, with two matrices a layer",
        path.display()
    )]
    Kind { path: PathBuf, key: String, kind: &'static str },
    #[error(
        "{}: {count} of {of} keys are not of this transformer: {}; is the LoRA for another model?",
        path.display(), Keys(keys, *count)
    )]
    UnknownKeys {
        path: PathBuf,
        /// The first ones, with their shapes.
        keys: Vec<(String, Vec<usize>)>,
        count: usize,
        of: usize,
    },
    #[error(
        "{}: {count} tensors do not fit this transformer: {}; is the LoRA for another model?",
        path.display(), Misfits(misfits, *count)
    )]
    WrongShapes {
        path: PathBuf,
        /// The first ones.
        misfits: Vec<Misfit>,
        count: usize,
    },
    #[error("{}: `{key}` is there, but its layer has no {missing}", path.display())]
    Incomplete { path: PathBuf, key: String, missing: &'static str },
    #[error("{}: `{first}` and `{second}` are the same matrix of a layer", path.display())]
    Twice { path: PathBuf, first: String, second: String },
    #[error("{}: has no LoRA matrices", path.display())]
    Empty { path: PathBuf },
}

impl LoraError {
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
pub struct Misfit {
    pub key: String,
    pub found: Vec<usize>,
    /// The sizes that would fit, for instance `[rank, 3072]`.
    pub expected: String,
}

/// How many keys a message lists.
pub(super) const LISTED: usize = 6;

struct Keys<'a>(&'a [(String, Vec<usize>)], usize);

impl fmt::Display for Keys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = self.0.iter().map(|(key, shape)| format!("`{}` {shape:?}", key.escape_debug()));
        list(f, listed, self.1)
    }
}

struct Misfits<'a>(&'a [Misfit], usize);

impl fmt::Display for Misfits<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed =
            self.0.iter().map(|Misfit { key, found, expected }| format!("`{key}` is {found:?}, not {expected}"));
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
