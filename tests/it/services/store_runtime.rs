//! Whole objects are hashed outside the async runtime, so its thread never computes for long without yielding.
//!
//! This measures the processor time of one thread instead of wall time, so that a busy machine does not matter. Only
//! Linux reports it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use acetate::{
    job::{Epoch, JobId},
    store::{Checksums, ObjectKey, S3Settings, Store, file_url},
};
use sha2::{Digest, Sha256};

use crate::{
    common,
    services::s3_server::{S3Server, settings, store_with},
};

const SIZE: usize = 96 << 20;
/// The number of tries before a long turn counts: copying into a socket may take long once, hashing takes long each
/// time.
const TRIES: usize = 3;

#[test]
fn large_objects_in_a_folder_do_not_hold_the_runtime_up() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_with(S3Settings::default(), &file_url(folder.path()));
    put_and_verify_in_small_turns(&store);
}

#[test]
fn large_objects_in_s3_do_not_hold_the_runtime_up() {
    // The server hashes, too, so it has separate threads.
    let elsewhere = tokio::runtime::Runtime::new().unwrap();
    let server = elsewhere.block_on(S3Server::start(&["bucket"]));
    for checksums in [Checksums::Supported, Checksums::Required] {
        let settings = S3Settings {
            checksums,
            read_timeout: Duration::from_secs(60),
            operation_timeout: Duration::from_secs(180),
            ..settings(&server.endpoint())
        };
        put_and_verify_in_small_turns(&store_with(settings, "s3://bucket/out"));
    }
}

fn put_and_verify_in_small_turns(store: &Store) {
    let Some(start) = processor_time() else {
        common::skipped("how long a put takes turns", "this system does not tell the processor time of a thread");
        return;
    };
    let bytes: Vec<u8> = (0..SIZE).map(|n| (n % 251) as u8).collect();
    let made = processor_time().unwrap();
    assert!(made > start, "the clock stands still");
    let digest = hex::encode(Sha256::digest(&bytes));
    let hashing = processor_time().unwrap() - made;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let longest_of_try = || runtime.block_on(longest_while_putting(store, bytes.clone(), &digest));
    let longest = (0..TRIES).map(|_| longest_of_try()).find(|longest| *longest < hashing / 2);
    assert!(
        longest.is_some(),
        "the runtime computed for more than half of what hashing takes, {hashing:?}, at a stretch"
    );
}

async fn longest_while_putting(store: &Store, bytes: Vec<u8>, digest: &str) -> Duration {
    let done = Arc::new(AtomicBool::new(false));
    let turns = tokio::spawn(longest_turn(done.clone()));
    let key = ObjectKey::new(JobId::new(), Epoch(1), "large.bin").unwrap();
    let stored = store.put(key, bytes).await.unwrap();
    assert_eq!((stored.size, stored.sha256.as_str()), (SIZE as u64, digest));
    store.verify(&stored).await.unwrap();
    done.store(true, Ordering::Relaxed);
    turns.await.unwrap()
}

/// The maximum processor time between two turns of this task, which yields all the time.
async fn longest_turn(done: Arc<AtomicBool>) -> Duration {
    let (mut longest, mut last) = (Duration::ZERO, processor_time().unwrap());
    while !done.load(Ordering::Relaxed) {
        tokio::task::yield_now().await;
        let now = processor_time().unwrap();
        longest = longest.max(now - last);
        last = now;
    }
    longest
}

/// The processor time of this thread.
fn processor_time() -> Option<Duration> {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    told.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}
