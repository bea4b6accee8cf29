//! Servers and networks that fail halfway.

use std::fs;
use std::time::{Duration, Instant};

use qwen_image::hub::{DownloadEvent, HubError};

use super::server::{COMMIT, Fault};
use super::{Fixture, SHARD, SHARD_BYTES, assert_whole, kind, noise};

fn ranges(fixture: &Fixture) -> Vec<Option<String>> {
    fixture.hub.fetches(SHARD).into_iter().map(|request| request.range).collect()
}

fn sent(fixture: &Fixture) -> usize {
    fixture.hub.fetches(SHARD).iter().map(|request| request.sent).sum()
}

#[test]
fn a_cut_connection_goes_on_where_it_stopped() {
    let fixture = Fixture::new();
    fixture.hub.fault(SHARD, Fault::CutAfter(SHARD_BYTES / 2));
    let (snapshot, events) = fixture.pull_revision("main");
    assert_whole(&snapshot.unwrap());
    assert_eq!(ranges(&fixture), [None, Some("bytes=300000-".to_owned())]);
    assert_eq!(sent(&fixture), SHARD_BYTES, "no byte twice");
    assert!(events.iter().any(|event| matches!(event, DownloadEvent::Retrying { file, .. } if file == SHARD)));
}

#[test]
fn a_connection_that_is_always_cut_ends_in_an_error_and_the_next_run_resumes() {
    let fixture = Fixture::new();
    fixture.hub.always(SHARD, Fault::CutAfter(100_000));
    let error = fixture.pull().unwrap_err();
    assert!(matches!(error, HubError::Network { .. }), "{error:?}");
    assert!(error.to_string().contains(SHARD) && error.to_string().contains("resumes there"), "{error}");
    assert_eq!(ranges(&fixture).len(), 4, "as many attempts as configured");
    let shard = noise(SHARD_BYTES, 1);
    assert_eq!(fs::read(fixture.partial(&shard)).unwrap(), shard[..400_000]);
    assert_eq!(kind(&error), "download");

    fixture.hub.heal();
    fixture.hub.forget();
    assert_whole(&fixture.pull().unwrap());
    assert_eq!(ranges(&fixture), [Some("bytes=400000-".to_owned())]);
    assert_eq!(sent(&fixture), 200_000);
    assert!(!fixture.partial(&shard).exists());
}

#[test]
fn a_silent_server_counts_as_cut() {
    let mut fixture = Fixture::new();
    fixture.config.retry.stall = Duration::from_millis(300);
    fixture.hub.fault(SHARD, Fault::StallAfter(100_000));
    let start = Instant::now();
    assert_whole(&fixture.pull().unwrap());
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(ranges(&fixture), [None, Some("bytes=100000-".to_owned())]);
}

/// The limit applies to silence, not to the duration of a response.
#[test]
fn a_slow_server_is_listened_to_for_as_long_as_it_sends() {
    let mut fixture = Fixture::new();
    fixture.config.retry.stall = Duration::from_millis(800);
    fixture.hub.fault(SHARD, Fault::Trickle(8, Duration::from_millis(200)));
    let start = Instant::now();
    assert_whole(&fixture.pull().unwrap());
    assert!(start.elapsed() > Duration::from_millis(1600));
    assert_eq!(ranges(&fixture), [None], "one request brings it all");
    assert_eq!(sent(&fixture), SHARD_BYTES);
}

#[test]
fn wrong_bytes_are_fetched_once_more() {
    let fixture = Fixture::new();
    fixture.hub.fault(SHARD, Fault::WrongBytes);
    assert_whole(&fixture.pull().unwrap());
    assert_eq!(ranges(&fixture), [None, None]);
}

