//! Whether two checkpoints have the same text encoder, so that one serves both.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use rayon::prelude::*;

/// What the text encoder is read from.
const FOLDERS: [&str; 3] = ["text_encoder", "tokenizer", "processor"];

const PIECE: u64 = 16 << 20;

/// Whether all files behind the text encoder are the same: by name, and by place on the disk (the hub's cache keeps one
/// file for equal contents) or else byte for byte.
pub fn same_text_encoder(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut pairs, mut differ) = (Vec::new(), false);
    for folder in FOLDERS {
        let (ours, theirs) = (files(&one.join(folder))?, files(&other.join(folder))?);
        differ |= !ours.keys().eq(theirs.keys());
        pairs.extend(ours.into_values().zip(theirs.into_values()));
    }
    // The cheap ones first.
    differ |= pairs.iter().any(|(ours, theirs)| ours.1 != theirs.1);
    pairs.retain(|(ours, theirs)| ours.0 != theirs.0);
    pairs.sort_by_key(|(ours, _)| ours.1);
    for ((ours, length), (theirs, _)) in pairs {
        differ = differ || !same_contents(&ours, &theirs, length)?;
    }
    Ok(!differ)
}

/// Name -> real path and length of each file.
fn files(folder: &Path) -> io::Result<BTreeMap<std::ffi::OsString, (PathBuf, u64)>> {
    let mut found = BTreeMap::new();
    if !folder.is_dir() {
        return Ok(found);
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = fs::canonicalize(entry.path())?;
        let metadata = fs::metadata(&path)?;
        if metadata.is_file() {
            found.insert(entry.file_name(), (path, metadata.len()));
        }
    }
    Ok(found)
}

fn same_contents(one: &Path, other: &Path, length: u64) -> io::Result<bool> {
    (0..length.div_ceil(PIECE))
        .into_par_iter()
        .map(|piece| Ok(read(one, piece * PIECE)? == read(other, piece * PIECE)?))
        .try_reduce(|| true, |all, same| if all && same { Ok(true) } else { Ok(false) })
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

    fn checkpoint(weights: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in FOLDERS {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("text_encoder/model.safetensors"), weights).unwrap();
        fs::write(folder.path().join("tokenizer/vocab.json"), "{}").unwrap();
        folder
    }

    #[test]
    fn a_byte_or_a_file_more_makes_it_another() {
        let (one, other) = (checkpoint(b"weights"), checkpoint(b"weights"));
        assert!(same_text_encoder(one.path(), other.path()).unwrap());
        assert!(!same_text_encoder(one.path(), checkpoint(b"weighty").path()).unwrap());
        assert!(!same_text_encoder(one.path(), checkpoint(b"weight").path()).unwrap());
        fs::write(other.path().join("tokenizer/merges.txt"), "").unwrap();
        assert!(!same_text_encoder(one.path(), other.path()).unwrap());
    }

    #[test]
    #[cfg(unix)]
    fn one_file_under_two_names_is_not_read() {
        let one = checkpoint(b"weights");
        let other = tempfile::tempdir().unwrap();
        for name in FOLDERS {
            std::os::unix::fs::symlink(one.path().join(name), other.path().join(name)).unwrap();
        }
        assert!(same_text_encoder(one.path(), other.path()).unwrap());
    }
}
