//! Small checkpoints that are built into a program, for use if there are none on disk.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use super::{HubError, Small};

/// How a program unpacks the checkpoints that it contains.
#[derive(Debug, Clone)]
pub struct EmbeddedModels {
    /// The folder to unpack them into; none if there is no home folder.
    pub cache: Option<PathBuf>,
    /// Returns the checkpoint's folder in the cache, and unpacks it first if needed.
    pub unpack: fn(Small, Option<&Path>) -> Result<PathBuf, HubError>,
}

// A program has one way to unpack, so the folder alone identifies a value. Function pointers cannot: the compiler may
// merge or duplicate functions.
impl Ord for EmbeddedModels {
    fn cmp(&self, other: &Self) -> Ordering {
        self.cache.cmp(&other.cache)
    }
}

impl PartialOrd for EmbeddedModels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for EmbeddedModels {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for EmbeddedModels {}

impl Hash for EmbeddedModels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.cache.hash(state);
    }
}
