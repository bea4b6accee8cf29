//! The folder or S3 prefix that an export of many results is written to, under names of its own.
//!
//! A file is visible as a whole or not at all. Large files are written to a temporary file first: in the folder itself,
//! or, for S3, in the system's folder for temporary files, from where they are sent in parts.

use std::{
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use tempfile::{NamedTempFile, TempDir};

use super::{
    S3Client,
    blocking::blocking,
    errors::io_error,
    folder::{check_writable, sync_folder, write_whole},
    location::{Location, S3Location},
    s3::{self, S3Error},
};
use crate::job::JobError;

/// The hidden folder with what an export remembers, and with its unfinished files.
const OWN: &str = ".acetate-export";

/// Clones share connections.
#[derive(Debug, Clone)]
pub enum Target {
    Folder(PathBuf),
    S3 {
        client: S3Client,
        /// Its key is empty or ends with `/`.
        root: S3Location,
    },
}

/// Keeps other processes out of the folder until it is dropped.
#[derive(Debug)]
pub struct TargetLock {
    _file: Option<File>,
}

impl Target {
    pub(super) fn at(client: S3Client, out: &str) -> Result<Self, JobError> {
        if !out.contains("://") {
            let path = std::path::absolute(out).map_err(|error| io_error(Path::new(out), "use the folder", error))?;
            return Ok(Self::Folder(path));
        }
        match Location::parse("--out", out)?.as_folder() {
            Location::File(path) => Ok(Self::Folder(path)),
            Location::S3(root) => Ok(Self::S3 { client, root }),
            Location::Web(address) => {
                Err(JobError::invalid("--out", format!("`{address}` cannot be written to; give a folder or s3://")))
            }
        }
    }

    /// Creates the folder, keeps other processes out of it, and removes what an interrupted one left unfinished.
    ///
    /// # Errors
    /// If the folder cannot be written to, or another process is writing to it.
    pub async fn open(&self) -> Result<TargetLock, JobError> {
        let Self::Folder(folder) = self else { return Ok(TargetLock { _file: None }) };
        let folder = folder.clone();
        blocking(move || {
            let own = folder.join(OWN);
            if folder.exists() && !folder.is_dir() {
                return Err(JobError::invalid("--out", format!("{} is a file; give a folder", folder.display())));
            }
            fs::create_dir_all(&own).map_err(|error| io_error(&own, "create the folder", error))?;
            check_writable(&own)?;
            let path = own.join("lock");
            let failed = |error: std::io::Error| io_error(&path, "lock the folder", error);
            let file = File::create(&path).map_err(failed)?;
            if let Err(fs::TryLockError::WouldBlock) = file.try_lock() {
                let reason = format!("another process is exporting to {}; wait until it ends", folder.display());
                return Err(JobError::Busy { reason });
            }
            for entry in fs::read_dir(&own).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                if entry.file_name().to_string_lossy().starts_with("tmp-") {
                    let path = entry.path();
                    let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                    removed.map_err(|error| io_error(&path, "remove what is unfinished", error))?;
                }
            }
            Ok(TargetLock { _file: Some(file) })
        })
        .await
    }

    /// Whether anything but an export's own memory is there.
    pub async fn has_files(&self) -> Result<bool, JobError> {
        match self {
            Self::Folder(folder) => {
                let folder = folder.clone();
                blocking(move || {
                    let failed = |error: std::io::Error| io_error(&folder, "list the folder", error);
                    for entry in fs::read_dir(&folder).map_err(failed)? {
                        if entry.map_err(failed)?.file_name() != OWN {
                            return Ok(true);
                        }
                    }
                    Ok(false)
                })
                .await
            }
            Self::S3 { client, root } => {
                let page = s3::list_page(client, root, None).await;
                let page = page.map_err(|failure| failure.for_object(&root.to_string(), 0, client))?;
                Ok(page.objects.iter().any(|object| object.location.key != root.key))
            }
        }
    }

    /// Reads a file of the export's own memory; absent if there is none.
    pub async fn read_own(&self, name: &str) -> Result<Option<Vec<u8>>, JobError> {
        let name = own(name);
        match self {
            Self::Folder(folder) => {
                let path = folder.join(name);
                blocking(move || match fs::read(&path) {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(io_error(&path, "read the file", error)),
                })
                .await
            }
            Self::S3 { client, root } => {
                let at = root.join(&name);
                match s3::read(client, &at, u64::MAX).await {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(S3Error::NoKey) => Ok(None),
                    Err(failure) => Err(failure.for_object(&at.to_string(), u64::MAX, client)),
                }
            }
        }
    }

    /// Writes a file of the export's own memory.
    pub async fn write_own(&self, name: &str, bytes: Vec<u8>) -> Result<(), JobError> {
        self.write(&own(name), bytes).await
    }

    /// Writes a small file.
    pub async fn write(&self, name: &str, bytes: Vec<u8>) -> Result<(), JobError> {
        match self {
            Self::Folder(folder) => {
                let path = folder.join(name);
                blocking(move || write_whole(&path, &bytes)).await
            }
            Self::S3 { client, root } => s3::put(client, &root.join(name), bytes).await,
        }
    }

    /// A temporary file for [`Target::keep`].
    pub fn new_file(&self) -> Result<NamedTempFile, JobError> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("tmp-").suffix(".part");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        match self {
            Self::Folder(folder) => {
                let own = folder.join(OWN);
                builder.tempfile_in(&own).map_err(|error| io_error(&own, "write the file", error))
            }
            Self::S3 { .. } => {
                builder.tempfile().map_err(|error| io_error(Path::new("TMPDIR"), "write a temporary file", error))
            }
        }
    }

    /// Makes a file that was written completely visible under its name.
    pub async fn keep(&self, file: NamedTempFile, name: &str) -> Result<(), JobError> {
        match self {
            Self::Folder(folder) => {
                let (folder, path) = (folder.clone(), folder.join(name));
                blocking(move || {
                    let failed = |error: std::io::Error| io_error(&path, "write the file", error);
                    file.as_file().sync_all().map_err(failed)?;
                    file.persist(&path).map_err(|error| failed(error.error))?;
                    sync_folder(&folder).map_err(failed)
                })
                .await
            }
            Self::S3 { client, root } => s3::put_file(client, &root.join(name), file.path()).await,
        }
    }

    /// A temporary folder for [`Target::keep_folder`]; none for S3, whose objects are written one by one.
    pub fn new_folder(&self) -> Result<Option<TempDir>, JobError> {
        let Self::Folder(folder) = self else { return Ok(None) };
        let own = folder.join(OWN);
        let mut builder = tempfile::Builder::new();
        builder.prefix("tmp-");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o777));
        }
        builder.tempdir_in(&own).map(Some).map_err(|error| io_error(&own, "create a folder", error))
    }

    /// Makes a folder of files visible under its name; an older one that an interrupted process left is replaced.
    pub async fn keep_folder(&self, made: TempDir, name: &str) -> Result<(), JobError> {
        let Self::Folder(folder) = self else { return Ok(()) };
        let (folder, path) = (folder.clone(), folder.join(name));
        blocking(move || {
            let failed = |error: std::io::Error| io_error(&path, "write the folder", error);
            for entry in fs::read_dir(made.path()).map_err(failed)? {
                File::open(entry.map_err(failed)?.path()).and_then(|file| file.sync_all()).map_err(failed)?;
            }
            sync_folder(made.path()).map_err(failed)?;
            if path.exists() {
                fs::remove_dir_all(&path).map_err(failed)?;
            }
            let from = made.keep();
            fs::rename(&from, &path).map_err(failed)?;
            sync_folder(&folder).map_err(failed)
        })
        .await
    }

    /// Where a file is, for people: a path, or an address.
    pub fn place(&self, name: &str) -> String {
        match self {
            Self::Folder(folder) if name.is_empty() => folder.display().to_string(),
            Self::Folder(folder) => folder.join(name).display().to_string(),
            Self::S3 { root, .. } => root.join(name).to_string(),
        }
    }
}

fn own(name: &str) -> String {
    format!("{OWN}/{name}")
}
