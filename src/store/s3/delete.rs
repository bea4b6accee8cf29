//! Deletes many objects: a thousand with one request where the server takes that, otherwise several at a time.

use aws_sdk_s3::{
    error::{ProvideErrorMetadata, SdkError},
    operation::delete_objects::DeleteObjectsError,
    types::{Delete, ObjectIdentifier},
};
use futures_util::{StreamExt, stream};
use tracing::debug;

use super::{S3Client, S3Error};

/// The most keys in one request.
const KEYS_AT_ONCE: usize = 1000;
/// How many requests that delete many objects are under way at a time.
const REQUESTS: usize = 4;
/// How many objects are deleted at a time where each needs its own request.
const SINGLE_REQUESTS: usize = 32;

/// Deletes objects of one bucket; missing ones count as deleted. Returns those that are still there, with the reasons.
pub(in crate::store) async fn delete(client: &S3Client, bucket: &str, keys: &[String]) -> Vec<(String, S3Error)> {
    let chunks = keys.chunks(KEYS_AT_ONCE).map(|keys| chunk(client, bucket, keys)).collect::<Vec<_>>();
    stream::iter(chunks).buffer_unordered(REQUESTS).flat_map(stream::iter).collect().await
}

/// Like [`delete`]; the first failure is the error.
pub(super) async fn delete_all(client: &S3Client, bucket: &str, keys: &[String]) -> Result<(), S3Error> {
    match delete(client, bucket, keys).await.into_iter().next() {
        None => Ok(()),
        Some((key, S3Error::Denied(message))) => Err(S3Error::Denied(format!("{key}: {message}"))),
        Some((key, S3Error::Unavailable(message))) => Err(S3Error::Unavailable(format!("{key}: {message}"))),
        Some((_, failure)) => Err(failure),
    }
}

async fn chunk(client: &S3Client, bucket: &str, keys: &[String]) -> Vec<(String, S3Error)> {
    if client.deletes_singly() {
        return singly(client, bucket, keys).await;
    }
    let request = match batch(keys) {
        Ok(request) => request,
        Err(failure) => return all_of(keys, &failure),
    };
    let answer = client.get().await.delete_objects().bucket(bucket).delete(request).send().await;
    let error = match answer {
        Ok(answer) => {
            let kept = answer.errors().iter().filter(|error| error.code() != Some("NoSuchKey"));
            return kept.map(failed).collect();
        }
        Err(error) => error,
    };
    match refusal(&error) {
        Some(refusal) => {
            debug!(server = client.server(), %error, "objects are deleted one by one");
            if refusal == Refusal::Always {
                client.delete_singly();
            }
            singly(client, bucket, keys).await
        }
        None => all_of(keys, &S3Error::of(error)),
    }
}

fn batch(keys: &[String]) -> Result<Delete, S3Error> {
    let refused = |error: aws_sdk_s3::error::BuildError| S3Error::Refused(error.to_string());
    let mut batch = Delete::builder().quiet(true);
    for key in keys {
        batch = batch.objects(ObjectIdentifier::builder().key(key).build().map_err(refused)?);
    }
    batch.build().map_err(refused)
}

fn failed(error: &aws_sdk_s3::types::Error) -> (String, S3Error) {
    let (key, code) = (error.key().unwrap_or("?"), error.code().unwrap_or("?"));
    let message = format!("{code} {}", error.message().unwrap_or_default());
    let failure = if code == "AccessDenied" { S3Error::Denied(message) } else { S3Error::Unavailable(message) };
    (key.to_owned(), failure)
}

/// Whether a server that refuses to delete many objects may delete each of them.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// It does not know such requests.
    Always,
    /// It does not take this one, for instance because a key cannot be written in XML.
    ThisOne,
}

fn refusal(error: &SdkError<DeleteObjectsError>) -> Option<Refusal> {
    match (error.code(), error.raw_response().map(|response| response.status().as_u16())) {
        (Some("NotImplemented" | "MethodNotAllowed"), _) | (_, Some(405 | 501)) => Some(Refusal::Always),
        (_, Some(400 | 411)) => Some(Refusal::ThisOne),
        _ => None,
    }
}

async fn singly(client: &S3Client, bucket: &str, keys: &[String]) -> Vec<(String, S3Error)> {
    let one = |key: &String| {
        let key = key.clone();
        async move {
            let deleted = client.get().await.delete_object().bucket(bucket).key(&key).send().await;
            match deleted.map_err(S3Error::of) {
                Ok(_) | Err(S3Error::NoKey) => None,
                Err(failure) => Some((key, failure)),
            }
        }
    };
    let requests = keys.iter().map(one).collect::<Vec<_>>();
    stream::iter(requests).buffer_unordered(SINGLE_REQUESTS).filter_map(std::future::ready).collect().await
}

fn all_of(keys: &[String], failure: &S3Error) -> Vec<(String, S3Error)> {
    keys.iter().map(|key| (key.clone(), failure.clone())).collect()
}
