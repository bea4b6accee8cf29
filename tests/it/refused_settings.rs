//! Settings and flags that are refused, and by whom.

use std::fs;

use crate::common::TestDir;

/// What `acetate serve` and `acetate worker` refuse is not called ok.
#[test]
fn the_doctor_refuses_the_settings_that_services_refuse() {
    let place = TestDir::new();
    for (settings, wanted) in [
        ("[http]\nbind = \"8080\"", "http.bind"),
        ("[http]\nbind = \"localhost:8080\"", "http.bind"),
        ("[http]\nwebhook_secret = \"abc\"", "http.webhook_secret"),
        ("[http]\nwebhook_allow = [\"nowhere\"]", "http.webhook_allow"),
        ("[http]\ncors_origins = [\"*\"]", "http.cors_origins"),
        ("[worker]\nfailpoint = \"bogus\"", "worker.failpoint"),
    ] {
        fs::write(place.path("acetate.toml"), settings).unwrap();
        let ran = place.run(&["doctor"]);
        let line = ran.stdout.lines().find(|line| line.starts_with("settings")).unwrap();
        assert!(ran.code == Some(1) && line.contains("BROKEN") && line.contains(wanted), "{settings}: {ran:?}");
        let service = if wanted.starts_with("worker") { "worker" } else { "serve" };
        let ran = place.run(&[service]);
        assert!(ran.code == Some(2) && ran.stderr.contains(wanted), "{settings}: {ran:?}");
    }
}

#[test]
fn the_same_label_twice_is_refused() {
    let place = TestDir::new();
    let input = place.picture("a.png", [1, 2, 3, 255]);
    for command in ["run", "submit"] {
        let out = place.text("out");
        let address = format!("file://{out}");
        let args: &[&str] = match command {
            "run" => &["run", "composite", &input, "--out", &out],
            _ => &["submit", "composite", "--input", &input, "--output", &address],
        };
        let ran = place.run(&[args, &["--label", "tenant=a", "--label", "tenant=b"]].concat());
        assert!(
            ran.code == Some(2) && ran.stderr.contains("tenant is given twice, as tenant=a and tenant=b"),
            "{ran:?}"
        );
    }
}
