//! Inputs out of S3: odd names, caps, lists, and what each refusal says.

use acetate::{
    job::ErrorClass,
    store::{S3Credentials, S3Settings, Trust, file_url},
};

use crate::{
    services::proxy::{Fault, Proxy},
    services::s3_server::{Remote, S3Server, SECRET_KEY, settings, stores_with},
};

const ODD_KEYS: [&str; 7] =
    ["plain.png", "a b.png", "ä/雪.png", "50%25#1.png", "what?x=y&z=+.png", "it's \"<q>\".png", "%2B/a+b;c@d=.png"];

#[tokio::test]
async fn keys_with_odd_characters_are_read_as_they_are_written() {
    let mut remotes = vec![Remote::here().await];
    remotes.extend(Remote::elsewhere());
    for remote in &remotes {
        let inputs = remote.stores.inputs();
        for key in ODD_KEYS {
            let url = remote.put(key, key.as_bytes()).await;
            let read = inputs.read(&url, 100).await.unwrap_or_else(|error| panic!("{}: {error}", remote.name));
            assert_eq!(read, key.as_bytes(), "{}", remote.name);
        }
        let mut listing = inputs.list(&remote.stores.own().root_url()).unwrap();
        let mut listed = Vec::new();
        while let Some(page) = listing.next().await.unwrap() {
            listed.extend(page);
        }
        let mut found: Vec<_> = listed.iter().map(|object| (object.url.clone(), object.size)).collect();
        let root = remote.stores.own().root_url();
        let mut wanted = ODD_KEYS.map(|key| (format!("{root}{key}"), key.len() as u64));
        found.sort();
        wanted.sort();
        assert_eq!(found, wanted, "{}", remote.name);
        for object in &listed {
            assert_eq!(inputs.read(&object.url, 100).await.unwrap().len() as u64, object.size);
        }
        remote.clear().await;
    }
}

#[tokio::test]
async fn what_the_submitter_can_correct_is_said_in_their_words() {
    let remote = Remote::here().await;
    let url = remote.put("ten.png", b"0123456789").await;
    let inputs = remote.stores.inputs();
    assert_eq!(inputs.read(&url, 10).await.unwrap().len(), 10);

    let large = inputs.read(&url, 9).await.unwrap_err();
    assert_eq!(large.to_string(), format!("{url}: 10 bytes are more than the 9 allowed (image.max_bytes)"));
    let missing = inputs.read(&format!("{url}.no"), 10).await.unwrap_err();
    assert_eq!((missing.code(), missing.class()), ("input_not_found", ErrorClass::Invalid));
    let elsewhere = inputs.read("s3://other/x.png", 10).await.unwrap_err();
    assert!(elsewhere.code() == "input_forbidden" && elsewhere.to_string().contains("store.inputs"), "{elsewhere}");
}

#[tokio::test]
async fn a_bucket_that_is_not_there_and_one_that_is_closed() {
    let server = S3Server::start(&[]).await;
    let proxy = Proxy::before(server.address).await;
    let stores =
        stores_with(settings(&proxy.endpoint()), "s3://none/x", &["s3://pictures", "s3://none"], Trust::Submitted);
    let missing = stores.inputs().read("s3://none/a.png", 9).await.unwrap_err();
    assert_eq!(missing.code(), "input_not_found", "{missing}");
    // This server makes buckets as they are written to.
    let none = "<Error><Code>NoSuchBucket</Code><Message>none</Message></Error>";
    proxy.next("PUT", Fault::Answer("404 Not Found", none));
    let result = stores.own().check().await.unwrap_err();
    let text = result.to_string();
    assert!(result.code() == "storage" && text.contains("s3://none/x") && text.contains("no such bucket"), "{text}");

    let closed = "<Error><Code>AccessDenied</Code><Message>not yours</Message></Error>";
    proxy.next("GET", Fault::Answer("403 Forbidden", closed));
    proxy.next("PUT", Fault::Answer("403 Forbidden", closed));
    let denied = stores.inputs().read("s3://pictures/a.png", 9).await.unwrap_err();
    assert!(denied.code() == "input_forbidden" && denied.to_string().contains("s3:GetObject"), "{denied}");
    let result = stores.own().check().await.unwrap_err();
    assert!(result.code() == "storage" && result.to_string().contains("s3:PutObject"), "{result}");
    assert!(proxy.is_spent());
}

