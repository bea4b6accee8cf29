//! The store under a prefix of a bucket.

use std::{path::Path, time::Duration};

use aws_sdk_s3::{
    operation::head_object::{HeadObjectOutput, builders::HeadObjectFluentBuilder},
    presigning::PresigningConfig,
    types::ChecksumMode,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;

use super::{
    Checksums, S3Client, S3Error,
    delete::delete_all,
    list, read,
    write::{NewObject, copy, write, write_file},
};
use crate::{
    job::{Epoch, JobError, JobId},
    store::{MANIFEST, ObjectKey, Stored, digest::sha256, location::S3Location},
};

/// What S3 copies in one request, in bytes.
const LARGEST_COPY: u64 = 5 << 30;
const PROBE: &[u8] = b"acetate checks whether it can write, read and delete here";

/// Objects under one prefix.
#[derive(Debug, Clone)]
pub struct S3Store {
    client: S3Client,
    /// Its key is empty or ends with `/`.
    root: S3Location,
}

impl S3Store {
    pub fn new(client: S3Client, root: &S3Location) -> Self {
        Self { client, root: root.as_folder() }
    }

    /// Writes an object. In S3 it is complete or absent, and S3 refuses bytes that do not match the checksum.
    pub async fn put(&self, key: ObjectKey, bytes: Vec<u8>) -> Result<Stored, JobError> {
        let at = self.at(&key);
        let size = bytes.len() as u64;
        let digest = write(&self.client, NewObject { at: &at, bytes, media_type: media_type(&at.key) }).await?;
        Ok(Stored { key, size, sha256: hex::encode(digest) })
    }

    /// Copies an object on the server. None if that has to be done here: it is on another server, or too large for one
    /// request.
    pub(in crate::store) async fn copy(
        &self,
        source: &Self,
        from: &Stored,
        to: &ObjectKey,
    ) -> Result<Option<Stored>, JobError> {
        let (from_at, to_at) = (source.at(&from.key), self.at(to));
        if from.size > LARGEST_COPY || !self.client.are_of_one_server(&from_at.bucket, &to_at.bucket) {
            return Ok(None);
        }
        copy(&self.client, &from_at, &to_at).await.map_err(|failure| self.broken(&from_at, 0, failure))?;
        Ok(Some(Stored { key: to.clone(), ..from.clone() }))
    }

    /// Compares the stored object with what was written: by the server's checksum, or by reading it back if there is
    /// none.
    pub async fn verify(&self, stored: &Stored) -> Result<(), JobError> {
        let at = self.at(&stored.key);
        let differs = |what: &str| {
            let (place, server) = (at.to_string(), self.client.server(&at.bucket));
            JobError::storage(place, format!("{what} differs from what was written; check the store at {server}"))
        };
        let mut request = self.head(&at).await;
        if self.client.settings().checksums == Checksums::Supported {
            request = request.checksum_mode(ChecksumMode::Enabled);
        }
        let head = answer(request).await.map_err(|failure| self.broken(&at, 0, failure))?;
        if head.content_length().and_then(|size| u64::try_from(size).ok()) != Some(stored.size) {
            return Err(differs("its size"));
        }
        // That of an object in parts, `...-3`, is a digest of the parts' digests.
        let kept = match head.checksum_sha256().filter(|checksum| !checksum.contains('-')) {
            // A checksum that is not base64 counts as different.
            Some(checksum) => STANDARD.decode(checksum).unwrap_or_default(),
            None => sha256(self.get(&stored.key, stored.size).await?).await?.0.to_vec(),
        };
        if hex::encode(kept) == stored.sha256 { Ok(()) } else { Err(differs("its SHA-256")) }
    }

    pub async fn get(&self, key: &ObjectKey, cap: u64) -> Result<Vec<u8>, JobError> {
        let at = self.at(key);
        read(&self.client, &at, cap).await.map_err(|failure| self.broken(&at, cap, failure))
    }

    pub async fn exists(&self, key: &ObjectKey) -> Result<bool, JobError> {
        let at = self.at(key);
        match answer(self.head(&at).await).await {
            Ok(_) => Ok(true),
            Err(S3Error::NoKey) => Ok(false),
            Err(failure) => Err(self.broken(&at, 0, failure)),
        }
    }

    /// When an object was written; none if it is not there.
    pub async fn modified(&self, key: &ObjectKey) -> Result<Option<Timestamp>, JobError> {
        let at = self.at(key);
        match answer(self.head(&at).await).await {
            Ok(head) => {
                let time = head.last_modified().and_then(|time| Timestamp::from_second(time.secs()).ok());
                Ok(Some(time.unwrap_or(Timestamp::UNIX_EPOCH)))
            }
            Err(S3Error::NoKey) => Ok(None),
            Err(failure) => Err(self.broken(&at, 0, failure)),
        }
    }

    /// The names of the objects under a folder that were written before a time.
    pub(in crate::store) async fn older(&self, folder: &str, before: Timestamp) -> Result<Vec<String>, JobError> {
        let folder = self.root.join(&format!("{folder}/"));
        let (mut names, mut from) = (Vec::new(), None);
        loop {
            let page = list::list_page(&self.client, &folder, from.as_deref()).await;
            let page = page.map_err(|failure| self.broken(&folder, 0, failure))?;
            let old = page.objects.into_iter().filter(|object| object.modified.is_some_and(|at| at < before));
            names.extend(old.filter_map(|object| Some(object.location.key.strip_prefix(&folder.key)?.to_owned())));
            from = page.next;
            if from.is_none() {
                return Ok(names);
            }
        }
    }

    /// Deletes objects; missing ones count as deleted.
    pub(in crate::store) async fn delete(&self, keys: &[ObjectKey]) -> Result<(), JobError> {
        let keys: Vec<_> = keys.iter().map(|key| self.at(key).key).collect();
        let deleted = delete_all(&self.client, &self.root.bucket, &keys).await;
        deleted.map_err(|failure| self.broken(&self.root, 0, failure))
    }

    /// Deletes the objects of some of a job's attempts, and returns their number.
    pub async fn delete_epochs(&self, job: JobId, wanted: impl Fn(Epoch) -> bool) -> Result<u64, JobError> {
        let keys = self.keys_of(job, wanted).await?;
        let deleted = delete_all(&self.client, &self.root.bucket, &keys).await;
        deleted.map_err(|failure| self.broken(&self.folder_of(job), 0, failure))?;
        Ok(keys.len() as u64)
    }

    /// The keys of the objects of a job's attempts that are wanted.
    pub(in crate::store) async fn keys_of(
        &self,
        job: JobId,
        wanted: impl Fn(Epoch) -> bool,
    ) -> Result<Vec<String>, JobError> {
        let folder = self.folder_of(job);
        let epoch_of = |key: &str| key.strip_prefix(&folder.key)?.split('/').next()?.parse().ok().map(Epoch);
        let (mut keys, mut from) = (Vec::new(), None);
        loop {
            let page = list::list_page(&self.client, &folder, from.as_deref()).await;
            let page = page.map_err(|failure| self.broken(&folder, 0, failure))?;
            let found = page.objects.into_iter().map(|object| object.location.key);
            keys.extend(found.filter(|key| epoch_of(key).is_some_and(&wanted)));
            from = page.next;
            if from.is_none() {
                return Ok(keys);
            }
        }
    }

    /// The attempts of a job that have a manifest.
    pub async fn manifests(&self, job: JobId) -> Result<Vec<Epoch>, JobError> {
        let folder = self.folder_of(job).key;
        let epoch = |key: &String| key.strip_prefix(&folder)?.strip_suffix(MANIFEST)?.strip_suffix('/')?.parse().ok();
        Ok(self.keys_of(job, |_| true).await?.iter().filter_map(epoch).map(Epoch).collect())
    }

    fn folder_of(&self, job: JobId) -> S3Location {
        self.root.join(&format!("{job}/"))
    }

    /// Writes an object, reads it back and deletes it.
    pub async fn check(&self) -> Result<(), JobError> {
        let at = self.root.join(&format!(".acetate-check/{}", uuid::Uuid::now_v7()));
        let broken = |failure| self.broken(&self.root, PROBE.len() as u64, failure);
        write(&self.client, NewObject { at: &at, bytes: PROBE.to_vec(), media_type: "text/plain" }).await?;
        let read = read(&self.client, &at, PROBE.len() as u64).await;
        delete_all(&self.client, &at.bucket, std::slice::from_ref(&at.key)).await.map_err(broken)?;
        if read.map_err(broken)? == PROBE {
            return Ok(());
        }
        let reason =
            format!("the bytes read differ from those written; check the store at {}", self.client.server(&at.bucket));
        Err(JobError::storage(at.to_string(), reason))
    }

    /// A temporary address with which anyone can read the object.
    pub async fn presigned(&self, key: &ObjectKey, lasts: Duration) -> Result<String, JobError> {
        let at = self.at(key);
        let failed = |reason: String| JobError::storage(at.to_string(), reason);
        let config = PresigningConfig::expires_in(lasts).map_err(|error| failed(error.to_string()))?;
        let request = self.client.of(&at.bucket).await.get_object().bucket(&at.bucket).key(&at.key);
        let request = request.set_request_payer(self.client.payer(&at.bucket)).presigned(config).await;
        Ok(request.map_err(|error| self.broken(&at, 0, S3Error::of(error)))?.uri().to_owned())
    }

    pub fn root(&self) -> &S3Location {
        &self.root
    }

    pub fn at(&self, key: &ObjectKey) -> S3Location {
        self.root.join(key.as_str())
    }

    async fn head(&self, at: &S3Location) -> HeadObjectFluentBuilder {
        let request = self.client.of(&at.bucket).await.head_object().bucket(&at.bucket).key(&at.key);
        request.set_request_payer(self.client.payer(&at.bucket))
    }

    fn broken(&self, at: &S3Location, cap: u64, failure: S3Error) -> JobError {
        failure.for_object(&at.to_string(), cap, &self.client)
    }
}

/// A page for people answers 200 to everything.
async fn answer(request: HeadObjectFluentBuilder) -> Result<HeadObjectOutput, S3Error> {
    let head = request.send().await.map_err(S3Error::of)?;
    if head.e_tag().is_none() && head.content_type().is_some_and(|kind| kind.starts_with("text/html")) {
        return Err(S3Error::NotS3("it answers 200 with a page for people".to_owned()));
    }
    Ok(head)
}

/// Writes an object, whatever its key.
pub(in crate::store) async fn put(client: &S3Client, at: &S3Location, bytes: Vec<u8>) -> Result<(), JobError> {
    write(client, NewObject { at, bytes, media_type: media_type(&at.key) }).await.map(drop)
}

/// Writes the object of a local file.
pub(in crate::store) async fn put_file(client: &S3Client, at: &S3Location, path: &Path) -> Result<(), JobError> {
    write_file(client, at, path, media_type(&at.key)).await
}

fn media_type(key: &str) -> &'static str {
    match key.rsplit_once('.').map(|(_, extension)| extension) {
        Some("png") => "image/png",
        Some("json") => "application/json",
        Some("tar") => "application/x-tar",
        Some("parquet") => "application/vnd.apache.parquet",
        Some(_) | None => "application/octet-stream",
    }
}
