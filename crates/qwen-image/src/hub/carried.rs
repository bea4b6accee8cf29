//! The small checkpoints inside a program: what it hands in so that they are found where none lies on disk.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use super::{HubError, Small};

#[derive(Debug, Clone)]
pub struct Carried {
    /// Where they are unpacked; none if there is no home folder.
    pub cache: Option<PathBuf>,
    /// Gives the checkpoint's folder in the cache, and makes it first where that is needed.
    pub unpack: fn(Small, Option<&Path>) -> Result<PathBuf, HubError>,
}

// A program has one way to unpack, so the folder alone tells two values apart. Functions cannot: the compiler may merge
// them or make several of one.
impl Ord for Carried {
    fn cmp(&self, other: &Self) -> Ordering {
        self.cache.cmp(&other.cache)
    }
}

impl PartialOrd for Carried {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Carried {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Carried {}

impl Hash for Carried {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.cache.hash(state);
    }
}
