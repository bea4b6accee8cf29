//! The store in a local folder.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::{
    MANIFEST, ObjectKey,
    blocking::blocking,
    digest::sha256,
    errors::io_error,
    url::{file_url, path_of},
};
use crate::job::{Epoch, JobError, JobId};

/// With less free space than this, in bytes, the disk counts as full before any work starts.
const LEAST_FREE: u64 = 16 << 20;

/// Objects as files below one folder.
#[derive(Debug, Clone)]
pub struct FolderStore {
    root: PathBuf,
    /// Whether it is the store of `store.url`.
    own: bool,
}

/// An object that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub key: ObjectKey,
    /// Bytes.
    pub size: u64,
    /// Lower-case hexadecimal.
    pub sha256: String,
}

impl FolderStore {
    /// The folder of a `file:///` address, unchecked: enough to read objects and to name them.
    pub fn at(url: &str) -> Result<Self, JobError> {
        Ok(Self::in_folder(path_of("store.url", url)?).own())
    }

    pub fn in_folder(root: PathBuf) -> Self {
        Self { root, own: false }
    }

    /// The same as the store of `store.url`, whose operator corrects its path while jobs wait: a wrong path is then
    /// no fault of a request.
    pub(super) fn own(self) -> Self {
        Self { own: true, ..self }
    }

    /// Like [`FolderStore::at`], but also checks that the folder is writable.
    pub fn open(url: &str) -> Result<Self, JobError> {
        let store = Self::at(url)?;
        store.make()?;
        Ok(store)
    }

    /// Creates the folder if needed, writes a file into it and deletes it again.
    pub async fn check(&self) -> Result<(), JobError> {
        let store = self.clone();
        blocking(move || store.make()).await.map_err(|error| self.blamed(error))
    }

    fn blamed(&self, error: JobError) -> JobError {
        match error {
            JobError::InvalidRequest { field: path, reason } if self.own => JobError::storage(path, reason),
            error => error,
        }
    }

    /// Whether the folder exists, and can be written; or, if it does not, whether it can be made. Leaves nothing
    /// behind.
    pub async fn inspect(&self) -> Result<bool, JobError> {
        let root = self.root.clone();
        blocking(move || {
            // Also a link that leads nowhere is there.
            let there = root.ancestors().find(|folder| folder.symlink_metadata().is_ok()).unwrap_or(&root);
            if !there.is_dir() {
                let what = if there.is_file() { "a file" } else { "a pipe, a socket, or a link that leads nowhere" };
                let reason = format!("{} is {what}, not a folder; correct store.url", there.display());
                return Err(JobError::storage(root.display().to_string(), reason));
            }
            check_writable(there)?;
            Ok(there == root)
        })
        .await
    }

    fn make(&self) -> Result<(), JobError> {
        let root = &self.root;
        fs::create_dir_all(root).map_err(|error| io_error(root, "create the folder for objects", error))?;
        check_writable(root)
    }

