//! What many jobs have written is deleted together, and nothing else.

use std::{collections::HashMap, path::Path};

use acetate::{
    job::{Epoch, ErrorClass, JobId, JobObjects},
    store::{Checksums, S3Settings, Stores, Trust, file_url},
};

use crate::services::{
    proxy::{Fault, Proxy},
    s3_server::{S3Server, impatient, settings, stores_with},
};

const FILES: [&str; 2] = ["composite.png", "manifest.json"];

/// A job that succeeded at this epoch, under a root.
fn succeeded(root: &str, epoch: i64) -> JobObjects {
    JobObjects {
        job: JobId::new(),
        epoch: Epoch(epoch),
        root: Some(root.to_owned()),
        prefix: root.to_owned(),
        files: Some(vec![FILES[0].to_owned()]),
    }
}

/// One that failed, and has no result.
fn failed(prefix: &str, epoch: i64) -> JobObjects {
    JobObjects { root: None, files: None, ..succeeded(prefix, epoch) }
}

/// Both files of an attempt, below a folder.
fn write(root: &Path, job: &JobObjects, epoch: i64) {
    let folder = root.join(job.job.to_string()).join(epoch.to_string());
    std::fs::create_dir_all(&folder).unwrap();
    for name in FILES {
        std::fs::write(folder.join(name), "x").unwrap();
    }
}

fn count(root: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(root) else { return 0 };
    entries.map(|entry| entry.unwrap().path()).map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
}

/// The own root and another one, each with the jobs that are expected in real life; gives what is to be deleted.
async fn everything_of_these_jobs_goes(stores: &Stores, own: (&str, &Path), other: (&str, &Path)) {
    let once = succeeded(other.0, 1);
    let tried_again = succeeded(other.0, 3);
    let below = failed(other.0, 2);
    let here = failed(own.0, 1);
    let never = failed(other.0, 0);
    let neighbor = succeeded(other.0, 1);
    for (root, job, epochs) in [
        (other.1, &once, 1..=1),
        (other.1, &tried_again, 1..=3),
        (other.1, &below, 1..=2),
        (own.1, &here, 1..=1),
        (other.1, &neighbor, 1..=1),
    ] {
        epochs.for_each(|epoch| write(root, job, epoch));
    }
    // Queued again since it was looked at: its new attempt is no longer what was to be deleted.
    write(other.1, &below, 3);
    // Not of acetate.
    std::fs::write(other.1.join(tried_again.job.to_string()).join("notes.txt"), "mine").unwrap();

    let jobs = [once, tried_again, below, here, never];
    let deletion = stores.delete_results(&jobs).await;
    assert!(deletion.failed.is_empty() && deletion.unchecked.is_empty(), "{deletion:?}");
    assert_eq!(deletion.files, 2 * (1 + 3 + 2 + 1));
    assert_eq!((count(own.1), count(other.1)), (0, 2 + 2 + 1), "the neighbor, the new attempt, and the notes");
    let again = stores.delete_results(&jobs).await;
    assert!(again.failed.is_empty(), "{again:?}");
}

#[tokio::test]
async fn from_folders() {
    let folder = tempfile::tempdir().unwrap();
    let (own, other) = (folder.path().join("own"), folder.path().join("other"));
    let (own_url, other_url) = (file_url(&own), file_url(&other));
    let stores = stores_with(S3Settings::default(), &own_url, &[], Trust::Local);
    everything_of_these_jobs_goes(&stores, (&own_url, &own), (&other_url, &other)).await;
}

#[tokio::test]
async fn from_buckets_with_few_requests() {
    for checksums in [Checksums::Supported, Checksums::Required] {
        let server = S3Server::start(&["own", "other"]).await;
        let proxy = Proxy::before(server.address).await;
        let settings = S3Settings { checksums, ..settings(&proxy.endpoint()) };
        let stores = stores_with(settings, "s3://own/a", &[], Trust::Local);
        let folder = |name: &str| server.folder.path().join(name);
        let (own, other) = (folder("own/a"), folder("other/b"));
        everything_of_these_jobs_goes(&stores, ("s3://own/a", &own), ("s3://other/b", &other)).await;
        // Two buckets, twice; or each object by itself.
        let (many, single) = (proxy.seen("POST").len(), proxy.seen("DELETE").len());
        match checksums {
            Checksums::Supported => assert!(many <= 4 && single == 0, "{many} {single}"),
            Checksums::Required => assert!(many == 0 && single >= 14, "{many} {single}"),
        }
        // The job that succeeded at once was not looked for.
        let listed = proxy.seen("GET").len();
        assert!(listed <= 2 * 5, "{listed} listings");
    }
}

