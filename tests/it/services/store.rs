//! One suite for every kind of store: everything that a job needs.

use std::time::Duration;

use acetate::{
    job::{Epoch, JobId},
    store::{ObjectKey, Store, StoreSettings, Stores, Trust, file_url},
};

use crate::services::s3_server::{Remote, S3Server, settings, store_with};

#[tokio::test]
async fn a_folder_keeps_what_a_store_promises() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("with blank & ä");
    let settings = StoreSettings {
        url: file_url(&root),
        s3: Default::default(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        http_inputs: false,
        http_allow: Vec::new(),
    };
    let stores = Stores::new(&settings, Trust::Submitted).unwrap();
    keeps_its_promises("a folder", stores.own()).await;
    let left: Vec<_> = std::fs::read_dir(&root).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(stores.own().presigned(&key(JobId::new(), 1, "a.png"), Duration::from_secs(60)).await.unwrap(), None);
}

#[tokio::test]
async fn s3_keeps_what_a_store_promises() {
    let mut remotes = vec![Remote::here().await];
    remotes.extend(Remote::elsewhere());
    for remote in &remotes {
        keeps_its_promises(remote.name, remote.stores.own()).await;
        assert_eq!(remote.keys().await, [""; 0], "{}: nothing is left behind", remote.name);
    }
}

async fn keeps_its_promises(name: &str, store: &Store) {
    store.check().await.unwrap_or_else(|error| panic!("{name}: {error}"));
    let job = JobId::new();
    let layer = key(job, 1, "layer-00.png");
    assert!(!store.exists(&layer).await.unwrap(), "{name}");
    let missing = store.get(&layer, 99).await.unwrap_err();
    assert!(missing.code() == "storage" && missing.to_string().contains("layer-00.png"), "{name}: {missing}");

    // A written object can be read, has the right checksum, and is at its address.
    let stored = store.put(layer.clone(), b"abc".to_vec()).await.unwrap();
    assert_eq!(stored.size, 3);
    assert_eq!(stored.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    store.verify(&stored).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(store.exists(&layer).await.unwrap(), "{name}");
    assert_eq!(store.get(&layer, 3).await.unwrap(), b"abc");
    assert_eq!(store.url(&layer), format!("{}{layer}", store.root_url()));
    let capped = store.get(&layer, 2).await.unwrap_err();
    assert!(capped.code() == "storage" && capped.to_string().contains("2 bytes"), "{name}: {capped}");

    // Other bytes under the same name are detected, even if only the size or only the content differs.
    for other in ["abd", "abcd", ""] {
        store.put(layer.clone(), other.as_bytes().to_vec()).await.unwrap();
        let error = store.verify(&stored).await.unwrap_err();
        assert_eq!(error.code(), "storage", "{name}, {other:?}: {error}");
        assert!(error.to_string().contains("layer-00.png"), "{name}: {error}");
    }

    // A large object whose bytes reveal a missing or repeated piece.
    let large: Vec<u8> = (0..3_000_001_u32).map(|n| (n % 251) as u8).collect();
    let stored = store.put(key(job, 2, "large.bin"), large.clone()).await.unwrap();
    store.verify(&stored).await.unwrap();
    assert!(store.get(&stored.key, stored.size).await.unwrap() == large, "{name}");

    // Lost attempts are deleted, the published one stays, and other jobs' objects are not changed.
    let neighbor = key(JobId::new(), 1, "a.png");
    store.put(neighbor.clone(), vec![1]).await.unwrap();
    store.put(key(job, 10, "a.png"), vec![1]).await.unwrap();
    assert_eq!(store.delete_epochs(job, |epoch| epoch != Epoch(2)).await.unwrap(), 2, "{name}");
    assert!(store.exists(&stored.key).await.unwrap() && !store.exists(&layer).await.unwrap(), "{name}");
    assert_eq!(store.delete_epochs(job, |_| true).await.unwrap(), 1, "{name}");
    assert_eq!(store.delete_epochs(job, |_| true).await.unwrap(), 0, "{name}: again");
    assert!(store.exists(&neighbor).await.unwrap(), "{name}");
    assert_eq!(store.delete_epochs(neighbor_job(&neighbor), |_| true).await.unwrap(), 1, "{name}");
}

#[tokio::test]
async fn more_objects_than_one_page_are_deleted() {
    let server = S3Server::start(&["bucket"]).await;
    let store = store_with(settings(&server.endpoint()), "s3://bucket/out");
    let job = JobId::new();
    for (epoch, files) in [(1, 1203), (2, 3)] {
        let folder = server.folder.path().join(format!("bucket/out/{job}/{epoch}"));
        std::fs::create_dir_all(&folder).unwrap();
        for file in 0..files {
            std::fs::write(folder.join(format!("{file}.png")), "x").unwrap();
        }
    }
    assert_eq!(store.delete_epochs(job, |epoch| epoch != Epoch(2)).await.unwrap(), 1203);
    assert_eq!(store.delete_epochs(job, |_| true).await.unwrap(), 3);
}

#[tokio::test]
async fn a_presigned_address_needs_no_credentials() {
    let remote = Remote::here().await;
    let key = key(JobId::new(), 1, "layer-00.png");
    remote.stores.own().put(key.clone(), b"picture".to_vec()).await.unwrap();
    let url = remote.stores.own().presigned(&key, Duration::from_secs(60)).await.unwrap().unwrap();
    let read = tokio::task::spawn_blocking(move || {
        let mut answer = ureq::get(&url).call().unwrap();
        assert_eq!(answer.headers()["content-type"], "image/png");
        answer.body_mut().read_to_string().unwrap()
    });
    assert_eq!(read.await.unwrap(), "picture");
}

fn key(job: JobId, epoch: i64, name: &str) -> ObjectKey {
    ObjectKey::new(job, Epoch(epoch), name).unwrap()
}

fn neighbor_job(key: &ObjectKey) -> JobId {
    key.as_str().split('/').next().unwrap().parse().unwrap()
}