#[tokio::test]
async fn wrong_credentials_are_said_and_not_shown() {
    let server = S3Server::start(&["bucket"]).await;
    for (access_key, secret_key) in
        [(crate::services::s3_server::ACCESS_KEY, "wr0ng-secret"), ("AKIANOBODY", SECRET_KEY)]
    {
        let credentials = S3Credentials {
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
            session_token: Some("t0ken".to_owned()),
        };
        assert_eq!(format!("{credentials:?}"), "S3Credentials(***)");
        let s3 = S3Settings { credentials: Some(credentials), ..settings(&server.endpoint()) };
        let stores = stores_with(s3, "s3://bucket/x", &["s3://bucket"], Trust::Submitted);
        let errors = [
            ("storage", stores.own().check().await.unwrap_err()),
            ("input_unreachable", stores.inputs().read("s3://bucket/in.png", 9).await.unwrap_err()),
        ];
        for (code, error) in errors {
            let text = error.to_string();
            assert_eq!((error.code(), error.class()), (code, ErrorClass::Transient), "{text}");
            assert!(text.contains("credentials") && text.contains("AWS_SECRET_ACCESS_KEY"), "{text}");
            assert!(!text.contains("wr0ng-secret") && !text.contains(SECRET_KEY) && !text.contains("t0ken"), "{text}");
        }
    }
}

#[tokio::test]
async fn a_prefix_is_listed_page_by_page_and_a_folder_too() {
    let server = S3Server::start(&["pictures"]).await;
    let folder = server.folder.path().join("pictures/posters");
    std::fs::create_dir_all(folder.join("deep/er")).unwrap();
    std::fs::create_dir_all(server.folder.path().join("pictures/posters-of-others")).unwrap();
    std::fs::write(server.folder.path().join("pictures/posters-of-others/x.png"), "x").unwrap();
    for number in 0..1203 {
        std::fs::write(folder.join(format!("{number:04}.png")), "12").unwrap();
    }
    std::fs::write(folder.join("deep/er/last.png"), "12345").unwrap();
    let circle = folder.join("deep/circle");
    std::os::unix::fs::symlink(&folder, &circle).unwrap();

    let stores = stores_with(settings(&server.endpoint()), "s3://pictures", &[], Trust::Local);
    for prefix in [file_url(&folder), "s3://pictures/posters".to_owned(), "s3://pictures/posters/".to_owned()] {
        if prefix.starts_with("s3://") {
            std::fs::remove_file(&circle).ok();
        }
        let mut listing = stores.inputs().list(&prefix).unwrap();
        let (mut pages, mut urls) = (0, Vec::new());
        while let Some(page) = listing.next().await.unwrap() {
            pages += 1;
            urls.extend(page);
        }
        let prefix = prefix.trim_end_matches('/');
        assert_eq!((pages, urls.len()), (2, 1204), "{prefix}");
        let last = urls.iter().find(|listed| listed.url.ends_with("last.png")).unwrap();
        assert_eq!((last.url.as_str(), last.size), (format!("{prefix}/deep/er/last.png").as_str(), 5));
        assert_eq!(stores.inputs().read(&last.url, 9).await.unwrap(), b"12345");
    }
    assert!(stores.inputs().list("https://h/x").is_err());
    let mut nothing = stores.inputs().list("s3://pictures/none").unwrap();
    assert_eq!(nothing.next().await.unwrap(), Some(Vec::new()));
    assert_eq!(nothing.next().await.unwrap(), None);
    assert!(stores.inputs().list("file:///no/such/folder").unwrap().next().await.is_err());
}
