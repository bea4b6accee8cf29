//! Detects that two checkpoints have the same text encoder, so that they can share it.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use rayon::prelude::*;

use crate::models::text_encoder::TextEncoder;

const PIECE: u64 = 16 << 20;

/// Whether both, each a checkpoint's folder and perhaps a file with weights, have the same configuration and the same
/// weights: by the names of the files' contents (the hub's cache names them by hash), or otherwise byte for byte.
pub fn same_text_encoder(one: (&Path, Option<&Path>), other: (&Path, Option<&Path>)) -> bool {
    let ((one, our_file), (other, their_file)) = (one, other);
    // Unreadable files are reported when they are loaded.
    TextEncoder::reads_alike(one, other).unwrap_or(false)
        && match (our_file, their_file) {
            (None, None) => same_weights(&one.join("text_encoder"), &other.join("text_encoder")).unwrap_or(false),
            (ours, theirs) => ours == theirs,
        }
}

fn same_weights(one: &Path, other: &Path) -> io::Result<bool> {
    let (ours, theirs) = (files(one)?, files(other)?);
    if !ours.keys().eq(theirs.keys()) {
        return Ok(false);
    }
    let mut pairs: Vec<_> = ours.into_values().zip(theirs.into_values()).collect();
    if pairs.iter().any(|(ours, theirs)| ours.1 != theirs.1) {
        return Ok(false);
    }
    pairs.retain(|(ours, theirs)| ours.0 != theirs.0);
    for ((ours, length), (theirs, _)) in pairs {
        let same = match (hash(&ours), hash(&theirs)) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => same_contents(&ours, &theirs, length)?,
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The SHA-256 of a file in the hub's cache, which is its name.
fn hash(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    (name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(name)
}

/// Name -> real path and length of each weight file.
fn files(folder: &Path) -> io::Result<BTreeMap<OsString, (PathBuf, u64)>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = fs::canonicalize(entry.path())?;
        let metadata = fs::metadata(&path)?;
        if entry.path().extension().is_some_and(|extension| extension == "safetensors") {
            found.insert(entry.file_name(), (path, metadata.len()));
        }
    }
    Ok(found)
}

fn same_contents(one: &Path, other: &Path, length: u64) -> io::Result<bool> {
    let differs = |piece: u64| Ok(read(one, piece * PIECE)? != read(other, piece * PIECE)?);
    let found = (0..length.div_ceil(PIECE)).into_par_iter().find_map_any(|piece| match differs(piece) {
        Ok(false) => None,
        other => Some(other),
    });
    found.unwrap_or(Ok(false)).map(|differs| !differs)
}

fn read(path: &Path, offset: u64) -> io::Result<Vec<u8>> {
    use std::io::{Seek, SeekFrom};
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(PIECE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(weights: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("model.safetensors"), weights).unwrap();
        fs::write(folder.path().join("README.md"), format!("{weights:?}")).unwrap();
        folder
    }

    #[test]
    fn a_byte_or_a_file_more_makes_it_another() {
        let (one, other) = (folder(b"weights"), folder(b"weights"));
        let same = |other: &Path| same_weights(one.path(), other).unwrap();
        assert!(same(other.path()));
        assert!(!same(folder(b"weighty").path()) && !same(folder(b"weight").path()));
        fs::write(other.path().join("more.safetensors"), "").unwrap();
        assert!(!same(other.path()));
    }

    #[test]
    fn contents_of_the_hubs_cache_are_told_apart_by_name() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (blob, another) = ("a".repeat(64), "b".repeat(64));
        for folder in [&one, &other] {
            fs::write(folder.path().join(&blob), "").unwrap();
            fs::write(folder.path().join(&another), "").unwrap();
        }
        let link = |folder: &tempfile::TempDir, blob: &str| {
            let link = folder.path().join("model.safetensors");
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(folder.path().join(blob), link).unwrap();
        };
        link(&one, &blob);
        link(&other, &blob);
        assert!(same_weights(one.path(), other.path()).unwrap());
        link(&other, &another);
        assert!(!same_weights(one.path(), other.path()).unwrap());
    }

    #[test]
    fn the_small_models_share_and_others_do_not() {
        let root = &Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let (layered, edit) = (root.join("models/layered-nano"), root.join("models/edit-nano"));
        let same = |one: &Path, other: &Path| same_text_encoder((one, None), (other, None));
        assert!(same(&layered, &edit));
        assert!(!same(&layered, &root.join("tests/golden/checkpoints/edit")));
        assert!(!same(&layered, &root.join("nowhere")));
        let (file, another) = (Some(Path::new("fp8.safetensors")), Some(Path::new("other.safetensors")));
        assert!(same_text_encoder((&layered, file), (&edit, file)));
        assert!(
            !same_text_encoder((&layered, file), (&edit, another))
                && !same_text_encoder((&layered, file), (&edit, None))
        );
    }
}
