//! What buckets, stores and their owners ask for: headers, addresses, parts, and the words when something is missing.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use acetate::{
    job::{Epoch, ErrorClass, JobId},
    store::{BucketSettings, Encryption, Listed, ObjectKey, S3Settings, Skipped, Stores, Trust},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::services::{
    proxy::{Fault, Proxy},
    s3_server::{S3Server, impatient, settings, store_with, stores_with},
};

fn key() -> ObjectKey {
    ObjectKey::new(JobId::new(), Epoch(1), "layer-00.png").unwrap()
}

fn bucket(name: &str, options: BucketSettings) -> BTreeMap<String, BucketSettings> {
    BTreeMap::from([(name.to_owned(), options)])
}

async fn all(stores: &Stores, url: &str) -> (Vec<Listed>, Skipped) {
    let mut listing = stores.inputs().list(url).unwrap();
    let mut listed = Vec::new();
    while let Some(page) = listing.next().await.unwrap() {
        listed.extend(page);
    }
    (listed, listing.skipped().clone())
}

#[tokio::test]
async fn written_objects_ask_for_encryption() {
    let server = S3Server::start(&["bucket"]).await;
    let proxy = Proxy::before(server.address).await;
    let encryption = Encryption { algorithm: "aws:kms".to_owned(), kms_key_id: Some("arn:aws:kms:key/1".to_owned()) };
    let s3 = S3Settings { encryption: Some(encryption), multipart_above: 8 << 20, ..settings(&proxy.endpoint()) };
    let store = store_with(s3, "s3://bucket/out");
    store.put(key(), vec![1]).await.unwrap();
    store.put(key(), vec![1; 9 << 20]).await.unwrap();
    let (puts, posts) = (proxy.seen("PUT"), proxy.seen("POST"));
    for head in [&puts[0], posts.iter().find(|head| head.contains("?uploads")).unwrap()] {
        assert!(head.contains("\r\nx-amz-server-side-encryption: aws:kms\r\n"), "{head}");
        assert!(head.contains("\r\nx-amz-server-side-encryption-aws-kms-key-id: arn:aws:kms:key/1\r\n"), "{head}");
    }
    let plain = store_with(settings(&proxy.endpoint()), "s3://bucket/out");
    plain.put(key(), vec![1]).await.unwrap();
    assert!(!proxy.seen("PUT").last().unwrap().contains("encryption"));

    let denied = "<Error><Code>AccessDenied</Code><Message>explicit deny</Message></Error>";
    proxy.next("PUT", Fault::Answer("403 Forbidden", denied));
    let error = plain.put(key(), vec![1]).await.unwrap_err().to_string();
    assert!(error.contains("store.server_side_encryption") && error.contains("explicit deny"), "{error}");
}

#[tokio::test]
async fn large_objects_are_written_in_parts() {
    let server = S3Server::start(&["bucket"]).await;
    let proxy = Proxy::before(server.address).await;
    let s3 = S3Settings { multipart_above: 8 << 20, ..settings(&proxy.endpoint()) };
    let store = store_with(s3, "s3://bucket/out");
    let bytes: Vec<u8> = (0..20_000_001_u32).map(|n| (n % 251) as u8).collect();
    let stored = store.put(key(), bytes.clone()).await.unwrap();
    let parts = proxy.seen("PUT");
    assert_eq!(parts.len(), 3, "{parts:?}");
    assert!(
        parts.iter().all(|head| head.contains("partnumber=") && head.contains("x-amz-checksum-sha256:")),
        "{parts:?}"
    );
    store.verify(&stored).await.unwrap();
    assert!(store.get(&stored.key, stored.size).await.unwrap() == bytes);

    // A part that never arrives: nothing is left behind.
    for _ in 0..12 {
        proxy.next("PUT", Fault::Answer("503 Slow Down", "<Error><Code>SlowDown</Code></Error>"));
    }
    let error = store.put(key(), bytes.clone()).await.unwrap_err();
    assert!(error.class() == ErrorClass::Transient && error.to_string().contains("SlowDown"), "{error}");
    assert!(proxy.seen("DELETE").last().unwrap().contains("uploadid="), "{:?}", proxy.seen("DELETE"));
}

