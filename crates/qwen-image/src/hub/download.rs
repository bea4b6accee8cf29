//! One file from the hub into the cache: lock, resume, hash, rename.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::cache::{RepoCache, create_parent};
use super::event::{DownloadEvent, Events, emit};
use super::hash::Hasher;
use super::http::{Client, Piece, ResponseBody, TransferError, encode_part, encode_path, pause};
use super::listing::{RemoteFile, RepoListing};
use super::reference::{dataset, is_commit};
use super::retry::TransferBackoff;
use super::{HubError, Retry};

/// The maximum size of a list of files; the longest on the hub are a few megabytes.
const MAX_LISTING: usize = 64 * 1024 * 1024;
const READ_BACK: usize = 1024 * 1024;

/// A download and its total progress.
pub(super) struct Download<'a> {
    pub client: &'a Client,
    pub cache: &'a RepoCache,
    pub id: &'a str,
    pub revision: &'a str,
    pub retry: Retry,
    /// The bytes of the plan that are on disk.
    pub done: u64,
}

/// An attempt that ended before the file was complete.
enum DownloadFault {
    Failed(TransferError),
    /// The bytes do not match the listing, so they cannot be resumed.
    Wrong {
        expected: String,
        actual: String,
    },
    Stop(HubError),
}

impl From<HubError> for DownloadFault {
    fn from(error: HubError) -> Self {
        Self::Stop(error)
    }
}