#[tokio::test]
async fn one_by_one_where_the_server_does_not_know_deleting_many() {
    let refusals = [
        ("501 Not Implemented", "<Error><Code>NotImplemented</Code><Message>no</Message></Error>", 1),
        ("405 Method Not Allowed", "", 1),
        // Of this request alone: the next one is tried again.
        ("400 Bad Request", "<Error><Code>MalformedXML</Code><Message>a key</Message></Error>", 2),
    ];
    for (status, body, requests) in refusals {
        let server = S3Server::start(&["bucket"]).await;
        let proxy = Proxy::before(server.address).await;
        let stores = stores_with(settings(&proxy.endpoint()), "s3://bucket", &[], Trust::Local);
        let root = server.folder.path().join("bucket");
        for _ in 0..2 {
            let jobs = [succeeded("s3://bucket", 1), succeeded("s3://bucket", 1)];
            jobs.iter().for_each(|job| write(&root, job, 1));
            if proxy.seen("POST").is_empty() {
                // Retried by the client itself, if it does that at all.
                for _ in 0..4 {
                    proxy.next("POST", Fault::Answer(status, body));
                }
            }
            let deletion = stores.delete_results(&jobs).await;
            assert!(deletion.failed.is_empty(), "{status}: {deletion:?}");
            assert_eq!((deletion.files, count(&root)), (4, 0), "{status}");
        }
        let seen = proxy.seen("POST").len();
        assert_eq!(seen, requests, "{status}");
    }
}

#[tokio::test]
async fn jobs_whose_files_stay_are_named_and_the_others_go() {
    let server = S3Server::start(&["bucket"]).await;
    let proxy = Proxy::before(server.address).await;
    let stores = stores_with(settings(&proxy.endpoint()), "s3://bucket", &[], Trust::Local);
    let (locked, other) = (succeeded("s3://bucket", 1), succeeded("s3://bucket", 1));
    let key = format!("{}/1/composite.png", locked.job);
    let answer = format!(
        "<DeleteResult><Error><Key>{key}</Key><Code>AccessDenied</Code><Message>object lock</Message></Error>\
         </DeleteResult>"
    );
    proxy.next("POST", Fault::Answer("200 OK", answer.leak()));
    let nowhere = succeeded("s3://no-such-bucket/x", 2);
    let deletion = stores.delete_results(&[locked.clone(), other.clone(), nowhere.clone()]).await;
    let reasons: HashMap<_, _> = deletion.failed.iter().map(|(job, error)| (*job, error.to_string())).collect();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(reasons[&locked.job].contains(&key) && reasons[&locked.job].contains("object lock"), "{reasons:?}");
    assert!(reasons[&nowhere.job].contains("no-such-bucket"), "{reasons:?}");
    assert_eq!(deletion.files, 3);
}

#[tokio::test]
async fn a_store_that_is_away_is_not_asked_for_every_job() {
    let server = S3Server::start(&[]).await;
    let endpoint = server.endpoint();
    drop(server);
    let stores = stores_with(impatient(&endpoint), "s3://bucket", &[], Trust::Local);
    let jobs: Vec<_> = (0..1000).map(|_| failed("s3://bucket", 1)).collect();
    let start = std::time::Instant::now();
    let deletion = stores.delete_results(&jobs).await;
    assert!(start.elapsed() < std::time::Duration::from_secs(15), "{:?}", start.elapsed());
    assert_eq!((deletion.files, deletion.failed.len()), (0, 1000));
    assert!(deletion.failed.values().all(|error| error.class() == ErrorClass::Transient));
}

#[tokio::test]
async fn a_prefix_that_cannot_be_looked_at_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("own");
    let stores = stores_with(S3Settings::default(), &file_url(&own), &[], Trust::Submitted);
    let job = failed("s3://elsewhere/x", 1);
    write(&own, &job, 1);
    let deletion = stores.delete_results(std::slice::from_ref(&job)).await;
    assert_eq!((deletion.files, deletion.unchecked.as_slice()), (2, [job.job].as_slice()));
    assert_eq!(deletion.unchecked_reason.unwrap().code(), "input_forbidden");
    assert!(deletion.failed.is_empty());
}
