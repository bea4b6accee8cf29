//! AWS's own settings: every way to log in, the variables for endpoints, and what is said where something is missing.
//! The S3 server is real and checks signatures; those that give credentials are stand-ins.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use crate::{
    common::{Ran, TestDir, ran},
    services::{
        proxy::Proxy,
        s3_server::{ACCESS_KEY, S3Server, SECRET_KEY},
    },
};

const LATER: &str = "2099-01-01T00:00:00Z";

/// Answers every request with this body, and remembers what was asked.
fn saying(media_type: &'static str, body: String) -> (String, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let heard = Arc::new(Mutex::new(String::new()));
    let kept = heard.clone();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut bytes = [0; 8192];
            let read = stream.read(&mut bytes).unwrap_or_default();
            kept.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..read]));
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            stream.write_all(format!("{head}{body}").as_bytes()).ok();
        }
    });
    (address, heard)
}

async fn doctor(place: &TestDir, settings: &[(&str, &str)]) -> Ran {
    let mut command = place.command(&["doctor"]);
    command.env("ACETATE__STORE__URL", "s3://bucket/x").env("AWS_EC2_METADATA_DISABLED", "true");
    command.envs(settings.iter().copied());
    ran(tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap())
}

/// What doctor says of the store.
fn results(doctor: &Ran) -> String {
    doctor.stdout.lines().find(|line| line.starts_with("results")).unwrap_or_else(|| panic!("{doctor:?}")).to_owned()
}

fn aws_config(place: &TestDir, text: &str) {
    fs::create_dir_all(place.path(".aws")).unwrap();
    fs::write(place.path(".aws/config"), text).unwrap();
}

