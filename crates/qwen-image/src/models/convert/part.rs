//! The file of a conversion until it is complete, and beside it what it is made from.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use sha2::{Digest, Sha256};

use super::{FileLayout, WeightFiles};
use crate::models::{LoadResult, ModelError, weight_files::read_exact_at};

/// How much of the beginning and the end of each source file its digest covers, besides its path, size and time.
const SAMPLE: u64 = 1 << 20;

/// A file that only this conversion writes, because it is locked.
pub(super) struct PartFile {
    pub file: File,
    path: PathBuf,
}

/// Opens the file, or creates it.
pub(super) fn open(path: &Path) -> LoadResult<PartFile> {
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = opened.map_err(|error| super::cannot_write(path, &error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let reason = "another conversion writes this file now; wait for it, or give another name";
            return Err(ModelError::Output { path: path.to_owned(), reason: reason.to_owned() });
        }
        // Some network file systems have no locks.
        Err(TryLockError::Error(error)) => {
            tracing::warn!("{}: cannot be locked ({error}); make sure that nothing else writes it", path.display());
        }
    }
    Ok(PartFile { file, path: path.to_owned() })
}

impl PartFile {
    /// Goes on after the last whole tensor of an interrupted conversion of the same files, or begins anew; returns the
    /// number of whole tensors.
    pub fn resume(&mut self, files: &WeightFiles, layout: &FileLayout) -> io::Result<usize> {
        let source = source_of(files)?;
        let length = self.file.metadata()?.len();
        let mut header = vec![0; layout.header.len().min(length as usize)];
        self.file.read_exact(&mut header)?;
        let is_of_source = fs::read_to_string(self.source_path()).is_ok_and(|begun| begun == source);
        if header != layout.header || !is_of_source {
            if length > 0 {
                let part = self.path.display();
                tracing::warn!("{part}: was begun from other weights or in another form; the conversion begins anew");
            }
            self.file.set_len(0)?;
            self.file.rewind()?;
            // If this is interrupted between the two, the file has no header, and the next conversion begins anew.
            fs::write(self.source_path(), source)?;
            self.file.write_all(&layout.header)?;
            return Ok(0);
        }
        let mut place = layout.header.len() as u64;
        let whole = layout.items.iter().take_while(|item| {
            let fits = place + item.bytes <= length;
            place += if fits { item.bytes } else { 0 };
            fits
        });
        let whole = whole.count();
        self.file.set_len(place)?;
        self.file.seek(SeekFrom::Start(place))?;
        Ok(whole)
    }

    /// For the finished file.
    pub fn remove_source(&self) {
        fs::remove_file(self.source_path()).ok();
    }

    fn source_path(&self) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".source");
        PathBuf::from(name)
    }
}

/// A line for each source file: a digest of its ends, size, time and path.
fn source_of(files: &WeightFiles) -> io::Result<String> {
    let mut lines = String::new();
    for path in files.paths() {
        let path = path.canonicalize()?;
        let file = File::open(&path)?;
        let metadata = file.metadata()?;
        let (size, sample) = (metadata.len(), metadata.len().min(SAMPLE));
        let mut digest = Sha256::new();
        for start in [0, size - sample] {
            let mut bytes = vec![0; sample as usize];
            read_exact_at(&file, &mut bytes, start)?;
            digest.update(&bytes);
        }
        let changed = metadata.modified()?.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let digest = hex::encode(digest.finalize());
        lines.push_str(&format!("{digest} {size} {changed} {}\n", path.display()));
    }
    Ok(lines)
}