#[test]
fn wrong_bytes_twice_are_an_error_and_are_not_kept() {
    for (file, content) in [(SHARD, noise(SHARD_BYTES, 1)), ("vae/config.json", b"{}".to_vec())] {
        let fixture = Fixture::new();
        fixture.hub.always(file, Fault::WrongBytes);
        match fixture.pull().unwrap_err() {
            HubError::Checksum { file: bad, expected, actual, .. } => {
                assert_eq!(bad, file);
                let hash = if file == SHARD { super::server::sha256 } else { super::server::git_sha1 };
                assert_eq!(expected, hash(&content));
                assert_eq!(actual, hash(&content.iter().map(|b| b ^ 1).collect::<Vec<_>>()));
                let blobs = fixture.repo().join("blobs");
                assert!(!blobs.join(&expected).exists());
                assert!(!blobs.join(format!("{expected}.incomplete")).exists());
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(fixture.hub.fetches(file).len(), 2);
        assert!(!fixture.repo().join("snapshots").exists());
    }
}

#[test]
fn a_damaged_partial_file_is_thrown_away() {
    let fixture = Fixture::new();
    let shard = noise(SHARD_BYTES, 1);
    fs::create_dir_all(fixture.repo().join("blobs")).unwrap();
    for damage in [vec![7; 1000], vec![7; SHARD_BYTES], vec![7; SHARD_BYTES + 1]] {
        fs::write(fixture.partial(&shard), damage).unwrap();
        assert_whole(&fixture.pull().unwrap());
        fs::remove_dir_all(fixture.repo().join("snapshots")).unwrap();
        fs::remove_file(fixture.repo().join("blobs").join(super::server::sha256(&shard))).unwrap();
    }
    // Wrong content after a resume, wrong content without one, and a partial file that is too long to resume.
    assert_eq!(ranges(&fixture), [Some("bytes=1000-".to_owned()), None, None, None]);
}

#[test]
fn a_partial_file_that_is_complete_only_gets_its_name() {
    let fixture = Fixture::new();
    let shard = noise(SHARD_BYTES, 1);
    fs::create_dir_all(fixture.repo().join("blobs")).unwrap();
    fs::write(fixture.partial(&shard), &shard).unwrap();
    assert_whole(&fixture.pull().unwrap());
    assert_eq!(ranges(&fixture).len(), 0);
}

#[test]
fn a_server_that_ignores_ranges_is_read_from_the_start() {
    let fixture = Fixture::new();
    fixture.hub.fault(SHARD, Fault::CutAfter(250_000));
    fixture.hub.fault(SHARD, Fault::IgnoreRange);
    assert_whole(&fixture.pull().unwrap());
    assert_eq!(ranges(&fixture), [None, Some("bytes=250000-".to_owned())]);
    assert_eq!(sent(&fixture), 250_000 + SHARD_BYTES);
}

#[test]
fn a_file_of_another_length_is_refused() {
    for (fault, actual) in [
        (Fault::Length(SHARD_BYTES + 10), "600010 bytes"),
        (Fault::Length(SHARD_BYTES - 10), "599990 bytes"),
        (Fault::EndAfter(SHARD_BYTES + 10), "bytes"),
    ] {
        let fixture = Fixture::new();
        fixture.hub.always(SHARD, fault);
        let error = fixture.pull().unwrap_err();
        assert!(matches!(&error, HubError::Checksum { expected, .. } if expected == "600000 bytes"), "{error:?}");
        assert!(error.to_string().contains(actual), "{error}");
        assert!(!fixture.repo().join("snapshots").exists());
    }
}

#[test]
fn a_body_that_just_ends_early_is_continued() {
    let fixture = Fixture::new();
    fixture.hub.fault(SHARD, Fault::EndAfter(150_000));
    assert_whole(&fixture.pull().unwrap());
    assert_eq!(ranges(&fixture), [None, Some("bytes=150000-".to_owned())]);
}

#[test]
fn server_errors_are_retried_and_retry_after_is_kept() {
    let fixture = Fixture::new();
    fixture.hub.fault("listing", Fault::Status(500, ""));
    fixture.hub.fault("listing", Fault::Status(429, "Retry-After: 1\r\n"));
    fixture.hub.fault(SHARD, Fault::Status(503, ""));
    let start = Instant::now();
    let (snapshot, events) = fixture.pull_revision("main");
    assert_whole(&snapshot.unwrap());
    assert!(start.elapsed() >= Duration::from_secs(1));
    let waits: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            DownloadEvent::Retrying { wait, reason, .. } => Some((*wait >= Duration::from_secs(1), reason.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(waits.iter().map(|(long, _)| *long).collect::<Vec<_>>(), [false, true, false]);
    assert!(waits[1].1.contains("429"), "{waits:?}");
}

#[test]
fn a_server_that_asks_for_an_hour_is_not_waited_for() {
    let fixture = Fixture::new();
    fixture.hub.always("listing", Fault::Status(429, "Retry-After: 3600\r\n"));
    let error = fixture.pull().unwrap_err();
    assert!(error.to_string().contains("429") && error.to_string().contains("3600 s"), "{error}");
    assert_eq!(fixture.hub.log().len(), 1);
}

#[test]
fn an_expired_address_of_a_large_file_is_asked_for_again() {
    let fixture = Fixture::new();
    fixture.hub.fault(SHARD, Fault::Status(403, ""));
    assert_whole(&fixture.pull().unwrap());
    let asked = fixture.hub.log().iter().filter(|r| r.path.contains("/resolve/") && r.path.ends_with(SHARD)).count();
    assert_eq!(asked, 2);
}

#[test]
fn a_refusal_says_what_to_do_and_is_not_repeated() {
    for (status, extra) in [(401, ""), (403, "X-Error-Message: Access to model Org/Model is restricted\r\n")] {
        let fixture = Fixture::new();
        fixture.hub.always("listing", Fault::Status(status, extra));
        let error = fixture.pull().unwrap_err();
        assert!(matches!(error, HubError::Unauthorized { .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains("`HubConfig::token`") && text.contains("license") && text.contains(&status.to_string()),
            "{text}"
        );
        assert_eq!(text.contains("restricted"), status == 403);
        assert_eq!(fixture.hub.log().len(), 1);
        assert_eq!(kind(&error), "model_not_found");
    }
    // A gated model lists its files for everyone but refuses their contents.
    let fixture = Fixture::new();
    fixture.hub.always("model_index.json", Fault::Status(401, "X-Error-Code: GatedRepo\r\n"));
    assert!(matches!(fixture.pull(), Err(HubError::Unauthorized { .. })));
}

#[test]
fn an_unknown_revision_or_repository_is_not_found() {
    let fixture = Fixture::new();
    let error = fixture.pull_revision("nowhere").0.unwrap_err();
    assert!(matches!(&error, HubError::NotFound { revision, .. } if revision == "nowhere"), "{error:?}");
    assert_eq!(fixture.hub.log().len(), 1);
    assert_eq!(kind(&error), "model_not_found");
    assert!(!fixture.repo().exists(), "a name that does not exist leaves no trace");
}

#[test]
fn nobody_listening_is_a_network_error_after_bounded_attempts() {
    let mut fixture = Fixture::new();
    fixture.config.endpoint = "http://127.0.0.1:9".to_owned();
    let (result, events) = fixture.pull_revision("main");
    let error = result.unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error:?}");
    let text = error.to_string();
    for said in ["http://127.0.0.1:9", "there is no folder Org/Model, so it was used as a hub id"] {
        assert!(text.contains(said), "{text}");
    }
    assert!(!text.contains("downloaded part"), "nothing has: {text}");
    assert_eq!(events.iter().filter(|event| matches!(event, DownloadEvent::Retrying { .. })).count(), 2);
    assert_eq!(kind(&error), "download");

    // TLS is built in, and a server that does not speak it is an error like any other.
    fixture.config.endpoint = fixture.hub.endpoint.replace("http:", "https:");
    assert!(matches!(fixture.pull(), Err(HubError::Unreachable { .. })));
}

/// Once the hub has responded, a broken network gets all the attempts.
#[test]
fn a_hub_that_answered_before_is_tried_longer() {
    let fixture = Fixture::new();
    fixture.hub.always("listing", Fault::Status(503, ""));
    let (result, events) = fixture.pull_revision("main");
    assert!(matches!(result, Err(HubError::Network { .. })), "{result:?}");
    assert_eq!(events.iter().filter(|event| matches!(event, DownloadEvent::Retrying { .. })).count(), 3);
}

#[test]
fn an_endpoint_that_is_no_address_is_a_mistake_of_the_configuration() {
    let mut fixture = Fixture::new();
    for endpoint in ["no address", "huggingface.co", "ftp://huggingface.co", "https://"] {
        fixture.config.endpoint = endpoint.to_owned();
        let (result, events) = fixture.pull_revision("main");
        let error = result.unwrap_err();
        assert!(matches!(error, HubError::Endpoint { .. }), "{error:?}");
        for said in [endpoint, "not an http or https address", "`HubConfig::endpoint`"] {
            assert!(error.to_string().contains(said), "{error}");
        }
        assert_eq!(kind(&error), "invalid_request");
        assert_eq!(events, []);
    }
}

#[test]
fn redirects_without_end_are_refused_and_signatures_not_shown() {
    let fixture = Fixture::new();
    fixture.hub.always(
        SHARD,
        Fault::Status(302, "Location: /cdn/transformer/diffusion_pytorch_model.safetensors?Signature=secret\r\n"),
    );
    let error = fixture.pull().unwrap_err();
    assert!(error.to_string().contains("redirects endlessly"), "{error}");
    fixture.hub.always(SHARD, Fault::Status(403, ""));
    let error = fixture.pull().unwrap_err();
    assert!(error.to_string().contains("403") && !error.to_string().contains("secret"), "{error}");
}

#[test]
fn weights_as_pickle_are_refused() {
    let fixture = Fixture::new();
    fixture.hub.put("text_encoder/config.json", b"{}".to_vec());
    fixture.hub.put("text_encoder/pytorch_model.bin", vec![0x80; 10]);
    let error = fixture.pull().unwrap_err();
    assert!(matches!(&error, HubError::Pickle { example, .. } if example == "text_encoder/pytorch_model.bin"));
    assert!(error.to_string().contains("run arbitrary code"), "{error}");
    assert_eq!(kind(&error), "model_invalid");
    assert_eq!(fixture.hub.log().len(), 1);

    // Next to safetensors it is simply left out.
    fixture.hub.put("text_encoder/model.safetensors", noise(100, 3));
    let snapshot = fixture.pull().unwrap();
    assert!(snapshot.folder.join("text_encoder/model.safetensors").exists());
    assert!(!snapshot.folder.join("text_encoder/pytorch_model.bin").exists());
}

#[test]
fn a_list_that_names_files_outside_or_no_hashes_is_refused() {
    let git = "ce013625030ba8dba906f756967f9e9ca394464a";
    let list = |path: &str, blob: &str| {
        format!(r#"{{"sha": "{COMMIT}", "siblings": [{{"rfilename": "{path}", "size": 2, "blobId": "{blob}"}}]}}"#)
    };
    for (json, said) in [
        (list("vae/../../../../evil.json", git), "not a path inside"),
        (list("/etc/evil.json", git), "not a path inside"),
        (list("vae/config.json", "../../evil"), "no git hash"),
        (list("vae/config.json", ""), "no git hash"),
        (list("vae/config.json", git).replace(COMMIT, "../.."), "not a commit"),
        ("<html>sign in</html>".to_owned(), "expected value"),
    ] {
        let fixture = Fixture::new();
        fixture.hub.set_listing(&json);
        let error = fixture.pull().unwrap_err();
        assert!(matches!(error, HubError::Listing { .. }), "{error:?}");
        assert!(error.to_string().contains(said), "{error}");
        assert!(!fixture.repo().exists());
    }
    let fixture = Fixture::new();
    fixture.hub.set_listing(&list("README.md", git));
    assert!(matches!(fixture.pull(), Err(HubError::NotAModel { .. })));
    // If the response names another commit, the download would not be pinned.
    let other = "ffff456789abcdef0123456789abcdef01234567";
    assert!(matches!(fixture.pull_revision(other).0, Err(HubError::Listing { .. })));
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let mut fixture = Fixture::new();
    let blocked = fixture.cache().join("file");
    fs::write(&blocked, b"").unwrap();
    fixture.config.cache_dir = blocked.clone();
    let error = fixture.pull().unwrap_err();
    assert!(matches!(error, HubError::Io { .. }), "{error:?}");
    assert!(error.to_string().contains(blocked.to_str().unwrap()), "{error}");
    assert_eq!(kind(&error), "storage");
}
