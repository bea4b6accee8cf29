//! Writes files from memory into a folder on disk, atomically.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use super::File;

/// The prefix of a folder that is not complete yet, or no longer.
const UNFINISHED: &str = ".unfinished-";

/// Ensures that `folder` has these files. A folder that already has them is not changed, and may be read-only.
///
/// The files appear all at once, by a rename of the folder. Processes that unpack at the same time wait for each other;
/// one that dies leaves a folder with another name, which the next one removes.
///
/// # Errors
/// The file system's error. Nothing is left behind then.
pub fn unpack(folder: &Path, files: &[File<'_>]) -> io::Result<()> {
    if holds(folder, files) {
        return Ok(());
    }
    let parent = folder.parent().ok_or_else(|| io::Error::other("there is no folder to unpack into"))?;
    fs::create_dir_all(parent)?;
    // Released when the file is closed, also if the process dies.
    let lock = fs::File::create(parent.join(".lock"))?;
    lock.lock()?;
    if holds(folder, files) {
        return Ok(());
    }
    remove_unfinished(parent)?;
    let unfinished = || tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(parent);
    let whole = unfinished()?;
    for file in files {
        let path = whole.path().join(file.path);
        if let Some(above) = path.parent() {
            fs::create_dir_all(above)?;
        }
        fs::write(path, file.bytes)?;
    }
    if !holds(whole.path(), files) {
        return Err(io::Error::other("the files read back differently from what was written"));
    }
    // An existing folder is damaged. It may be open elsewhere, and is removed after the new one has replaced it.
    let damaged = unfinished()?;
    match fs::rename(folder, damaged.path().join("damaged")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::rename(whole.path(), folder)
}

/// Whether every file exists, byte for byte, because disks fail and caches are cleaned file by file.
fn holds(folder: &Path, files: &[File<'_>]) -> bool {
    files.iter().all(|file| has_bytes(&folder.join(file.path), file.bytes).unwrap_or(false))
}

fn has_bytes(path: &Path, mut wanted: &[u8]) -> io::Result<bool> {
    let mut file = fs::File::open(path)?;
    if file.metadata()?.len() != wanted.len() as u64 {
        return Ok(false);
    }
    let mut buffer = vec![0; 1 << 18];
    loop {
        let read = file.read(&mut buffer)?;
        let Some((there, rest)) = wanted.split_at_checked(read) else { return Ok(false) };
        if there != &buffer[..read] {
            return Ok(false);
        }
        if read == 0 {
            return Ok(rest.is_empty());
        }
        wanted = rest;
    }
}

/// Called only with the lock held, so no other process uses them.
fn remove_unfinished(parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
