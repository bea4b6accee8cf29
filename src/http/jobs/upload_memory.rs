//! How much of the uploads that are arriving is in memory.
//!
//! An upload takes its share piece by piece, as it arrives. So a client that sends slowly, or stops, keeps only what it
//! has sent, and others go on.

use std::{
    error::Error,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use axum::body::Body;
use futures_util::StreamExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// How long a piece waits until others are done.
const TURN: Duration = Duration::from_secs(15);
/// What is counted, in bytes.
const UNIT: usize = 1024;

#[derive(Debug)]
pub struct UploadMemory {
    units: Arc<Semaphore>,
    turn: Duration,
}

/// The share of one upload, given back when it is dropped.
#[derive(Debug, Default)]
pub struct UploadShare(Arc<Mutex<Vec<OwnedSemaphorePermit>>>);

impl UploadMemory {
    /// For `most` bytes.
    pub fn new(most: u64) -> Self {
        let units = usize::try_from(most).unwrap_or(usize::MAX).div_ceil(UNIT);
        Self { units: Arc::new(Semaphore::new(units.clamp(1, Semaphore::MAX_PERMITS))), turn: TURN }
    }

    /// The same body, whose pieces count for `share` as long as that exists.
    pub fn counted(&self, body: Body, share: &UploadShare) -> Body {
        let (units, turn, share) = (self.units.clone(), self.turn, Arc::downgrade(&share.0));
        Body::from_stream(body.into_data_stream().then(move |piece| {
            let (units, share) = (units.clone(), share.clone());
            async move {
                let piece = piece?;
                take(units, turn, &share, piece.len()).await.map_err(axum::Error::new)?;
                Ok::<_, axum::Error>(piece)
            }
        }))
    }
}

async fn take(
    units: Arc<Semaphore>,
    turn: Duration,
    share: &Weak<Mutex<Vec<OwnedSemaphorePermit>>>,
    bytes: usize,
) -> Result<(), MemoryFull> {
    if share.strong_count() == 0 {
        // The reader has stopped, and the rest is discarded.
        return Ok(());
    }
    let wanted = u32::try_from(bytes.div_ceil(UNIT)).map_err(|_| MemoryFull)?;
    let Ok(Ok(permit)) = timeout(turn, units.acquire_many_owned(wanted)).await else { return Err(MemoryFull) };
    if let Some(share) = share.upgrade() {
        let mut permits = share.lock().unwrap_or_else(PoisonError::into_inner);
        match permits.first_mut() {
            Some(all) => all.merge(permit),
            None => permits.push(permit),
        }
    }
    Ok(())
}

/// The uploads that are arriving leave no room for more.
#[derive(Debug)]
struct MemoryFull;

impl fmt::Display for MemoryFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too many uploads at once; try again")
    }
}

impl Error for MemoryFull {}

/// Whether an error of a body, or one of its causes, is that there is no room for it; the text for the client.
pub fn is_full(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(full) = error.downcast_ref::<MemoryFull>() {
            return Some(full.to_string());
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use axum::body::Bytes;
    use futures_util::stream;

    use super::*;

    fn body(pieces: usize) -> Body {
        Body::from_stream(stream::iter((0..pieces).map(|_| Ok::<_, axum::Error>(Bytes::from(vec![0; 2 * UNIT])))))
    }

    #[tokio::test]
    async fn uploads_share_the_memory_and_wait_for_each_other() {
        let memory = UploadMemory { turn: Duration::from_millis(50), ..UploadMemory::new(6 * UNIT as u64) };
        let (first, second) = (UploadShare::default(), UploadShare::default());
        let mut large = memory.counted(body(9), &first).into_data_stream();
        for _ in 0..2 {
            large.next().await.unwrap().unwrap();
        }
        let mut small = memory.counted(body(2), &second).into_data_stream();
        small.next().await.unwrap().unwrap();
        let error = small.next().await.unwrap().unwrap_err();
        assert_eq!(is_full(&error).as_deref(), Some("too many uploads at once; try again"));
        // An upload that is done makes room, and the rest of its body, which is discarded, takes none.
        drop(first);
        for _ in 0..7 {
            large.next().await.unwrap().unwrap();
        }
        let third = UploadShare::default();
        let mut next = memory.counted(body(2), &third).into_data_stream();
        assert!(next.next().await.unwrap().is_ok() && next.next().await.unwrap().is_ok());
        assert_eq!(memory.units.available_permits(), 0);
        drop((second, third));
        assert_eq!(memory.units.available_permits(), 6);
    }
}