impl Download<'_> {
    /// Requests the commit of the revision, and its files.
    pub fn listing(&self, events: &mut Events<'_>) -> Result<RepoListing, HubError> {
        let models = if dataset(self.id).is_some() { "" } else { "models/" };
        let path = format!("api/{models}{}/revision/{}?blobs=true", self.id, encode_part(self.revision));
        let mut backoff = TransferBackoff::new(self.retry);
        let mut unanswered = 0;
        loop {
            match read_whole(&self.client.get(&path, 0), events)? {
                Ok(json) => return self.read_listing(&json),
                // A misspelled folder looks like a hub id, and the user should not have to wait minutes for the error.
                Err(TransferError::Unreachable { reason }) if unanswered + 1 >= self.retry.first_attempts => {
                    return Err(HubError::Unreachable { id: self.id.to_owned(), reason });
                }
                Err(failure) => {
                    unanswered = if matches!(failure, TransferError::Unreachable { .. }) { unanswered + 1 } else { 0 };
                    self.wait(&mut backoff, failure, 0, "the list of files", events)?;
                }
            }
        }
    }

    fn read_listing(&self, json: &[u8]) -> Result<RepoListing, HubError> {
        let refuse = |reason| HubError::Listing { id: self.id.to_owned(), reason };
        let listing = RepoListing::from_api(json).map_err(refuse)?;
        if is_commit(self.revision) && listing.commit != self.revision {
            return Err(refuse(format!("it is for commit {}, not {}", listing.commit, self.revision)));
        }
        Ok(listing)
    }

    /// Downloads one blob if it is missing. If another process is downloading it, this waits. `counted` is the part
    /// that the plan found on disk.
    pub fn file(
        &mut self,
        commit: &str,
        file: &RemoteFile,
        counted: u64,
        events: &mut Events<'_>,
    ) -> Result<(), HubError> {
        let _lock = self.lock(file, events)?;
        // From here on, this file counts its actual bytes.
        self.done -= counted;
        if self.cache.has_blob(file)? {
            // Another process finished it while we waited for the lock.
            self.done += file.size;
            return emit(events, DownloadEvent::Verified { file: file.path.clone() });
        }
        let partial = self.cache.partial(&file.hash);
        create_parent(&partial)?;
        let present = fs::metadata(&partial).map_or(0, |meta| meta.len());
        emit(events, DownloadEvent::Started { file: file.path.clone(), bytes: file.size, present })?;
        let mut second_try = false;
        loop {
            match self.fill(commit, file, &partial, events) {
                Ok(()) => break,
                Err(DownloadFault::Stop(error)) => return Err(error),
                Err(DownloadFault::Failed(failure)) => return Err(self.give_up(failure, &file.path)),
                Err(DownloadFault::Wrong { expected, actual }) => {
                    fs::remove_file(&partial).map_err(HubError::io(&partial))?;
                    if second_try {
                        let (id, file) = (self.id.to_owned(), file.path.clone());
                        return Err(HubError::Checksum { id, file, expected, actual });
                    }
                    second_try = true;
                    let reason = format!("wrong content: expected {expected}, got {actual}");
                    let wait = self.retry.first_wait;
                    emit(events, DownloadEvent::Retrying { file: file.path.clone(), reason, wait })?;
                    pause(wait, events)?;
                }
            }
        }
        let blob = self.cache.blob(&file.hash);
        fs::rename(&partial, &blob).map_err(HubError::io(&blob))?;
        self.done += file.size;
        emit(events, DownloadEvent::Verified { file: file.path.clone() })
    }

    fn lock(&self, file: &RemoteFile, events: &mut Events<'_>) -> Result<File, HubError> {
        let mut told = false;
        loop {
            if let Some(lock) = self.cache.try_lock(&file.hash)? {
                return Ok(lock);
            }
            if !told {
                emit(events, DownloadEvent::Locked { file: file.path.clone() })?;
                told = true;
            }
            pause(std::time::Duration::from_millis(50), events)?;
        }
    }

    /// Completes the partial file and checks its hash.
    fn fill(
        &self,
        commit: &str,
        file: &RemoteFile,
        partial: &Path,
        events: &mut Events<'_>,
    ) -> Result<(), DownloadFault> {
        let mut target = PartialFile::open(partial, file, events)?;
        let url = format!("{}/resolve/{commit}/{}", self.id, encode_path(&file.path));
        let mut backoff = TransferBackoff::new(self.retry);
        while target.length < file.size {
            let before = target.length;
            let stream = self.client.get(&url, before);
            match self.receive(&stream, &mut target, events) {
                Ok(()) => {}
                Err(DownloadFault::Failed(failure)) => {
                    let failure = match failure {
                        TransferError::Missing => {
                            TransferError::Final { reason: "the hub lists it but does not have it".to_owned() }
                        }
                        TransferError::Range => {
                            target.restart()?;
                            failure
                        }
                        _ => failure,
                    };
                    let brought = target.length.saturating_sub(before);
                    self.wait(&mut backoff, failure, brought, &file.path, events)?;
                }
                Err(other) => return Err(other),
            }
        }
        target.finish()
    }

    /// Writes one response to the file, until it ends or is interrupted.
    fn receive(
        &self,
        stream: &ResponseBody,
        target: &mut PartialFile<'_>,
        events: &mut Events<'_>,
    ) -> Result<(), DownloadFault> {
        let size = target.file.size;
        loop {
            match stream.next(events)?.map_err(DownloadFault::Failed)? {
                Piece::Head(head) => {
                    if let Some(total) = head.total.filter(|&total| total != size) {
                        return Err(wrong_size(size, total));
                    }
                    if head.start != target.length {
                        target.restart()?;
                    }
                }
                Piece::Bytes(bytes) => {
                    if target.length + bytes.len() as u64 > size {
                        return Err(wrong_size(size, target.length + bytes.len() as u64));
                    }
                    target.write(&bytes)?;
                    let file_bytes = target.length;
                    let file = target.file.path.clone();
                    emit(events, DownloadEvent::Progressed { file, file_bytes, bytes: self.done + file_bytes })?;
                }
                Piece::End if target.length == size => return Ok(()),
                Piece::End => {
                    let reason = format!("the response ended after {} of {size} bytes", target.length);
                    return Err(DownloadFault::Failed(TransferError::Passing { reason, after: None }));
                }
            }
        }
    }

    /// Waits before the next attempt, or returns that there is none.
    fn wait(
        &self,
        backoff: &mut TransferBackoff,
        failure: TransferError,
        brought: u64,
        what: &str,
        events: &mut Events<'_>,
    ) -> Result<(), HubError> {
        let (reason, after) = match &failure {
            TransferError::Passing { reason, after } => (reason.clone(), *after),
            TransferError::Unreachable { reason } => (reason.clone(), None),
            TransferError::Range => ("the server cannot send this range of the file".to_owned(), None),
            _ => return Err(self.give_up(failure, what)),
        };
        let Some(wait) = backoff.next_wait(brought, after) else {
            return Err(self.give_up(failure, what));
        };
        emit(events, DownloadEvent::Retrying { file: what.to_owned(), reason, wait })?;
        pause(wait, events)
    }

    fn give_up(&self, failure: TransferError, what: &str) -> HubError {
        let (id, endpoint) = (self.id.to_owned(), self.client.endpoint().to_owned());
        match failure {
            TransferError::Forbidden { reason } => HubError::Unauthorized { id, endpoint, reason },
            TransferError::Missing => HubError::NotFound { id, revision: self.revision.to_owned(), endpoint },
            TransferError::Passing { reason, after: Some(after) } => HubError::Network {
                id,
                reason: format!("{what}: {reason}; the server asks to wait {} s", after.as_secs()),
            },
            TransferError::Passing { reason, after: None }
            | TransferError::Unreachable { reason }
            | TransferError::Final { reason } => HubError::Network { id, reason: format!("{what}: {reason}") },
            TransferError::Range => {
                HubError::Network { id, reason: format!("{what}: the server cannot send this range") }
            }
        }
    }
}

