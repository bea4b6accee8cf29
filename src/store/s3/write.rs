//! Writes an object: in one request, or in parts if it is large.

use std::{
    error::Error,
    fs::File,
    io::{Read, Seek, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
};

use aws_sdk_s3::{
    Client,
    config::Config,
    error::{ProvideErrorMetadata, SdkError},
    operation::RequestId,
    primitives::ByteStream,
    types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, ServerSideEncryption},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::{StreamExt, TryStreamExt, stream};
use hyper::body::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};
use tracing::warn;

use super::{Checksums, S3Client, S3Error, settings::Encryption};
use crate::{
    job::JobError,
    store::{
        blocking::blocking,
        digest::{hashing, sha256},
        errors::io_error,
        location::S3Location,
    },
};

/// S3 takes parts of 5 MiB or more, and at most 10,000 of them.
const LEAST_PART: usize = 8 << 20;
const MOST_PARTS: usize = 10_000;
/// How many parts are sent at a time.
const PARTS_AT_A_TIME: usize = 4;

/// An object to write.
pub(super) struct NewObject<'a> {
    pub at: &'a S3Location,
    pub bytes: Vec<u8>,
    pub media_type: &'a str,
}

/// Gives the SHA-256 of what was written. The object is complete or absent.
pub(super) async fn write(client: &S3Client, object: NewObject<'_>) -> Result<[u8; 32], JobError> {
    let NewObject { at, bytes, media_type } = object;
    let (digest, bytes) = sha256(bytes).await?;
    let bytes = Bytes::from(bytes);
    let upload = Upload {
        client,
        sdk: client.of(&at.bucket).await,
        at,
        media_type,
        digest: hex::encode(digest),
        has_checksums: client.settings().checksums == Checksums::Supported,
    };
    let written = if bytes.len() as u64 > client.settings().multipart_above {
        upload.in_parts(&UploadSource::Memory(bytes)).await
    } else {
        upload.whole(bytes, digest).await
    };
    match written {
        Ok(()) => Ok(digest),
        Err(error) => Err(error.for_written(&at.to_string(), client)),
    }
}

/// Writes the object of a local file. Only some parts of a large one are in memory.
pub(super) async fn write_file(client: &S3Client, at: &S3Location, path: &Path, media: &str) -> Result<(), JobError> {
    let file = path.to_owned();
    let (digest, size) = blocking(move || digest_of(&file).map_err(|error| io_error(&file, "read", error))).await?;
    if size as u64 <= client.settings().multipart_above {
        let bytes = UploadSource::File(path.to_owned(), size).part(0..size).await;
        let bytes = bytes.map_err(|error| error.for_written(&at.to_string(), client))?.to_vec();
        return write(client, NewObject { at, bytes, media_type: media }).await.map(drop);
    }
    let upload = Upload {
        client,
        sdk: client.of(&at.bucket).await,
        at,
        media_type: media,
        digest,
        has_checksums: client.settings().checksums == Checksums::Supported,
    };
    let sent = upload.in_parts(&UploadSource::File(path.to_owned(), size)).await;
    sent.map_err(|error| error.for_written(&at.to_string(), client))
}

/// Copies an object with its type and metadata; the copy gets a checksum of its own.
pub(super) async fn copy(client: &S3Client, from: &S3Location, to: &S3Location) -> Result<(), S3Error> {
    /// What a key may have unescaped in the header.
    const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');
    let (algorithm, key) = encryption(client);
    let has_checksums = client.settings().checksums == Checksums::Supported;
    let source = format!("{}/{}", from.bucket, utf8_percent_encode(&from.key, PLAIN));
    let request = client
        .of(&to.bucket)
        .await
        .copy_object()
        .copy_source(source)
        .bucket(&to.bucket)
        .key(&to.key)
        .set_server_side_encryption(algorithm)
        .set_ssekms_key_id(key)
        .set_request_payer(client.payer(&from.bucket).or(client.payer(&to.bucket)))
        .set_checksum_algorithm(has_checksums.then_some(ChecksumAlgorithm::Sha256));
    request.send().await.map_err(S3Error::of).map(drop)
}

