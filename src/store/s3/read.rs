//! Reads an object under a cap and a deadline, and resumes after failures.

use std::time::Duration;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use backon::BackoffBuilder;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::debug;

use super::{S3Client, S3Error, failure::chain};
use crate::{retry::exponential, store::location::S3Location};

/// A body must deliver this many bytes within each read timeout; a slower one counts as silent.
const LEAST_PROGRESS: u64 = 512 << 10;
/// How often in a row a body may be interrupted without much progress, so that a slow line still brings all of it.
const MAX_BREAKS: usize = 3;
/// Much progress.
const WORTH_GOING_ON: usize = 64 << 10;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The part of an object's version that has been read.
#[derive(Default)]
struct Partial {
    bytes: Vec<u8>,
    etag: Option<String>,
    /// The size of the whole object, in bytes.
    total: Option<u64>,
}

/// How a body ended.
enum BodyEnd {
    Whole,
    /// It was interrupted and can be resumed.
    Broken(String),
}

/// Reads an object of at most `cap` bytes; checks its length before and while reading.
pub(in crate::store) async fn read(client: &S3Client, at: &S3Location, cap: u64) -> Result<Vec<u8>, S3Error> {
    let mut partial = Partial::default();
    let pauses = || exponential(FIRST_PAUSE, LONGEST_PAUSE).with_max_times(MAX_BREAKS).build();
    let mut left = pauses();
    loop {
        let before = partial.bytes.len();
        let answer = ask(client, at, &mut partial).await?;
        match receive(answer, cap, client.settings().read_timeout, &mut partial).await? {
            BodyEnd::Whole => return Ok(partial.bytes),
            BodyEnd::Broken(reason) => {
                if partial.bytes.len() >= before + WORTH_GOING_ON {
                    left = pauses();
                }
                let Some(pause) = left.next() else { return Err(S3Error::Unavailable(reason)) };
                debug!("{at}: {reason} after {} bytes; resuming", partial.bytes.len());
                sleep(pause).await;
            }
        }
    }
}

/// Requests the object, or the rest of the version that was started.
async fn ask(client: &S3Client, at: &S3Location, partial: &mut Partial) -> Result<GetObjectOutput, S3Error> {
    let mut request = client.of(&at.bucket).await.get_object().bucket(&at.bucket).key(&at.key);
    request = request.set_request_payer(client.payer(&at.bucket));
    match &partial.etag {
        Some(etag) if !partial.bytes.is_empty() => {
            request = request.range(format!("bytes={}-", partial.bytes.len())).if_match(etag);
        }
        Some(_) | None => partial.bytes.clear(),
    }
    let answer = request.send().await.map_err(S3Error::of)?;
    if answer.e_tag().is_none() && answer.content_type().is_some_and(|kind| kind.starts_with("text/html")) {
        return Err(S3Error::NotS3("it answers 200 with a page for people".to_owned()));
    }
    match answer.content_range() {
        // Some servers support ranges, but not If-Match.
        Some(range) if answer.e_tag() == partial.etag.as_deref() && starts_at(range, partial.bytes.len()) => {}
        Some(_) => return Err(S3Error::Changed),
        // The whole object, possibly because the server does not support ranges.
        None => {
            partial.bytes.clear();
            partial.total = answer.content_length().and_then(|length| u64::try_from(length).ok());
            partial.etag = answer.e_tag().map(str::to_owned);
        }
    }
    Ok(answer)
}

/// Parses `bytes 4096-8191/8192`.
fn starts_at(range: &str, wanted: usize) -> bool {
    let start = range.trim_start_matches("bytes").trim().split('-').next();
    start.and_then(|start| start.parse().ok()) == Some(wanted)
}

async fn receive(
    answer: GetObjectOutput,
    cap: u64,
    window: Duration,
    partial: &mut Partial,
) -> Result<BodyEnd, S3Error> {
    if partial.total.is_some_and(|total| total > cap) {
        return Err(S3Error::TooLarge(partial.total));
    }
    let expected = usize::try_from(partial.total.unwrap_or_default()).unwrap_or_default();
    partial.bytes.reserve_exact(expected.saturating_sub(partial.bytes.len()));
    let mut body = answer.body;
    let (mut until, mut progress) = (Instant::now() + window, 0);
    loop {
        let piece = match timeout_at(until, body.next()).await {
            Err(_) => {
                let reason =
                    format!("it sent {progress} bytes in {} s, less than {LEAST_PROGRESS}", window.as_secs_f64());
                return Ok(BodyEnd::Broken(reason));
            }
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                // It is complete but an error: the checksum does not match.
                if partial.total.is_some_and(|total| partial.bytes.len() as u64 >= total) {
                    partial.bytes.clear();
                }
                return Ok(BodyEnd::Broken(chain(&error).join(": ")));
            }
            Ok(Some(Ok(piece))) => piece,
        };
        progress += piece.len() as u64;
        if progress >= LEAST_PROGRESS {
            (until, progress) = (Instant::now() + window, 0);
        }
        partial.bytes.extend_from_slice(&piece);
        if partial.bytes.len() as u64 > cap {
            return Err(S3Error::TooLarge(partial.total));
        }
    }
    match partial.total {
        Some(total) if (partial.bytes.len() as u64) < total => {
            Ok(BodyEnd::Broken(format!("the response ended after {} of {total} bytes", partial.bytes.len())))
        }
        Some(_) | None => Ok(BodyEnd::Whole),
    }
}