/// Lets `rate` bytes per second through to the server, as a slow line does.
async fn slow_line(upstream: SocketAddr, rate: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let server = TcpStream::connect(upstream).await.unwrap();
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await.ok() });
                let mut piece = vec![0; rate / 20];
                while let Ok(read @ 1..) = from_client.read(&mut piece).await {
                    to_server.write_all(&piece[..read]).await.ok();
                    tokio::time::sleep(Duration::from_secs_f64(read as f64 / rate as f64)).await;
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_line_is_no_reason_to_give_up() {
    let server = S3Server::start(&["bucket"]).await;
    let line = slow_line(server.address, 4 << 20).await;
    let s3 = S3Settings {
        read_timeout: Duration::from_secs(2),
        operation_timeout: Duration::from_secs(3),
        ..settings(&format!("http://{line}"))
    };
    let store = store_with(s3, "s3://bucket/out");
    let start = Instant::now();
    // More than the kernel takes into its buffers at once.
    let stored = store.put(key(), vec![7; 32 << 20]).await.unwrap();
    assert!(start.elapsed() > Duration::from_secs(4), "the line is not slow: {:?}", start.elapsed());
    store.verify(&stored).await.unwrap();
}

#[tokio::test]
async fn a_server_that_takes_nothing_more_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Accepts and never reads.
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((client, _)) = listener.accept().await {
            held.push(client);
        }
    });
    let store = store_with(impatient(&format!("http://{address}")), "s3://bucket/out");
    let start = Instant::now();
    let error = store.put(key(), vec![7; 32 << 20]).await.unwrap_err();
    let text = error.to_string();
    assert!(error.class() == ErrorClass::Transient && text.contains("no progress for 0.7 s"), "{text}");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_bucket_may_be_elsewhere_public_or_paid_for() {
    let (usual, other) = (S3Server::start(&["bucket"]).await, S3Server::start(&["scans"]).await);
    std::fs::write(other.folder.path().join("scans/a.png"), "elsewhere").unwrap();
    let proxy = Proxy::before(other.address).await;
    let options = BucketSettings {
        endpoint: Some(proxy.endpoint()),
        region: Some("eu-south-2".to_owned()),
        requester_pays: true,
        ..BucketSettings::default()
    };
    let s3 = S3Settings { buckets: bucket("scans", options), ..settings(&usual.endpoint()) };
    let stores = stores_with(s3, "s3://bucket/out", &["s3://scans"], Trust::Local);
    stores.own().put(key(), vec![1]).await.unwrap();
    assert_eq!(stores.inputs().read("s3://scans/a.png", 99).await.unwrap(), b"elsewhere");
    assert_eq!(all(&stores, "s3://scans").await.0.len(), 1);
    for head in proxy.seen("GET") {
        assert!(head.contains("\r\nx-amz-request-payer: requester\r\n") && head.contains("/eu-south-2/s3/"), "{head}");
    }

    let public = BucketSettings { endpoint: Some(proxy.endpoint()), anonymous: true, ..BucketSettings::default() };
    let s3 = S3Settings { buckets: bucket("public", public), credentials: None, ..settings(&usual.endpoint()) };
    let stores = stores_with(s3, "s3://bucket/out", &["s3://public"], Trust::Local);
    proxy.next("GET", Fault::Answer("200 OK", "picture"));
    assert_eq!(stores.inputs().read("s3://public/a.png", 99).await.unwrap(), b"picture");
    let head = proxy.seen("GET").pop().unwrap();
    assert!(!head.contains("authorization:") && !head.contains("request-payer"), "{head}");
}

#[tokio::test]
async fn keys_that_a_job_cannot_name_are_skipped_and_counted() {
    let server = S3Server::start(&["bucket"]).await;
    let proxy = Proxy::before(server.address).await;
    let stores = stores_with(settings(&proxy.endpoint()), "s3://bucket/out", &["s3://bucket"], Trust::Local);
    let page = "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>false</IsTruncated><EncodingType>url</EncodingType>\
        <Contents><Key>x/a%01.png</Key><Size>1</Size></Contents>\
        <Contents><Key>x/a%09b%0A.png</Key><Size>1</Size></Contents>\
        <Contents><Key>x/a/../b.png</Key><Size>1</Size></Contents>\
        <Contents><Key>x/%2E/b.png</Key><Size>1</Size></Contents>\
        <Contents><Key>x/folder/</Key><Size>0</Size></Contents>\
        <Contents><Key>x/c+d%2B%25%E9%9B%AA.png</Key><Size>7</Size></Contents></ListBucketResult>";
    proxy.next("GET", Fault::Answer("200 OK", page));
    let (listed, skipped) = all(&stores, "s3://bucket/x/").await;
    assert!(proxy.seen("GET")[0].contains("encoding-type=url"), "{:?}", proxy.seen("GET"));
    assert_eq!(listed, [Listed { url: "s3://bucket/x/c d+%雪.png".to_owned(), size: 7 }]);
    assert_eq!(skipped.count, 4);
    assert_eq!(skipped.examples, ["x/a\\u{1}.png", "x/a\\tb\\n.png", "x/a/../b.png"]);
}

#[tokio::test]
async fn each_refusal_names_its_setting() {
    let server = S3Server::start(&["bucket"]).await;
    let cases = [
        (
            "501 Not Implemented",
            "<Error><Code>NotImplemented</Code><Message>A header you provided implies functionality</Message></Error>",
            "store.checksums = \"required\"",
        ),
        (
            "400 Bad Request",
            "<Error><Code>InvalidArgument</Code><Message>x-amz-checksum-sha256 is not supported</Message></Error>",
            "store.checksums = \"required\"",
        ),
        (
            "301 Moved Permanently\r\nx-amz-bucket-region: eu-west-1",
            "<Error><Code>PermanentRedirect</Code><Message>elsewhere</Message></Error>",
            "the region eu-west-1; set AWS_REGION=eu-west-1, or for this bucket alone store.buckets = [\"bucket region=eu-west-1\"]",
        ),
        (
            "403 Forbidden\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT",
            "<Error><Code>RequestTimeTooSkewed</Code><Message>skewed</Message></Error>",
            "minutes ahead of that of",
        ),
        (
            "403 Forbidden\r\nDate: Sat, 06 Nov 2094 08:49:37 GMT",
            "<Error><Code>AccessDenied</Code><Message>Date is too old</Message></Error>",
            "minutes behind that of",
        ),
    ];
    for (status, body, wanted) in cases {
        let proxy = Proxy::before(server.address).await;
        let store = store_with(impatient(&proxy.endpoint()), "s3://bucket/out");
        for _ in 0..4 {
            proxy.next("PUT", Fault::Answer(status, body));
        }
        let error = store.put(key(), vec![1]).await.unwrap_err();
        assert!(error.class() == ErrorClass::Transient && error.to_string().contains(wanted), "{status}: {error}");
    }
}
