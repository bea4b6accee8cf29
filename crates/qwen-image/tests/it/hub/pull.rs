//! Downloads without faults, and those that stop before they begin.

use std::fs;
use std::ops::ControlFlow;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use qwen_image::hub::{DownloadEvent, HubError};

use super::server::Fault;
use super::{COMMIT, Fixture, SHARD, SHARD_BYTES, assert_whole, kind, model_files, pull, token};

#[test]
fn a_model_is_fetched_at_one_commit_and_verified() {
    let fixture = Fixture::new();
    let (snapshot, events) = fixture.pull_revision("main");
    let snapshot = snapshot.unwrap();
    assert_whole(&snapshot);
    assert_eq!(snapshot.revision.as_deref(), Some(COMMIT));

    let log = fixture.hub.log();
    assert_eq!(log[0].path, "/api/models/Org/Model/revision/main");
    let resolves: Vec<_> = log.iter().filter(|r| r.path.contains("/resolve/")).collect();
    // Six wanted files, one of which is empty and needs no request.
    assert_eq!(resolves.len(), 5);
    assert!(resolves.iter().all(|r| r.path.starts_with(&format!("/Org/Model/resolve/{COMMIT}/"))));
    assert!(log.iter().all(|r| r.range.is_none()));

    let bytes: usize =
        model_files().iter().filter(|(p, _)| qwen_image::hub::diffusers_files(p)).map(|(_, b)| b.len()).sum();
    let bytes = bytes as u64;
    assert_eq!(
        events[0],
        DownloadEvent::Planned { id: "Org/Model".into(), commit: COMMIT.into(), files: 6, bytes, present: 0 }
    );
    assert_eq!(events.last(), Some(&DownloadEvent::Finished { folder: snapshot.folder }));
    assert_eq!(last_count(&events), Some(bytes));
    assert_eq!(events.iter().filter(|e| matches!(e, DownloadEvent::Verified { .. })).count(), 6);
}

/// The last count of bytes of the whole plan.
fn last_count(events: &[DownloadEvent]) -> Option<u64> {
    events.iter().rev().find_map(|event| match event {
        DownloadEvent::Progressed { bytes, .. } => Some(*bytes),
        _ => None,
    })
}

fn planned(events: &[DownloadEvent]) -> Option<u64> {
    events.iter().find_map(|event| match event {
        DownloadEvent::Planned { bytes, .. } => Some(*bytes),
        _ => None,
    })
}

#[test]
fn a_pinned_commit_that_is_complete_asks_nobody() {
    let fixture = Fixture::new();
    assert_whole(&fixture.pull_revision(COMMIT).0.unwrap());
    fixture.hub.forget();
    let (snapshot, events) = fixture.pull_revision(COMMIT);
    assert_whole(&snapshot.unwrap());
    assert_eq!(fixture.hub.log().len(), 0);
    assert!(matches!(events.as_slice(), [DownloadEvent::Finished { .. }]));
}

#[test]
fn a_branch_that_has_not_moved_costs_one_question() {
    let fixture = Fixture::new();
    fixture.pull().unwrap();
    fixture.hub.forget();
    assert_whole(&fixture.pull().unwrap());
    assert_eq!(fixture.hub.log().len(), 1);
}

#[test]
fn a_branch_that_moved_fetches_only_what_changed() {
    let fixture = Fixture::new();
    fixture.pull().unwrap();
    let moved = "ffff456789abcdef0123456789abcdef01234567";
    fixture.hub.set_commit(moved);
    fixture.hub.put("vae/config.json", b"{\"new\": true}".to_vec());
    fixture.hub.forget();
    let snapshot = fixture.pull().unwrap();
    assert_eq!(snapshot.revision.as_deref(), Some(moved));
    assert_eq!(fs::read(snapshot.folder.join("vae/config.json")).unwrap(), b"{\"new\": true}");
    let fetched: Vec<_> = fixture.hub.log().into_iter().filter(|r| r.path.contains("/resolve/")).collect();
    assert_eq!(fetched.len(), 1);
    // The old commit is untouched, and is still found by its hash.
    assert_whole(&fixture.pull_revision(COMMIT).0.unwrap());
}

#[test]
fn the_token_goes_to_the_hub_and_to_nobody_else() {
    let mut fixture = Fixture::new();
    fixture.config.token = token("hf_secret\n");
    fixture.pull().unwrap();
    let log = fixture.hub.log();
    let (cdn, hub): (Vec<_>, Vec<_>) = log.iter().partition(|request| request.on_cdn);
    assert_eq!(cdn.len(), 2);
    assert!(cdn.iter().all(|request| request.token.is_none()));
    assert!(hub.iter().all(|request| request.token.as_deref() == Some("Bearer hf_secret")));
    assert!(hub.iter().any(|request| request.path.starts_with("/small/")));
    assert!(!format!("{:?}", fixture.config).contains("hf_secret"));
}

