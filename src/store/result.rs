//! Reads a result: the manifest and the files that it names, from a store or from a folder written by
//! [`OutFolder`](super::OutFolder).

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::{
    MANIFEST, ObjectKey, Store, blocking::blocking, digest::sha256, errors::io_error, folder::read_whole,
    key::check_name,
};
use crate::job::{FileEntry, JobError, Manifest};

/// The maximum size of a manifest, in bytes, because it is read whole.
pub(super) const LARGEST_MANIFEST: u64 = 16 << 20;

#[derive(Debug, Clone)]
pub struct ResultFiles {
    pub manifest: Manifest,
    /// The manifest as it is stored.
    pub(super) text: Vec<u8>,
    place: ResultPlace,
}

#[derive(Debug, Clone)]
enum ResultPlace {
    Store(Store, ObjectKey),
    Folder(PathBuf),
}

impl ResultFiles {
    /// A published result, by its manifest's key.
    pub async fn published(store: Store, manifest_key: ObjectKey) -> Result<Self, JobError> {
        let text = store.get(&manifest_key, LARGEST_MANIFEST).await?;
        let manifest = serde_json::from_slice(&text)
            .map_err(|error| JobError::storage(store.place(&manifest_key), format!("is not a manifest: {error}")))?;
        Ok(Self { manifest, text, place: ResultPlace::Store(store, manifest_key) })
    }

    /// A result in a local folder. Its pictures may have been edited since.
    pub async fn in_folder(folder: &Path) -> Result<Self, JobError> {
        let folder = folder.to_path_buf();
        blocking(move || {
            let path = folder.join(MANIFEST);
            let text = fs::read(&path).map_err(|error| match error.kind() {
                ErrorKind::NotFound => JobError::invalid(
                    "folder",
                    format!("{} has no {MANIFEST}; give a folder with a complete acetate result", folder.display()),
                ),
                _ => io_error(&path, "read the manifest", error),
            })?;
            let manifest = serde_json::from_slice(&text).map_err(|error| {
                JobError::invalid("folder", format!("{} is not an acetate manifest: {error}", path.display()))
            })?;
            Ok(Self { manifest, text, place: ResultPlace::Folder(folder) })
        })
        .await
    }

    /// The bytes of one file that the manifest names; from a store, exactly the published ones.
    ///
    /// # Errors
    /// [`JobError::Storage`] if it is missing or damaged, or has a name that acetate does not use.
    pub async fn read(&self, name: &str) -> Result<Vec<u8>, JobError> {
        check_name(name)?;
        match &self.place {
            ResultPlace::Store(store, manifest_key) => {
                let named = self.manifest.files.iter().find(|file| file.name == name);
                let file = named.ok_or_else(|| JobError::InputNotFound { input: name.to_owned() })?;
                read_published(store, manifest_key, file).await
            }
            ResultPlace::Folder(folder) => {
                let path = folder.join(name);
                blocking(move || {
                    fs::read(&path).map_err(|error| match error.kind() {
                        ErrorKind::NotFound => JobError::storage(
                            path.display().to_string(),
                            format!("{MANIFEST} names it, but it is missing; fetch the result again"),
                        ),
                        _ => io_error(&path, "read the result", error),
                    })
                })
                .await
            }
        }
    }

    /// All files by name, including the manifest.
    pub async fn read_all(&self) -> Result<BTreeMap<String, Vec<u8>>, JobError> {
        let mut files = BTreeMap::from([(MANIFEST.to_owned(), self.text.clone())]);
        for file in &self.manifest.files {
            files.insert(file.name.clone(), self.read(&file.name).await?);
        }
        Ok(files)
    }
}

/// The bytes of one file of a published result, exactly those that were published.
async fn read_published(store: &Store, manifest_key: &ObjectKey, file: &FileEntry) -> Result<Vec<u8>, JobError> {
    let key = manifest_key.sibling(&file.name)?;
    let (digest, bytes) = sha256(store.get(&key, file.size).await?).await?;
    if hex::encode(digest) == file.sha256 { Ok(bytes) } else { Err(damaged(store.place(&key))) }
}

/// The bytes of several files of a published result, exactly those that were published.
pub async fn read_all_published(
    store: &Store,
    manifest_key: &ObjectKey,
    files: &[FileEntry],
) -> Result<Vec<Vec<u8>>, JobError> {
    let Store::Folder(folder) = store else {
        let mut all = Vec::with_capacity(files.len());
        for file in files {
            all.push(read_published(store, manifest_key, file).await?);
        }
        return Ok(all);
    };
    let wanted =
        |file: &FileEntry| Ok((folder.path(&manifest_key.sibling(&file.name)?), file.size, file.sha256.clone()));
    let wanted = files.iter().map(wanted).collect::<Result<Vec<_>, JobError>>()?;
    // On one thread: each change of threads takes as long as reading a small picture.
    blocking(move || {
        let read = |(path, size, sha256): &(PathBuf, u64, String)| {
            let bytes = read_whole(path, *size)?;
            let is_same = hex::encode(Sha256::digest(&bytes)) == *sha256;
            if is_same { Ok(bytes) } else { Err(damaged(path.display().to_string())) }
        };
        wanted.iter().map(read).collect()
    })
    .await
}

fn damaged(place: String) -> JobError {
    let reason = "does not have the bytes that the manifest names; the store is damaged".to_owned();
    JobError::storage(place, reason)
}