/// The SHA-256 of a file, hexadecimal, and its size.
fn digest_of(path: &Path) -> std::io::Result<(String, usize)> {
    let (mut file, mut hash, mut size) = (File::open(path)?, Sha256::new(), 0);
    let mut block = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut block)?;
        if read == 0 {
            return Ok((hex::encode(hash.finalize()), size));
        }
        hash.update(&block[..read]);
        size += read;
    }
}

/// What is sent in parts.
enum UploadSource {
    Memory(Bytes),
    /// A file, and its size.
    File(PathBuf, usize),
}

impl UploadSource {
    fn len(&self) -> usize {
        match self {
            Self::Memory(bytes) => bytes.len(),
            Self::File(_, size) => *size,
        }
    }

    async fn part(&self, range: Range<usize>) -> Result<Bytes, S3Error> {
        let path = match self {
            Self::Memory(bytes) => return Ok(bytes.slice(range)),
            Self::File(path, _) => path.clone(),
        };
        let read = move || {
            let failed = |error: std::io::Error| io_error(&path, "read", error);
            let mut file = File::open(&path).map_err(failed)?;
            file.seek(SeekFrom::Start(range.start as u64)).map_err(failed)?;
            let mut bytes = vec![0; range.len()];
            file.read_exact(&mut bytes).map_err(failed)?;
            Ok(Bytes::from(bytes))
        };
        blocking(read).await.map_err(|error| S3Error::Refused(error.to_string()))
    }
}

struct Upload<'a> {
    client: &'a S3Client,
    sdk: &'a Client,
    at: &'a S3Location,
    media_type: &'a str,
    /// Hexadecimal.
    digest: String,
    has_checksums: bool,
}