/// The partial file and the hash of what is in it.
struct PartialFile<'a> {
    file: &'a RemoteFile,
    path: &'a Path,
    disk: File,
    hasher: Hasher,
    length: u64,
}

impl<'a> PartialFile<'a> {
    /// Opens and hashes the partial file of an earlier attempt, or creates an empty one.
    fn open(path: &'a Path, file: &'a RemoteFile, events: &mut Events<'_>) -> Result<Self, HubError> {
        let open = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let disk = open.map_err(HubError::io(path))?;
        let mut target = Self { file, path, disk, hasher: file.hash.hasher(file.size), length: 0 };
        if target.disk.metadata().map_err(HubError::io(path))?.len() > file.size {
            target.restart()?;
        }
        let mut piece = vec![0; READ_BACK];
        loop {
            match target.disk.read(&mut piece).map_err(HubError::io(path))? {
                0 => return Ok(target),
                length => {
                    target.hasher.update(&piece[..length]);
                    target.length += length as u64;
                }
            }
            emit(events, DownloadEvent::Waiting)?;
        }
    }

    /// Writes at the known position: if a lock does not work, two writers write the same bytes to the same place.
    fn write(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        let at = SeekFrom::Start(self.length);
        self.disk.seek(at).and_then(|_| self.disk.write_all(bytes)).map_err(HubError::io(self.path))?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> Result<(), HubError> {
        self.disk.set_len(0).and_then(|()| self.disk.rewind()).map_err(HubError::io(self.path))?;
        self.hasher = self.file.hash.hasher(self.file.size);
        self.length = 0;
        Ok(())
    }

    fn finish(self) -> Result<(), DownloadFault> {
        let actual = self.hasher.finish();
        let expected = self.file.hash.as_str();
        if actual != expected {
            return Err(DownloadFault::Wrong { expected: expected.to_owned(), actual });
        }
        // The content must be on disk before the name that means "complete".
        Ok(self.disk.sync_data().map_err(HubError::io(self.path))?)
    }
}

fn wrong_size(expected: u64, actual: u64) -> DownloadFault {
    DownloadFault::Wrong { expected: format!("{expected} bytes"), actual: format!("{actual} bytes") }
}

fn read_whole(stream: &ResponseBody, events: &mut Events<'_>) -> Result<Result<Vec<u8>, TransferError>, HubError> {
    let mut whole = Vec::new();
    loop {
        match stream.next(events)? {
            Ok(Piece::Head(_)) => {}
            Ok(Piece::Bytes(bytes)) if whole.len() + bytes.len() > MAX_LISTING => {
                return Ok(Err(TransferError::Final { reason: format!("longer than {MAX_LISTING} bytes") }));
            }
            Ok(Piece::Bytes(bytes)) => whole.extend_from_slice(&bytes),
            Ok(Piece::End) => return Ok(Ok(whole)),
            Err(failure) => return Ok(Err(failure)),
        }
    }
}