/// AWS has a host for each region; a typo is one that nobody knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_does_not_exist_is_named() {
    let place = TestDir::new();
    let key = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];
    let line = results(&doctor(&place, &[&key[..], &[("AWS_REGION", "us-esat-1")]].concat()).await);
    assert!(line.contains("BROKEN") && line.contains("`us-esat-1`") && line.contains("AWS_REGION"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_log_in_is_compiled_in() {
    let server = S3Server::start(&["bucket"]).await;
    let endpoint = server.endpoint();
    let of_s3 = ("AWS_ENDPOINT_URL_S3", endpoint.as_str());

    // An external process.
    let place = TestDir::new();
    let script = place.path("credentials.sh");
    fs::write(
        &script,
        format!(
            "#!/bin/sh\necho '{{\"Version\":1,\"AccessKeyId\":\"{ACCESS_KEY}\",\"SecretAccessKey\":\"{SECRET_KEY}\",\"Expiration\":\"{LATER}\"}}'\n"
        ),
    )
    .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    aws_config(&place, &format!("[profile process]\ncredential_process = {}\n", script.display()));
    let line = results(&doctor(&place, &[of_s3, ("AWS_PROFILE", "process")]).await);
    assert!(line.contains(" ok "), "process: {line}");

    // SSO, after `aws sso login`.
    let (sso, heard) = saying(
        "application/json",
        format!(
            "{{\"roleCredentials\":{{\"accessKeyId\":\"{ACCESS_KEY}\",\"secretAccessKey\":\"{SECRET_KEY}\",\"expiration\":4070908800000}}}}"
        ),
    );
    aws_config(
        &place,
        "[profile sso]\nsso_session = corp\nsso_account_id = 123456789012\nsso_role_name = Dev\nregion = us-east-1\n\
         [sso-session corp]\nsso_region = us-east-1\nsso_start_url = https://corp.awsapps.com/start\n",
    );
    let cache = place.path(".aws/sso/cache");
    fs::create_dir_all(&cache).unwrap();
    let token = format!(
        "{{\"accessToken\":\"t0ken\",\"expiresAt\":\"{LATER}\",\"region\":\"us-east-1\",\"startUrl\":\"https://corp.awsapps.com/start\"}}"
    );
    // The SHA-1 of the session's name.
    fs::write(cache.join("ee0bfd2552fbd840c02cc48b6e823320543c450f.json"), token).unwrap();
    let line = results(&doctor(&place, &[of_s3, ("AWS_PROFILE", "sso"), ("AWS_ENDPOINT_URL_SSO", &sso)]).await);
    assert!(line.contains(" ok "), "sso: {line}");
    assert!(heard.lock().unwrap().contains("/federation/credentials"), "{heard:?}");

    // A web identity, as in Kubernetes.
    let (sts, heard) = saying(
        "text/xml",
        format!(
            "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleWithWebIdentityResult>\
             <Credentials><AccessKeyId>{ACCESS_KEY}</AccessKeyId><SecretAccessKey>{SECRET_KEY}</SecretAccessKey>\
             <SessionToken>t</SessionToken><Expiration>{LATER}</Expiration></Credentials>\
             </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
        ),
    );
    let place = TestDir::new();
    fs::write(place.path("token"), "web-identity").unwrap();
    let token = place.text("token");
    let web = [
        of_s3,
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/worker"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", &token),
        ("AWS_ENDPOINT_URL_STS", &sts),
    ];
    let line = results(&doctor(&place, &web).await);
    assert!(line.contains(" ok ") || line.contains("security token"), "web identity: {line}");
    assert!(heard.lock().unwrap().contains("AssumeRoleWithWebIdentity"), "{heard:?}");

    // A container's.
    let (container, heard) = saying(
        "application/json",
        format!(
            "{{\"AccessKeyId\":\"{ACCESS_KEY}\",\"SecretAccessKey\":\"{SECRET_KEY}\",\"Token\":\"t\",\"Expiration\":\"{LATER}\"}}"
        ),
    );
    let container = format!("{container}/credentials");
    let line = results(&doctor(&place, &[of_s3, ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container)]).await);
    assert!(line.contains(" ok ") || line.contains("security token"), "container: {line}");
    assert!(heard.lock().unwrap().contains("GET /credentials"), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_endpoint_of_s3_has_the_bucket_in_the_path() {
    let server = S3Server::start(&["bucket"]).await;
    let proxy = Proxy::before(server.address).await;
    let place = TestDir::new();
    let endpoint = proxy.endpoint();
    let keys = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];
    for name in ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "ACETATE__STORE__ENDPOINT"] {
        let line = results(&doctor(&place, &[&keys[..], &[(name, &endpoint)]].concat()).await);
        assert!(line.contains(" ok "), "{name}: {line}");
    }
    // In a profile, too.
    aws_config(&place, &format!("[default]\nservices = here\n[services here]\ns3 =\n  endpoint_url = {endpoint}\n"));
    let line = results(&doctor(&place, &keys).await);
    assert!(line.contains(" ok "), "{line}");
    let puts = proxy.seen("PUT");
    assert!(puts.len() == 4 && puts.iter().all(|head| head.starts_with("put /bucket/x/")), "{puts:?}");
    aws_config(&place, "");

    // Its own setting wins, and the address is in the message and not "AWS".
    let nobody = "http://127.0.0.1:9";
    let settings = [("AWS_ENDPOINT_URL_S3", endpoint.as_str()), ("ACETATE__STORE__ENDPOINT", nobody)];
    let line = results(&doctor(&place, &[&keys[..], &settings].concat()).await);
    assert!(line.contains("BROKEN") && line.contains(nobody), "{line}");
    let line = results(&doctor(&place, &[&keys[..], &[("AWS_ENDPOINT_URL_S3", nobody)]].concat()).await);
    assert!(line.contains(nobody), "{line}");

    let unknown = [("ACETATE__STORE__ENDPOINT", "http://acetate.invalid:9"), ("ACETATE__STORE__PATH_STYLE", "false")];
    let line = results(&doctor(&place, &[&keys[..], &unknown].concat()).await);
    assert!(line.contains("store.path_style = \"true\""), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_named_and_soon() {
    let server = S3Server::start(&["bucket"]).await;
    let endpoint = server.endpoint();
    let place = TestDir::new();
    aws_config(&place, "[profile work]\nregion = x\n[profile play]\nregion = x\n");
    let of_s3 = ("ACETATE__STORE__ENDPOINT", endpoint.as_str());
    for (settings, wanted) in [
        (&[("AWS_PROFILE", "wrok")][..], "AWS_PROFILE names `wrok`, which is not in"),
        (&[("AWS_PROFILE", "wrok")], "the profiles are work, play"),
        (&[("AWS_ACCESS_KEY_ID", ACCESS_KEY)], "AWS_ACCESS_KEY_ID is set, and AWS_SECRET_ACCESS_KEY is not"),
        (&[("AWS_SECRET_ACCESS_KEY", SECRET_KEY)], "AWS_SECRET_ACCESS_KEY is set, and AWS_ACCESS_KEY_ID is not"),
        (&[], "nothing was found in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ] {
        let start = Instant::now();
        let line = results(&doctor(&place, &[settings, &[of_s3]].concat()).await);
        assert!(line.contains("BROKEN") && line.contains(wanted), "{settings:?}: {line}");
        assert!(
            !line.contains(SECRET_KEY) && start.elapsed() < Duration::from_secs(10),
            "{:?}: {line}",
            start.elapsed()
        );
    }
}
