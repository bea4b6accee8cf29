//! The small checkpoints inside the program, for installations without the files (`cargo install`).
//!
//! A checkpoint that is not found on disk is unpacked on first use, to `{cache}/models/{digest}/{name}`. The digest is
//! that of its files, so that versions of the program with different models do not use each other's. The folder may be
//! deleted at any time.

mod files;
#[cfg(test)]
mod tests;
mod unpack;

use std::path::{Path, PathBuf};

use qwen_image::hub::{EmbeddedModels, HubError, Small};
use sha2::{Digest, Sha256};

use files::File;

/// None if this build includes no models.
pub fn embedded(cache: Option<PathBuf>) -> Option<EmbeddedModels> {
    let unpack = |which, cache: Option<&Path>| into_cache(cache, which, &files::of(which));
    files::ARE_HERE.then_some(EmbeddedModels { cache, unpack })
}

fn into_cache(cache: Option<&Path>, small: Small, files: &[File<'_>]) -> Result<PathBuf, HubError> {
    let cache = cache.ok_or(HubError::NoCacheFolder { small })?;
    let folder = cache.join("models").join(digest(files)).join(small.name());
    match unpack::unpack(&folder, files) {
        Ok(()) => Ok(folder),
        Err(source) => {
            let needed = files.iter().map(|file| file.bytes.len() as u64).sum();
            Err(HubError::Unpack { small, folder, needed, source })
        }
    }
}

/// Sixteen digits of the files' names and contents.
fn digest(files: &[File<'_>]) -> String {
    let mut hash = Sha256::new();
    for file in files {
        hash.update(file.path);
        hash.update((file.bytes.len() as u64).to_le_bytes());
        hash.update(file.bytes);
    }
    hex::encode(&hash.finalize()[..8])
}