    /// The free space, in bytes.
    pub fn free_space(&self) -> Result<u64, JobError> {
        // Before the first object, the folder may not exist.
        let there = self.root.ancestors().find(|folder| folder.exists()).unwrap_or(&self.root);
        fs4::available_space(there).map_err(|error| io_error(&self.root, "check the free space", error))
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Writes an object whole or not at all.
    pub async fn put(&self, key: ObjectKey, bytes: Vec<u8>) -> Result<Stored, JobError> {
        let path = self.path(&key);
        blocking(move || {
            write_whole(&path, &bytes)?;
            Ok(Stored { key, size: bytes.len() as u64, sha256: hex::encode(Sha256::digest(&bytes)) })
        })
        .await
        .map_err(|error| self.blamed(error))
    }

    /// Writes objects, each whole or not at all, faster than one by one.
    ///
    /// # Errors
    /// Of all objects, if the thread stopped.
    pub async fn put_all(&self, objects: Vec<(ObjectKey, Vec<u8>)>) -> Result<Vec<Result<(), JobError>>, JobError> {
        let files: Vec<_> = objects.into_iter().map(|(key, bytes)| (self.path(&key), bytes)).collect();
        let written = blocking(move || Ok(write_all_whole(&files))).await?;
        Ok(written.into_iter().map(|one| one.map_err(|error| self.blamed(error))).collect())
    }

    /// Reads an object back from the disk and compares it with what was written.
    pub async fn verify(&self, stored: &Stored) -> Result<(), JobError> {
        let (digest, bytes) = sha256(self.get(&stored.key, stored.size).await?).await?;
        if bytes.len() as u64 != stored.size || hex::encode(digest) != stored.sha256 {
            return Err(JobError::storage(
                self.path(&stored.key).display().to_string(),
                "the bytes read differ from those written; check the disk",
            ));
        }
        Ok(())
    }

    /// Reads an object of at most `cap` bytes.
    pub async fn get(&self, key: &ObjectKey, cap: u64) -> Result<Vec<u8>, JobError> {
        let path = self.path(key);
        blocking(move || read_whole(&path, cap)).await
    }

    pub async fn exists(&self, key: &ObjectKey) -> Result<bool, JobError> {
        let path = self.path(key);
        blocking(move || path.try_exists().map_err(|error| io_error(&path, "check the object", error))).await
    }

    /// When an object was written; none if it is not there.
    pub async fn modified(&self, key: &ObjectKey) -> Result<Option<Timestamp>, JobError> {
        let path = self.path(key);
        blocking(move || match fs::metadata(&path).and_then(|metadata| metadata.modified()) {
            Ok(modified) => Ok(Some(Timestamp::try_from(modified).unwrap_or(Timestamp::UNIX_EPOCH))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error(&path, "check the object", error)),
        })
        .await
    }

    /// The names of the objects in a folder that were written before a time.
    pub(super) async fn older(&self, folder: &str, before: Timestamp) -> Result<Vec<String>, JobError> {
        let folder = self.root.join(folder);
        blocking(move || {
            let failed = |error: std::io::Error| io_error(&folder, "list the folder", error);
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
                entries => entries.map_err(failed)?,
            };
            let mut names = Vec::new();
            for entry in entries {
                let entry = entry.map_err(failed)?;
                // An entry may be deleted meanwhile.
                let Ok(modified) = entry.metadata().and_then(|metadata| metadata.modified()) else { continue };
                if Timestamp::try_from(modified).is_ok_and(|modified| modified < before) {
                    names.extend(entry.file_name().into_string());
                }
            }
            Ok(names)
        })
        .await
    }

    /// Deletes objects; missing ones count as deleted.
    pub(super) async fn delete(&self, keys: &[ObjectKey]) -> Result<(), JobError> {
        let paths: Vec<_> = keys.iter().map(|key| self.path(key)).collect();
        blocking(move || {
            for path in paths {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        return Err(io_error(&path, "delete the object", error));
                    }
                    _ => {}
                }
            }
            Ok(())
        })
        .await
    }

    /// The attempts of a job that have a manifest.
    pub async fn manifests(&self, job: JobId) -> Result<Vec<Epoch>, JobError> {
        let folder = self.root.join(job.to_string());
        blocking(move || {
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
                entries => entries.map_err(|error| io_error(&folder, "list its attempts", error))?,
            };
            let epoch = |entry: std::io::Result<fs::DirEntry>| {
                let path = entry.ok()?.path();
                let epoch = path.file_name()?.to_str()?.parse().ok().map(Epoch)?;
                path.join(MANIFEST).is_file().then_some(epoch)
            };
            Ok(entries.filter_map(epoch).collect())
        })
        .await
    }

    /// Deletes the files of some of a job's attempts, and returns their number.
    pub async fn delete_epochs(
        &self,
        job: JobId,
        wanted: impl Fn(Epoch) -> bool + Send + 'static,
    ) -> Result<u64, JobError> {
        let folder = self.root.join(job.to_string());
        blocking(move || delete_epochs(&folder, wanted)).await
    }

    pub fn url(&self, key: &ObjectKey) -> String {
        file_url(&self.path(key))
    }

    pub fn path(&self, key: &ObjectKey) -> PathBuf {
        self.root.join(key.as_str())
    }
}

