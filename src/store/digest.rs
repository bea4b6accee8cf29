//! SHA-256 of whole objects, on blocking threads.

use std::future::Future;

use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use super::blocking::blocking;
use crate::job::JobError;

/// Smaller objects are hashed on the current thread, because that is as fast as switching threads.
const SMALL: usize = 64 << 10;

/// The digest of some bytes, and the bytes back.
pub(super) async fn sha256<B: AsRef<[u8]> + Send + 'static>(bytes: B) -> Result<([u8; 32], B), JobError> {
    if bytes.as_ref().len() <= SMALL {
        return Ok((Sha256::digest(&bytes).into(), bytes));
    }
    blocking(move || Ok((Sha256::digest(&bytes).into(), bytes))).await
}

/// Runs a request with `size` bytes. The S3 client hashes them all at once when it signs the request, so a large one
/// runs on a blocking thread.
pub(super) async fn hashing<T: Send + 'static>(
    size: usize,
    request: impl Future<Output = T> + Send + 'static,
) -> Result<T, JobError> {
    if size <= SMALL {
        return Ok(request.await);
    }
    let runtime = Handle::current();
    blocking(move || Ok(runtime.block_on(request))).await
}
