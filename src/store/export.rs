//! The folder of `acetate run --out`: a result copied from the store.
//!
//! A folder has one result. While files are copied, it contains a marker, so that an interrupted copy is recognized and
//! can be finished.

use std::{
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use tracing::warn;

use super::{
    MANIFEST, ObjectKey, ResultFiles, Store,
    blocking::blocking,
    errors::io_error,
    folder::{check_writable, sync_folder, write_whole},
    key::check_name,
};
use crate::job::{JobError, JobId, Manifest};

/// The marker file with the id of the job whose files are being copied.
const MARKER: &str = ".acetate-export";

#[derive(Debug, Clone)]
pub struct OutFolder {
    path: PathBuf,
    /// A job whose copy into this folder was interrupted.
    pub unfinished: Option<JobId>,
    /// Jobs whose results a worker has put below this folder, which has no result of its own yet.
    pub of_workers: Vec<JobId>,
}

impl OutFolder {
    /// Creates the folder if needed, and refuses it before any work if it is not writable or has other contents.
    pub fn prepare(path: &Path) -> Result<Self, JobError> {
        fs::create_dir_all(path).map_err(|error| not_a_folder(path, error))?;
        let path = path.canonicalize().map_err(|error| io_error(path, "open the output folder", error))?;
        let unfinished = read_optional(&path.join(MARKER))?.and_then(|id| id.trim().parse().ok());
        let ours = unfinished.is_some() || read_manifest(&path)?.is_some();
        let of_workers = if ours { Some(Vec::new()) } else { only_jobs(&path)? };
        let Some(of_workers) = of_workers else {
            return Err(JobError::invalid(
                "out",
                format!("{} holds other files and no acetate result; give an empty or new folder", path.display()),
            ));
        };
        check_writable(&path)?;
        Ok(Self { path, unfinished, of_workers })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Copies a published result here: each file atomically, the manifest last. Removes files of an earlier result that
    /// the new one does not have; anything else is left alone.
    ///
    /// These are copies, not links: editing a picture here must not change the one in the store.
    pub async fn export(&self, store: &Store, manifest_key: &ObjectKey) -> Result<Manifest, JobError> {
        let ResultFiles { manifest, text, .. } = ResultFiles::published(store.clone(), manifest_key.clone()).await?;
        let (folder, new) = (self.path.clone(), manifest.clone());
        let lock = blocking(move || begin(&folder, &new)).await?;
        for file in &manifest.files {
            let bytes = store.get(&manifest_key.sibling(&file.name)?, file.size).await?;
            let path = self.path.join(&file.name);
            blocking(move || write_whole(&path, &bytes)).await?;
        }
        let folder = self.path.clone();
        blocking(move || {
            let finished = finish(&folder, &text);
            drop(lock);
            finished
        })
        .await?;
        Ok(manifest)
    }
}

/// Writes the marker and removes the files that only the old result had. Other processes wait until the returned file
/// is dropped.
fn begin(folder: &Path, manifest: &Manifest) -> Result<File, JobError> {
    // Read under the lock, because another process may have written its result here since `prepare`.
    let lock = lock(folder)?;
    let old = read_manifest(folder)?;
    write_whole(&folder.join(MARKER), manifest.job.to_string().as_bytes())?;
    remove(&folder.join(MANIFEST))?;
    for file in old.iter().flat_map(|old| &old.files) {
        // The name comes from a file that anyone could have written.
        if check_name(&file.name).is_ok() && !manifest.files.iter().any(|new| new.name == file.name) {
            remove(&folder.join(&file.name))?;
        }
    }
    Ok(lock)
}

fn finish(folder: &Path, manifest: &[u8]) -> Result<(), JobError> {
    write_whole(&folder.join(MANIFEST), manifest)?;
    remove(&folder.join(MARKER))?;
    sync_folder(folder).map_err(|error| io_error(folder, "flush the output folder", error))
}

/// Prevents other processes from copying into this folder until the value is dropped or the process dies.
fn lock(folder: &Path) -> Result<File, JobError> {
    let failed = |error: std::io::Error| io_error(folder, "lock the output folder", error);
    // Locks the folder itself if it can be opened, so that no lock file is left in it.
    #[cfg(unix)]
    let file = File::open(folder).map_err(failed)?;
    #[cfg(not(unix))]
    let file = File::create(folder.join(".acetate-lock")).map_err(failed)?;
    if let Err(error) = file.lock() {
        // Some network file systems cannot lock folders; a single process needs no lock.
        warn!("{}: cannot be locked ({error}); make sure that no other acetate process writes to it", folder.display());
    }
    Ok(file)
}

/// The error if there is a file instead of a folder, which the caller can correct.
fn not_a_folder(path: &Path, error: std::io::Error) -> JobError {
    if !matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotADirectory) {
        return io_error(path, "create the output folder", error);
    }
    let file = path.ancestors().find(|part| part.exists() && !part.is_dir()).unwrap_or(path);
    JobError::invalid("out", format!("{} is a file; give a folder", file.display()))
}

/// The manifest of an earlier result; absent if `manifest.json` belongs to another program.
fn read_manifest(folder: &Path) -> Result<Option<Manifest>, JobError> {
    Ok(read_optional(&folder.join(MANIFEST))?.and_then(|text| serde_json::from_str(&text).ok()))
}

fn read_optional(path: &Path) -> Result<Option<String>, JobError> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8(bytes).ok()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error(path, "list the output folder", error)),
    }
}

/// The jobs that have a folder in here; none if there is anything else. Temporary files of an interrupted copy do not
/// count.
fn only_jobs(folder: &Path) -> Result<Option<Vec<JobId>>, JobError> {
    let failed = |error: std::io::Error| io_error(folder, "check the output folder", error);
    let mut jobs = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(".acetate-") {
            continue;
        }
        match name.parse() {
            Ok(job) if entry.file_type().map_err(failed)?.is_dir() => jobs.push(job),
            _ => return Ok(None),
        }
    }
    Ok(Some(jobs))
}

fn remove(path: &Path) -> Result<(), JobError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error(path, "replace the file", error)),
    }
}