#[test]
fn offline_uses_what_is_there_and_says_how_to_get_the_rest() {
    let mut fixture = Fixture::new();
    fixture.config.offline = true;
    let error = fixture.pull().unwrap_err();
    assert!(matches!(error, HubError::Offline { .. }));
    for said in ["Org/Model@main is not complete", "`HubConfig::offline`", "there is no folder Org/Model"] {
        assert!(error.to_string().contains(said), "{error}");
    }
    assert_eq!(fixture.hub.log().len(), 0);

    fixture.config.offline = false;
    fixture.pull().unwrap();
    fixture.hub.forget();
    fixture.config.offline = true;
    assert_whole(&fixture.pull().unwrap());
    assert_eq!(fixture.hub.log().len(), 0);

    let snapshot = fixture.pull().unwrap();
    fs::remove_file(snapshot.folder.join(SHARD)).unwrap();
    assert!(matches!(fixture.pull(), Err(HubError::Offline { .. })));
}

#[test]
fn a_hub_that_cannot_be_reached_is_no_obstacle_when_the_cache_is_complete() {
    let fixture = Fixture::new();
    fixture.pull().unwrap();
    fixture.hub.always("listing", Fault::Status(503, ""));
    fixture.hub.forget();
    let (snapshot, events) = fixture.pull_revision("main");
    assert_whole(&snapshot.unwrap());
    assert!(matches!(&events[0], DownloadEvent::Unreachable { reason } if reason.contains("503")), "{events:?}");
    assert_eq!(fixture.hub.log().len(), 1);
}

#[test]
fn a_full_disk_is_noticed_before_anything_is_fetched() {
    let mut fixture = Fixture::new();
    fixture.config.available_space = |_| Ok(1000);
    let error = fixture.pull().unwrap_err();
    assert!(matches!(error, HubError::NoSpace { available: 1000, needed, .. } if needed > 600_000), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("605.1 kB") && text.contains("1.0 kB are free"), "{text}");
    assert_eq!(fixture.hub.log().len(), 1);
    assert_eq!(kind(&error), "disk_full");
    assert!(error.to_string().contains("605.1 kB"), "{error}");
}

#[test]
fn what_is_there_already_needs_no_space() {
    let mut fixture = Fixture::new();
    fixture.hub.always(SHARD, Fault::CutAfter(0));
    fixture.hub.fault(SHARD, Fault::CutAfter(0));
    fixture.pull().unwrap_err();
    // Half of the shard and everything before it was downloaded earlier.
    let shard = model_files().into_iter().find(|(path, _)| *path == SHARD).unwrap().1;
    fs::write(fixture.partial(&shard), &shard[..SHARD_BYTES / 2]).unwrap();
    fixture.hub.heal();
    fixture.config.available_space = |_| Ok(310_000);
    assert_whole(&fixture.pull().unwrap());
}

#[test]
fn two_at_once_fetch_each_byte_once() {
    let fixture = Fixture::new();
    for (path, _) in model_files() {
        fixture.hub.fault(path, Fault::Slow(Duration::from_millis(30)));
    }
    let start = Barrier::new(2);
    let results: Vec<_> = std::thread::scope(|scope| {
        let run = || {
            start.wait();
            fixture.pull_revision("main")
        };
        let threads = [scope.spawn(run), scope.spawn(run)];
        threads.map(|thread| thread.join().unwrap()).into()
    });
    for (snapshot, events) in results {
        assert_whole(&snapshot.unwrap());
        let done: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                DownloadEvent::Progressed { bytes, .. } => Some(*bytes),
                _ => None,
            })
            .collect();
        assert!(done.is_sorted(), "{done:?}");
    }
    for (path, bytes) in model_files() {
        let sent: usize = fixture.hub.fetches(path).iter().map(|request| request.sent).sum();
        let expected = if qwen_image::hub::diffusers_files(path) { bytes.len() } else { 0 };
        assert_eq!(sent, expected, "{path}");
    }
}

#[test]
fn a_stop_is_noticed_at_once_and_the_next_run_goes_on() {
    let fixture = Fixture::new();
    fixture.hub.fault(SHARD, Fault::StallAfter(200_000));
    let mut began = None;
    let result = pull(&fixture.config, "main", &mut |event| match event {
        DownloadEvent::Progressed { file, file_bytes, .. } if file == SHARD && file_bytes == 200_000 => {
            began = Some(Instant::now());
            ControlFlow::Continue(())
        }
        // The server is silent now, so the download is stopped while it waits.
        DownloadEvent::Waiting if began.is_some() => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(result, Err(HubError::Cancelled)), "{result:?}");
    assert!(began.unwrap().elapsed() < Duration::from_millis(500));

    assert!(!fixture.repo().join("snapshots").exists(), "nothing half-written is visible");
    assert!(!fixture.repo().join("refs").exists());

    fixture.hub.forget();
    let (snapshot, events) = fixture.pull_revision("main");
    assert_whole(&snapshot.unwrap());
    let shard = fixture.hub.fetches(SHARD);
    assert_eq!(shard.len(), 1);
    assert_eq!(shard[0].range.as_deref(), Some("bytes=200000-"));
    // The counts of the second run continue from there, too.
    assert!(matches!(events[0], DownloadEvent::Planned { present, .. } if present > 200_000), "{:?}", events[0]);
    assert_eq!(last_count(&events), planned(&events));
    assert!(
        events
            .iter()
            .any(|event| matches!(event, DownloadEvent::Started { file, present: 200_000, .. } if file == SHARD))
    );
}
