//! S3 with faults: the client recovers, or reports the fault, and the job is retried.

use std::time::{Duration, Instant};

use acetate::{
    job::{Epoch, ErrorClass, JobError, JobId},
    store::{Checksums, ObjectKey, S3Settings, Store, Trust},
};

use crate::{
    services::proxy::{Fault, Proxy},
    services::s3_server::{S3Server, impatient, store_with, stores_with},
};

/// Larger than the part of a body that must arrive within its deadline.
const SIZE: usize = 300_000;

type Make = fn() -> Fault;

struct Setup {
    server: S3Server,
    proxy: Proxy,
    store: Store,
    key: ObjectKey,
}

impl Setup {
    async fn new() -> Self {
        Self::with(|settings| settings).await
    }

    async fn with(change: impl Fn(S3Settings) -> S3Settings) -> Self {
        let server = S3Server::start(&["bucket"]).await;
        let proxy = Proxy::before(server.address).await;
        let store = store_with(change(impatient(&proxy.endpoint())), "s3://bucket/out");
        let key = ObjectKey::new(JobId::new(), Epoch(1), "layer-00.png").unwrap();
        Self { server, proxy, store, key }
    }

    fn put_past_the_proxy(&self, bytes: &[u8]) {
        let path = self.path();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn path(&self) -> std::path::PathBuf {
        self.server.folder.path().join("bucket/out").join(self.key.as_str())
    }
}

fn bytes() -> Vec<u8> {
    (0..SIZE).map(|n| (n % 251) as u8).collect()
}

const BUSY: Fault = Fault::Answer("503 Slow Down", "<Error><Code>SlowDown</Code><Message>later</Message></Error>");

#[tokio::test]
async fn a_write_survives_what_passes() {
    let faults: [Make; 4] =
        [|| BUSY, || Fault::LostReply, || Fault::Silent, || Fault::Answer("500 Internal Server Error", "")];
    for (number, fault) in faults.into_iter().enumerate() {
        let setup = Setup::new().await;
        setup.proxy.next("PUT", fault());
        let stored = setup.store.put(setup.key.clone(), bytes()).await.unwrap_or_else(|e| panic!("{number}: {e}"));
        assert!(setup.proxy.is_spent() && setup.proxy.seen("PUT").len() == 2, "fault {number}");
        setup.store.verify(&stored).await.unwrap();
        assert!(std::fs::read(setup.path()).unwrap() == bytes(), "fault {number}");
    }
}

#[tokio::test]
async fn a_read_goes_on_where_it_broke() {
    for (name, fault) in [("cut", Fault::CutHalf), ("stalled", Fault::StallHalf), ("trickling", Fault::Trickle)] {
        let setup = Setup::new().await;
        setup.put_past_the_proxy(&bytes());
        setup.proxy.next("GET", fault);
        let start = Instant::now();
        let read = setup.store.get(&setup.key, SIZE as u64).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(read == bytes(), "{name}");
        assert!(setup.proxy.is_spent() && start.elapsed() < Duration::from_secs(5), "{name}: {:?}", start.elapsed());
        let asked = setup.proxy.seen("GET");
        assert_eq!(asked.len(), 2, "{name}");
        assert!(!asked[0].contains("\r\nrange:") && asked[1].contains("\r\nrange: bytes="), "{name}: {}", asked[1]);
        assert!(asked[1].contains("\r\nif-match:"), "{name}: {}", asked[1]);
    }
}

#[tokio::test]
async fn a_read_of_an_object_that_is_replaced_meanwhile_mixes_nothing() {
    let setup = Setup::new().await;
    setup.put_past_the_proxy(&bytes());
    let path = setup.path();
    setup.proxy.next("GET", Fault::CutHalfAfter(Box::new(move || std::fs::write(path, vec![7; SIZE]).unwrap())));
    // This server ignores If-Match, and returns the rest of the other object.
    let error = setup.store.get(&setup.key, SIZE as u64).await.unwrap_err();
    assert!(error.class() == ErrorClass::Transient && error.to_string().contains("replaced"), "{error}");

    // This server checks If-Match.
    setup.put_past_the_proxy(&bytes());
    setup.proxy.next("GET", Fault::CutHalf);
    setup.proxy.next("GET", Fault::Answer("412 Precondition Failed", ""));
    let error = setup.store.get(&setup.key, SIZE as u64).await.unwrap_err();
    assert!(error.class() == ErrorClass::Transient && error.to_string().contains("replaced"), "{error}");
}

#[tokio::test]
async fn bytes_that_were_changed_on_the_way_are_read_anew() {
    let setup = Setup::new().await;
    setup.store.put(setup.key.clone(), bytes()).await.unwrap();
    setup.proxy.next("GET", Fault::Flip);
    assert!(setup.store.get(&setup.key, SIZE as u64).await.unwrap() == bytes());
    assert_eq!(setup.proxy.seen("GET").len(), 2);
}

#[tokio::test]
async fn what_does_not_pass_is_transient_and_names_everything() {
    let faults: [(&str, Make); 3] = [("503", || BUSY), ("silent", || Fault::Silent), ("cut", || Fault::CutHalf)];
    for (name, fault) in faults {
        let setup = Setup::new().await;
        setup.put_past_the_proxy(&bytes());
        for _ in 0..8 {
            setup.proxy.next("GET", fault());
        }
        let start = Instant::now();
        let error = setup.store.get(&setup.key, SIZE as u64).await.unwrap_err();
        let text = error.to_string();
        assert_eq!((error.code(), error.class()), ("storage", ErrorClass::Transient), "{name}: {text}");
        assert!(
            text.contains(&setup.store.url(&setup.key)) && text.contains(&setup.proxy.endpoint()),
            "{name}: {text}"
        );
        assert!(start.elapsed() < Duration::from_secs(15), "{name}: {:?}", start.elapsed());
    }
}

#[tokio::test]
async fn objects_that_cannot_be_deleted_are_not_taken_for_deleted() {
    let setup = Setup::new().await;
    setup.put_past_the_proxy(b"x");
    let refused =
        "<DeleteResult><Error><Key>k</Key><Code>InternalError</Code><Message>later</Message></Error></DeleteResult>";
    setup.proxy.next("POST", Fault::Answer("200 OK", refused));
    let job = setup.key.as_str().split('/').next().unwrap().parse().unwrap();
    let error = setup.store.delete_epochs(job, |_| true).await.unwrap_err();
    assert!(error.class() == ErrorClass::Transient && error.to_string().contains("InternalError later"), "{error}");
    assert_eq!(setup.store.delete_epochs(job, |_| true).await.unwrap(), 1);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_transient_for_inputs_too() {
    let server = S3Server::start(&[]).await;
    let endpoint = server.endpoint();
    drop(server);
    let stores = stores_with(impatient(&endpoint), "s3://bucket/x", &[], Trust::Submitted);
    let key = ObjectKey::new(JobId::new(), Epoch(1), "a.png").unwrap();
    let errors: [(&str, JobError); 3] = [
        ("input_unreachable", stores.inputs().read("s3://bucket/x/in.png", 9).await.unwrap_err()),
        ("storage", stores.own().put(key.clone(), vec![1]).await.unwrap_err()),
        ("storage", stores.own().exists(&key).await.unwrap_err()),
    ];
    for (code, error) in errors {
        let text = error.to_string();
        assert_eq!((error.code(), error.class()), (code, ErrorClass::Transient), "{text}");
        assert!(text.contains("s3://bucket/x/") && text.contains(&endpoint), "{text}");
    }
}

#[tokio::test]
async fn a_refusal_names_its_cause() {
    const PAGE: &str = "<html><body>Blocked by policy</body></html>";
    let cases: [(&'static str, &'static str, &'static str, &str); 16] = [
        ("PUT", "200 OK\r\nContent-Type: text/html", PAGE, "is not an S3 server"),
        ("PUT", "200 OK", "", "is not an S3 server"),
        ("HEAD", "200 OK\r\nContent-Type: text/html", "", "is not an S3 server"),
        ("PUT", "403 Forbidden", "<Error><Code>QuotaExceeded</Code></Error>", "is full"),
        ("PUT", "507 Insufficient Storage", "<Error><Code>XMinioStorageFull</Code></Error>", "is full"),
        ("PUT", "400 Bad Request", "<Error><Code>KMS.NotFoundException</Code></Error>", "store.kms_key_id"),
        ("PUT", "403 Forbidden\r\nContent-Type: text/html", PAGE, "403 with a page for people"),
        ("PUT", "302 Found\r\nLocation: https://login.example/x", "", "302, a redirect to https://login.example/x"),
        ("PUT", "400 Bad Request", "<Error><Code>ExpiredToken</Code></Error>", "aws sso login"),
        ("PUT", "503 Slow Down", "<Error><Code>SlowDown</Code></Error>", "asks for fewer requests"),
        ("GET", "429 Too Many Requests", "", "asks for fewer requests"),
        (
            "PUT",
            "307 Temporary Redirect\r\nLocation: http://127.0.0.1:9/x",
            "",
            "sends requests for this bucket elsewhere",
        ),
        ("GET", "307 Temporary Redirect", "<Error><Code>TemporaryRedirect</Code></Error>", "store.endpoint"),
        ("GET", "403 Forbidden", "<Error><Code>InvalidObjectState</Code></Error>", "restore it first"),
        ("GET", "200 OK\r\nContent-Type: text/html", PAGE, "is not an S3 server"),
        ("GET", "403 Forbidden", "<Error><Code>AccessDenied</Code></Error>", "s3:GetObject"),
    ];
    for (method, status, body, wanted) in cases {
        let setup = Setup::new().await;
        setup.put_past_the_proxy(b"x");
        for _ in 0..8 {
            setup.proxy.next(method, Fault::Answer(status, body));
        }
        let result = match method {
            "PUT" => setup.store.put(setup.key.clone(), vec![1]).await.map(drop),
            "HEAD" => setup.store.exists(&setup.key).await.map(drop),
            _ => setup.store.get(&setup.key, 100).await.map(drop),
        };
        let error = result.unwrap_err();
        assert!(error.code() == "storage" && error.to_string().contains(wanted), "{status} {body}: {error}");
    }
}

/// A part is as good as the whole.
#[tokio::test]
async fn a_page_in_the_place_of_a_part_is_not_taken_for_it() {
    let setup = Setup::with(|settings| S3Settings { multipart_above: 1 << 20, ..settings }).await;
    for _ in 0..8 {
        setup.proxy.next("PUT", Fault::Answer("200 OK\r\nContent-Type: text/html", "<html></html>"));
    }
    let error = setup.store.put(setup.key.clone(), vec![7; 2 << 20]).await.unwrap_err();
    assert!(error.code() == "storage" && error.to_string().contains("is not an S3 server"), "{error}");
    assert!(!setup.path().exists());
    setup.proxy.forget();
    setup.store.put(setup.key.clone(), vec![7; 2 << 20]).await.unwrap();
}

#[tokio::test]
async fn what_is_written_is_verified_without_reading_it_back_where_the_store_keeps_checksums() {
    let setup = Setup::new().await;
    let stored = setup.store.put(setup.key.clone(), bytes()).await.unwrap();
    setup.store.verify(&stored).await.unwrap();
    assert!(setup.proxy.seen("PUT")[0].contains("\r\nx-amz-checksum-sha256:"), "{}", setup.proxy.seen("PUT")[0]);
    assert_eq!((setup.proxy.seen("HEAD").len(), setup.proxy.seen("GET").len()), (1, 0));
}

#[tokio::test]
async fn a_store_that_knows_no_checksums_is_read_back() {
    let setup = Setup::with(|settings| S3Settings { checksums: Checksums::Required, ..settings }).await;
    let stored = setup.store.put(setup.key.clone(), bytes()).await.unwrap();
    assert!(!setup.proxy.seen("PUT")[0].contains("x-amz-checksum"), "{}", setup.proxy.seen("PUT")[0]);
    setup.store.verify(&stored).await.unwrap();
    assert_eq!(setup.proxy.seen("GET").len(), 1);
    // Deleting many objects at once would require such a checksum.
    setup.store.check().await.unwrap();
    assert_eq!((setup.proxy.seen("POST").len(), setup.proxy.seen("DELETE").len()), (0, 1));

    let mut other = bytes();
    other[SIZE / 2] ^= 1;
    setup.put_past_the_proxy(&other);
    let error = setup.store.verify(&stored).await.unwrap_err();
    assert!(error.code() == "storage" && error.to_string().contains("SHA-256"), "{error}");
}
