//! `acetate run` with its results in S3: the same command, the same files in `--out`.

use crate::{
    common::{TestDir, golden},
    services::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY},
};

#[test]
fn without_credentials_doctor_says_what_is_missing() {
    let place = TestDir::new();
    let mut command = place.command(&["doctor", "--json"]);
    command
        .env("ACETATE__STORE__URL", "s3://results")
        .env("ACETATE__STORE__ENDPOINT", "http://127.0.0.1:9")
        .env("AWS_EC2_METADATA_DISABLED", "true");
    let output = command.output().unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let results = shown["checks"].as_array().unwrap().iter().find(|check| check["name"] == "results").unwrap();
    assert_eq!((output.status.code(), &results["state"]), (Some(1), &"broken".into()), "{shown}");
    let text = results["text"].as_str().unwrap();
    assert!(text.contains("s3://results/") && text.contains("there are none; check AWS_ACCESS_KEY_ID"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn results_lie_in_s3_and_are_copied_out() {
    let server = S3Server::start(&["results"]).await;
    let place = TestDir::new();
    let pictures = golden("pictures/boat.png");
    let mut command = place.command(&["run", "composite", &pictures, &pictures, "--out", "out", "--json"]);
    command
        .env("ACETATE__STORE__URL", "s3://results/some prefix")
        .env("ACETATE__STORE__ENDPOINT", server.endpoint())
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        .env("AWS_EC2_METADATA_DISABLED", "true");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stderr}");
    let shown: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let manifest = shown["manifest"].as_str().unwrap();
    let path = manifest.strip_prefix("s3://").unwrap();
    assert!(path.starts_with("results/some prefix/") && path.ends_with("/1/manifest.json"), "{manifest}");
    let kept = std::fs::read(server.folder.path().join(path)).unwrap();
    assert_eq!(kept, std::fs::read(place.path("out/manifest.json")).unwrap());
    assert!(place.path("out/composite.png").is_file());
}