impl Upload<'_> {
    async fn whole(&self, bytes: Bytes, digest: [u8; 32]) -> Result<(), S3Error> {
        let (algorithm, key) = encryption(self.client);
        let size = bytes.len();
        let request = self
            .sdk
            .put_object()
            .bucket(&self.at.bucket)
            .key(&self.at.key)
            .content_type(self.media_type)
            .metadata("sha256", &self.digest)
            .set_server_side_encryption(algorithm)
            .set_ssekms_key_id(key)
            .set_request_payer(self.client.payer(&self.at.bucket))
            .set_checksum_sha256(self.has_checksums.then(|| STANDARD.encode(digest)))
            .body(ByteStream::from(bytes))
            .customize()
            .config_override(self.timeouts(size));
        let answer = sent(size, request.send()).await?;
        // A hotel's sign-in page, or a web server, answers 200 to everything. Stores tell at least one of the two.
        if answer.e_tag().is_none() && answer.request_id().is_none() {
            return Err(S3Error::NotS3("it answers 200 without an ETag, as no store does".to_owned()));
        }
        Ok(())
    }

    async fn in_parts(&self, content: &UploadSource) -> Result<(), S3Error> {
        let (algorithm, key) = encryption(self.client);
        let begun = self
            .sdk
            .create_multipart_upload()
            .bucket(&self.at.bucket)
            .key(&self.at.key)
            .content_type(self.media_type)
            .metadata("sha256", &self.digest)
            .set_server_side_encryption(algorithm)
            .set_ssekms_key_id(key)
            .set_request_payer(self.client.payer(&self.at.bucket))
            .set_checksum_algorithm(self.has_checksums.then_some(ChecksumAlgorithm::Sha256))
            .send()
            .await
            .map_err(S3Error::of)?;
        let Some(id) = begun.upload_id() else {
            return Err(S3Error::Refused("it begins a multipart upload without an id".to_owned()));
        };
        let sent = self.parts(id, content).await;
        if sent.is_err() {
            // Its parts would be paid for until they are deleted.
            self.abort(id).await;
        }
        sent
    }

    async fn parts(&self, id: &str, content: &UploadSource) -> Result<(), S3Error> {
        let parts = ranges(content.len()).into_iter().enumerate().map(|(index, range)| {
            let number = i32::try_from(index + 1).unwrap_or(i32::MAX);
            self.part(id, number, content, range)
        });
        // Collected first, because the iterator's borrows cannot live in a stream that is sent between threads.
        let parts: Vec<_> = parts.collect();
        let parts: Vec<CompletedPart> = stream::iter(parts).buffered(PARTS_AT_A_TIME).try_collect().await?;
        self.sdk
            .complete_multipart_upload()
            .bucket(&self.at.bucket)
            .key(&self.at.key)
            .upload_id(id)
            .set_request_payer(self.client.payer(&self.at.bucket))
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build())
            .send()
            .await
            .map_err(S3Error::of)
            .map(drop)
    }

    async fn part(
        &self,
        id: &str,
        number: i32,
        content: &UploadSource,
        range: Range<usize>,
    ) -> Result<CompletedPart, S3Error> {
        let bytes = content.part(range).await?;
        let size = bytes.len();
        let checksum = match self.has_checksums {
            true => {
                let (digest, _) = sha256(bytes.clone()).await.map_err(|error| S3Error::Refused(error.to_string()))?;
                Some(STANDARD.encode(digest))
            }
            false => None,
        };
        let request = self
            .sdk
            .upload_part()
            .bucket(&self.at.bucket)
            .key(&self.at.key)
            .upload_id(id)
            .part_number(number)
            .set_request_payer(self.client.payer(&self.at.bucket))
            .set_checksum_sha256(checksum.clone())
            .body(ByteStream::from(bytes))
            .customize()
            .config_override(self.timeouts(size));
        let answer = sent(size, request.send()).await?;
        if answer.e_tag().is_none() {
            return Err(S3Error::NotS3("it answers 200 to a part, without an ETag, as no store does".to_owned()));
        }
        let part = CompletedPart::builder().part_number(number).set_e_tag(answer.e_tag().map(str::to_owned));
        Ok(part.set_checksum_sha256(checksum).build())
    }

    async fn abort(&self, id: &str) {
        let aborted = self
            .sdk
            .abort_multipart_upload()
            .bucket(&self.at.bucket)
            .key(&self.at.key)
            .upload_id(id)
            .set_request_payer(self.client.payer(&self.at.bucket))
            .send()
            .await;
        if let Err(error) = aborted {
            warn!(at = %self.at, error = ?S3Error::of(error), "the parts of an upload that failed could not be deleted");
        }
    }

    fn timeouts(&self, bytes: usize) -> aws_sdk_s3::config::Builder {
        Config::builder().timeout_config(self.client.upload_timeouts(bytes))
    }
}

/// How new objects are encrypted, and with which key.
fn encryption(client: &S3Client) -> (Option<ServerSideEncryption>, Option<String>) {
    match &client.settings().encryption {
        Some(Encryption { algorithm, kms_key_id }) => {
            (Some(ServerSideEncryption::from(algorithm.as_str())), kms_key_id.clone())
        }
        None => (None, None),
    }
}

/// Sends a request with `size` bytes, which are hashed once more when it is signed.
async fn sent<T, E>(
    size: usize,
    request: impl Future<Output = Result<T, SdkError<E>>> + Send + 'static,
) -> Result<T, S3Error>
where
    T: Send + 'static,
    E: ProvideErrorMetadata + Error + Send + 'static,
{
    let answered = hashing(size, request).await.map_err(|error| S3Error::Refused(error.to_string()))?;
    answered.map_err(S3Error::of)
}

/// The parts of an object, each of the same size but the last.
fn ranges(bytes: usize) -> Vec<Range<usize>> {
    let part = LEAST_PART.max(bytes.div_ceil(MOST_PARTS));
    (0..bytes).step_by(part).map(|start| start..(start + part).min(bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_object_and_are_not_too_many() {
        for bytes in [LEAST_PART + 1, 3 * LEAST_PART, 100 << 30] {
            let parts = ranges(bytes);
            assert!(parts.len() <= MOST_PARTS && parts.len() >= 2, "{bytes}: {}", parts.len());
            assert_eq!((parts[0].start, parts[parts.len() - 1].end), (0, bytes));
            assert!(parts.windows(2).all(|two| two[0].end == two[1].start && two[0].len() >= LEAST_PART));
        }
    }
}
