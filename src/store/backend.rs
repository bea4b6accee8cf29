//! One interface for both stores.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use tracing::debug;

use super::{FolderStore, ObjectKey, S3Store, Stored, digest::sha256, file_url};
use crate::job::{Epoch, JobError, JobId};

/// An upload that is older is written again when it is uploaded again.
const REFRESH: SignedDuration = SignedDuration::from_hours(1);

/// Objects below one root: a folder, or a prefix of a bucket. Clones share connections.
#[derive(Debug, Clone)]
pub enum Store {
    Folder(FolderStore),
    S3(S3Store),
}

impl Store {
    /// Writes an object whole or not at all.
    pub async fn put(&self, key: ObjectKey, bytes: Vec<u8>) -> Result<Stored, JobError> {
        match self {
            Self::Folder(store) => store.put(key, bytes).await,
            Self::S3(store) => store.put(key, bytes).await,
        }
    }

    /// Copies an object, perhaps of another store, as it was written; the caller verifies the copy. S3 copies within
    /// one server by itself.
    pub async fn copy(&self, source: &Self, from: &Stored, to: ObjectKey) -> Result<Stored, JobError> {
        if let (Self::S3(source), Self::S3(store)) = (source, self) {
            match store.copy(source, from, &to).await {
                Ok(Some(copied)) => return Ok(copied),
                Ok(None) => {}
                // Not every server can do it.
                Err(error) => debug!(%error, "the server did not copy an object; it is read and written"),
            }
        }
        let copied = self.put(to, source.get(&from.key, from.size).await?).await?;
        if copied.sha256 == from.sha256 {
            return Ok(copied);
        }
        let reason = "does not have the bytes that its manifest names; the store is damaged";
        Err(JobError::storage(source.place(&from.key), reason))
    }

    /// Stores a picture that jobs can then use as an input; its key is the same for the same bytes. An upload that is
    /// there already is written again now and then, so that it is as new as its last use and not deleted as an old one.
    pub async fn put_input(&self, ending: &str, bytes: Vec<u8>) -> Result<ObjectKey, JobError> {
        let (digest, bytes) = sha256(bytes).await?;
        let key = ObjectKey::input(&hex::encode(digest), ending)?;
        let fresh = Timestamp::now() - REFRESH;
        if self.modified(&key).await?.is_none_or(|modified| modified < fresh) {
            self.put(key.clone(), bytes).await?;
        }
        Ok(key)
    }

    /// Like [`Store::put_input`] for several pictures, with their endings.
    ///
    /// # Errors
    /// For each picture its own; of all, if nothing could be done.
    pub async fn put_inputs(&self, pictures: Vec<(&str, Vec<u8>)>) -> Result<Vec<Result<(), JobError>>, JobError> {
        const AT_A_TIME: usize = 8;
        let Self::Folder(folder) = self else {
            let puts = pictures.into_iter().map(|(ending, bytes)| self.put_input(ending, bytes));
            return Ok(stream::iter(puts).buffered(AT_A_TIME).map(|put| put.map(drop)).collect().await);
        };
        let fresh = Timestamp::now() - REFRESH;
        let mut results = vec![Ok(()); pictures.len()];
        let (mut missing, mut places) = (Vec::new(), Vec::new());
        for (index, (ending, bytes)) in pictures.into_iter().enumerate() {
            let (digest, bytes) = sha256(bytes).await?;
            let key = ObjectKey::input(&hex::encode(digest), ending)?;
            if self.modified(&key).await?.is_none_or(|modified| modified < fresh) {
                missing.push((key, bytes));
                places.push(index);
            }
        }
        for (index, put) in places.into_iter().zip(folder.put_all(missing).await?) {
            results[index] = put;
        }
        Ok(results)
    }

    /// When an object was written; none if it is not there.
    pub async fn modified(&self, key: &ObjectKey) -> Result<Option<Timestamp>, JobError> {
        match self {
            Self::Folder(store) => store.modified(key).await,
            Self::S3(store) => store.modified(key).await,
        }
    }

    /// Verifies that the store has what was written.
    pub async fn verify(&self, stored: &Stored) -> Result<(), JobError> {
        match self {
            Self::Folder(store) => store.verify(stored).await,
            Self::S3(store) => store.verify(stored).await,
        }
    }

    /// Reads an object of at most `cap` bytes.
    pub async fn get(&self, key: &ObjectKey, cap: u64) -> Result<Vec<u8>, JobError> {
        match self {
            Self::Folder(store) => store.get(key, cap).await,
            Self::S3(store) => store.get(key, cap).await,
        }
    }

    pub async fn exists(&self, key: &ObjectKey) -> Result<bool, JobError> {
        match self {
            Self::Folder(store) => store.exists(key).await,
            Self::S3(store) => store.exists(key).await,
        }
    }

    /// Deletes the objects of some of a job's attempts, and returns their number. Objects that this job did not write
    /// are left alone.
    pub async fn delete_epochs(
        &self,
        job: JobId,
        wanted: impl Fn(Epoch) -> bool + Send + 'static,
    ) -> Result<u64, JobError> {
        match self {
            Self::Folder(store) => store.delete_epochs(job, wanted).await,
            Self::S3(store) => store.delete_epochs(job, wanted).await,
        }
    }

    /// The latest attempt of a job that has a manifest, so that its result is complete.
    pub async fn latest_manifest(&self, job: JobId) -> Result<Option<Epoch>, JobError> {
        let epochs = match self {
            Self::Folder(store) => store.manifests(job).await?,
            Self::S3(store) => store.manifests(job).await?,
        };
        Ok(epochs.into_iter().max())
    }

    /// Checks that objects can be written, read and deleted, by doing it.
    pub async fn check(&self) -> Result<(), JobError> {
        match self {
            Self::Folder(store) => store.check().await,
            Self::S3(store) => store.check().await,
        }
    }

    /// As [`Store::check`], without making a folder; false: it does not exist yet, and can be made.
    pub async fn inspect(&self) -> Result<bool, JobError> {
        match self {
            Self::Folder(store) => store.inspect().await,
            Self::S3(store) => store.check().await.map(|()| true),
        }
    }

    /// A temporary address with which anyone can read an object; a folder has none.
    pub async fn presigned(&self, key: &ObjectKey, lasts: Duration) -> Result<Option<String>, JobError> {
        match self {
            Self::Folder(_) => Ok(None),
            Self::S3(store) => store.presigned(key, lasts).await.map(Some),
        }
    }

    /// The address of an object.
    pub fn url(&self, key: &ObjectKey) -> String {
        match self {
            Self::Folder(store) => store.url(key),
            Self::S3(store) => store.at(key).to_string(),
        }
    }

    /// The address of the root, with a `/` at its end.
    pub fn root_url(&self) -> String {
        match self {
            Self::Folder(store) => format!("{}/", file_url(store.root()).trim_end_matches('/')),
            Self::S3(store) => store.root().to_string(),
        }
    }

    /// Where an object is, for people: a path, or an address.
    pub fn place(&self, key: &ObjectKey) -> String {
        match self {
            Self::Folder(store) => store.path(key).display().to_string(),
            Self::S3(store) => store.at(key).to_string(),
        }
    }
}