/// Also the folder itself, if nothing else is in it.
fn delete_epochs(folder: &Path, wanted: impl Fn(Epoch) -> bool) -> Result<u64, JobError> {
    let failed = |error: std::io::Error| io_error(folder, "delete old attempts", error);
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        entries => entries.map_err(failed)?,
    };
    let mut deleted = 0;
    for entry in entries {
        let entry = entry.map_err(failed)?;
        // Other files in the folder are left alone.
        let Some(epoch) = entry.file_name().to_str().and_then(|name| name.parse().ok()).map(Epoch) else { continue };
        if wanted(epoch) && entry.file_type().map_err(failed)?.is_dir() {
            deleted += fs::read_dir(entry.path()).map_err(failed)?.count() as u64;
            fs::remove_dir_all(entry.path()).map_err(failed)?;
        }
    }
    // This fails if other files are left, so they stay.
    fs::remove_dir(folder).ok();
    Ok(deleted)
}

/// Reads a file of at most `cap` bytes, which does not change, at once.
pub(super) fn read_whole(path: &Path, cap: u64) -> Result<Vec<u8>, JobError> {
    let failed = |error: std::io::Error| io_error(path, "read the object", error);
    let mut file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    if size > cap {
        let reason = format!("is larger than the expected {cap} bytes");
        return Err(JobError::storage(path.display().to_string(), reason));
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
    file.read_exact(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Writes under a temporary name in the same folder, flushes, renames, and flushes the folder's entry.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), JobError> {
    write_file(path, bytes)?;
    sync_folder(folder_of(path)).map_err(|error| io_error(path, "write the file", error))
}

/// Like [`write_whole`] for several files. A file system writes together what several threads flush at the same time,
/// and a folder is flushed once for all of its files.
fn write_all_whole(files: &[(PathBuf, Vec<u8>)]) -> Vec<Result<(), JobError>> {
    const THREADS: usize = 32;
    let each = files.len().div_ceil(THREADS).max(1);
    let mut written: Vec<Result<(), JobError>> = Vec::with_capacity(files.len());
    std::thread::scope(|scope| {
        let write = |(path, bytes): &(PathBuf, Vec<u8>)| write_file(path, bytes);
        let threads: Vec<_> =
            files.chunks(each).map(|part| scope.spawn(move || part.iter().map(write).collect::<Vec<_>>())).collect();
        for thread in threads {
            match thread.join() {
                Ok(results) => written.extend(results),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    let folders: BTreeSet<&Path> = files.iter().map(|(path, _)| folder_of(path)).collect();
    let synced = folders
        .into_iter()
        .try_for_each(|folder| sync_folder(folder).map_err(|error| io_error(folder, "flush the folder", error)));
    written.into_iter().map(|written| written.and_then(|()| synced.clone())).collect()
}

/// Writes a file whole or not at all; its folder is not flushed.
fn write_file(path: &Path, bytes: &[u8]) -> Result<(), JobError> {
    let failed = |error: std::io::Error| io_error(path, "write the file", error);
    let folder = folder_of(path);
    fs::create_dir_all(folder).map_err(|error| io_error(folder, "create the folder", error))?;
    let mut file = new_file(folder).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// A temporary file with the permissions of an ordinary one; it is deleted when dropped.
fn new_file(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".acetate-").suffix(".part");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}

pub(super) fn sync_folder(folder: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

/// Writes a block into the folder and deletes it again, to fail now instead of after an hour of work.
pub(super) fn check_writable(folder: &Path) -> Result<(), JobError> {
    let failed = |error: std::io::Error| io_error(folder, "write to the folder", error);
    let free = fs4::available_space(folder).map_err(failed)?;
    if free < LEAST_FREE {
        let (free, least) = (free >> 20, LEAST_FREE >> 20);
        let path = format!("{} ({free} MiB free; jobs need at least {least} MiB)", folder.display());
        return Err(JobError::DiskFull { path });
    }
    let mut file = new_file(folder).map_err(failed)?;
    file.write_all(&[0; 4096]).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn objects_are_written_whole_and_verified() {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::open(&file_url(folder.path())).unwrap();
        let key = ObjectKey::new(JobId::new(), Epoch(1), "a.png").unwrap();
        let stored = store.put(key.clone(), b"abc".to_vec()).await.unwrap();
        assert_eq!(stored.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        store.verify(&stored).await.unwrap();
        assert_eq!(store.get(&key, 3).await.unwrap(), b"abc");
        assert!(store.get(&key, 2).await.is_err());

        fs::write(store.path(&key), b"abd").unwrap();
        let error = store.verify(&stored).await.unwrap_err();
        assert_eq!(error.code(), "storage");
        let names: Vec<_> = fs::read_dir(store.path(&key).parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1, "no temporary file is left");
    }

    #[tokio::test]
    async fn of_several_objects_one_that_cannot_be_written_does_not_stop_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::in_folder(folder.path().to_owned());
        let key = |number: u8| ObjectKey::input(&hex::encode(Sha256::digest([number])), "png").unwrap();
        fs::create_dir_all(store.path(&key(50)).join("not a file")).unwrap();
        let objects = (0..100).map(|number| (key(number), vec![number; 9])).collect();
        let written = store.put_all(objects).await.unwrap();
        let failed: Vec<_> = written.iter().enumerate().filter(|(_, one)| one.is_err()).map(|(n, _)| n).collect();
        assert_eq!(failed, [50]);
        for number in (0..100).filter(|number| *number != 50) {
            assert_eq!(store.get(&key(number), 9).await.unwrap(), [number; 9]);
        }
        let names = fs::read_dir(store.path(&key(0)).parent().unwrap()).unwrap();
        assert_eq!(names.count(), 100, "no temporary file is left");
        assert!(store.put_all(Vec::new()).await.unwrap().is_empty());
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_path_that_leads_nowhere_is_not_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "x").unwrap();
        std::os::unix::fs::symlink(at("b"), at("a")).unwrap();
        std::os::unix::fs::symlink(at("a"), at("b")).unwrap();
        std::os::unix::fs::symlink(at("nothing"), at("dangling")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let key = ObjectKey::new(JobId::new(), Epoch(1), "a.png").unwrap();
        let wrong = [
            ("file", "not a folder"),
            ("file/out", "not a folder"),
            ("socket", "not a folder"),
            ("socket/out", "not a folder"),
            ("a/out", "in a circle"),
            ("nul\0", "does not take a name"),
        ];
        for (name, words) in wrong {
            let store = FolderStore::in_folder(at(name));
            for error in [store.check().await.unwrap_err(), store.put(key.clone(), b"abc".to_vec()).await.unwrap_err()]
            {
                assert_eq!(error.class(), crate::job::ErrorClass::Invalid, "{name}: {error}");
                assert!(error.to_string().contains(words), "{name}: {error}");
            }
            if let Err(error) = fs::metadata(at(name)) {
                let error = crate::store::errors::input_error(name, error);
                assert_eq!(error.class(), crate::job::ErrorClass::Invalid, "{name}: {error}");
            }
        }
        // What may be mounted later is.
        let store = FolderStore::in_folder(at("dangling/out"));
        let error = store.put(key.clone(), b"abc".to_vec()).await.unwrap_err();
        assert!(error.is_transient() && error.to_string().contains("is a link to nothing"), "{error}");
        assert!(store.inspect().await.unwrap_err().to_string().contains("leads nowhere"));
        // A file cannot take the place of a folder.
        let store = FolderStore::in_folder(at("store"));
        fs::create_dir_all(store.path(&key)).unwrap();
        let error = store.put(key, b"abc".to_vec()).await.unwrap_err();
        assert!(error.to_string().contains("it is a folder, not a file"), "{error}");
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_not_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        // A name, and a path of names that fit.
        for long in ["n".repeat(300), format!("{}/", "n".repeat(200)).repeat(30)] {
            let store = FolderStore::in_folder(folder.path().join(long));
            let key = ObjectKey::new(JobId::new(), Epoch(1), "a.png").unwrap();
            for error in [
                store.check().await.unwrap_err(),
                store.put(key.clone(), b"abc".to_vec()).await.unwrap_err(),
                store.get(&key, 3).await.unwrap_err(),
                store.exists(&key).await.unwrap_err(),
                store.modified(&key).await.unwrap_err(),
                store.manifests(JobId::new()).await.unwrap_err(),
                store.delete(std::slice::from_ref(&key)).await.unwrap_err(),
            ] {
                assert_eq!(error.code(), "invalid_request", "{error}");
                assert!(error.to_string().contains("too long for the file system"), "{error}");
            }
        }
    }
}
