//! The promises of the rows, against a real file.

use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::job::{
    CompositeParams, Epoch, ErrorRecord, FileEntry, InputRef, JobError, JobId, JobRequest, JobState, LayerRole, Output,
    Progress, Stage, Task,
};

const LEASE: Duration = Duration::from_secs(60);

async fn open() -> (tempfile::TempDir, SqliteStatus) {
    let folder = tempfile::tempdir().unwrap();
    let status = SqliteStatus::open(&folder.path().join("rows.db")).await.unwrap();
    (folder, status)
}

fn request(id: JobId, input: &str) -> JobRequest {
    JobRequest {
        id,
        inputs: vec![InputRef::Url(input.to_owned())],
        output: Output { prefix: "file:///out/".to_owned() },
        task: Task::Composite(CompositeParams::default()),
        labels: BTreeMap::new(),
        priority: 0,
    }
}

async fn submitted(status: &SqliteStatus) -> JobId {
    let id = JobId::new();
    assert!(matches!(status.submit(&request(id, "file:///a.png")).await.unwrap(), Submitted::New(_)));
    id
}

fn rules<'a>(worker: &'a str, lease: Duration) -> ClaimRules<'a> {
    ClaimRules { worker, lease, max_attempts: 3, is_dead: &|worker| worker == "dead" }
}

async fn take(status: &SqliteStatus, id: JobId, worker: &str, lease: Duration) -> JobRow {
    match status.claim(id, &rules(worker, lease)).await.unwrap() {
        Claim::Taken(row) => *row,
        other => panic!("{worker} should have got the job, not {other:?}"),
    }
}

fn result() -> Published {
    let file = FileEntry {
        name: "composite.png".to_owned(),
        role: LayerRole::Composite,
        width: 2,
        height: 3,
        size: 70,
        sha256: "ab".repeat(32),
    };
    Published { manifest: "j/1/manifest.json".to_owned(), files: vec![file] }
}

fn broken() -> ErrorRecord {
    ErrorRecord::from(&JobError::Storage { path: "/x".to_owned(), reason: "broken".to_owned() })
}

#[tokio::test]
async fn the_same_id_is_the_same_job_and_another_body_is_refused() {
    let (_folder, status) = open().await;
    let id = submitted(&status).await;
    let again = status.submit(&request(id, "file:///a.png")).await.unwrap();
    assert!(matches!(again, Submitted::Known(row) if row.state == JobState::Queued && row.id() == id));
    let error = status.submit(&request(id, "file:///b.png")).await.unwrap_err();
    assert!(matches!(&error, JobError::InvalidRequest { field, .. } if field == "id"), "{error}");
}

#[tokio::test]
async fn a_claim_raises_epoch_and_attempts_and_keeps_others_out() {
    let (_folder, status) = open().await;
    let id = submitted(&status).await;
    let row = take(&status, id, "one", LEASE).await;
    assert_eq!((row.state, row.epoch, row.attempts), (JobState::Running, Epoch(1), 1));
    let second = status.claim(id, &rules("two", LEASE)).await.unwrap();
    assert!(matches!(second, Claim::Held { worker, .. } if worker == "one"));
    assert_eq!(status.claim(JobId::new(), &rules("two", LEASE)).await.unwrap(), Claim::Unknown);
}

#[tokio::test]
async fn of_many_claims_at_once_one_wins() {
    let (_folder, status) = open().await;
    let id = submitted(&status).await;
    let claims = (0..8).map(|n| {
        let status = status.clone();
        tokio::spawn(async move { status.claim(id, &rules(&format!("w{n}"), LEASE)).await.unwrap() })
    });
    let mut taken = 0;
    for claim in claims.collect::<Vec<_>>() {
        taken += usize::from(matches!(claim.await.unwrap(), Claim::Taken(_)));
    }
    assert_eq!(taken, 1);
}

#[tokio::test]
async fn a_worker_that_lost_its_lease_loses_every_write() {
    let (_folder, status) = open().await;
    let id = submitted(&status).await;
    let slow = take(&status, id, "slow", Duration::ZERO).await;
    let quick = take(&status, id, "quick", LEASE).await;
    assert_eq!((quick.epoch, quick.attempts), (Epoch(2), 2));

    assert_eq!(status.heartbeat(id, slow.epoch, LEASE, None).await.unwrap(), Fenced::Lost);
    assert_eq!(status.succeed(id, slow.epoch, &result()).await.unwrap(), Fenced::Lost);
    assert_eq!(status.fail(id, slow.epoch, &broken()).await.unwrap(), Fenced::Lost);
    assert_eq!(status.requeue(id, slow.epoch, &broken(), LEASE).await.unwrap(), Fenced::Lost);
    assert_eq!(status.cancelled(id, slow.epoch).await.unwrap(), Fenced::Lost);

    let Fenced::Held(row) = status.succeed(id, quick.epoch, &result()).await.unwrap() else { panic!("lost") };
    assert_eq!((row.state, row.published), (JobState::Succeeded, Some(result())));
    let outcomes: Vec<_> = status.attempts(id).await.unwrap().into_iter().map(|a| (a.worker, a.outcome)).collect();
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(outcomes, [("slow".to_owned(), some("lost")), ("quick".to_owned(), some("succeeded"))]);
}

#[tokio::test]
async fn the_lease_of_a_dead_worker_counts_as_run_out() {
    let (_folder, status) = open().await;
    let id = submitted(&status).await;
    take(&status, id, "dead", LEASE).await;
    assert_eq!(take(&status, id, "next", LEASE).await.attempts, 2);
}

#[tokio::test]
async fn a_job_that_kills_its_workers_is_quarantined() {
    let (_folder, status) = open().await;
    let id = submitted(&status).await;
    for _ in 0..3 {
        take(&status, id, "dead", LEASE).await;
    }
    let Claim::Ended(row) = status.claim(id, &rules("next", LEASE)).await.unwrap() else { panic!("claimed") };
    assert_eq!((row.state, row.attempts), (JobState::Failed, 3));
    assert_eq!(row.error.unwrap().code, "attempts_exhausted");
}

#[tokio::test]
async fn progress_only_grows() {
    let (_folder, status) = open().await;
    let id = submitted(&status).await;
    let row = take(&status, id, "one", LEASE).await;
    let at = |sequence, step| Progress { sequence, stage: Stage::Denoise, step, steps: 50 };
    for progress in [at(5, 3), at(4, 2)] {
        let beat = status.heartbeat(id, row.epoch, LEASE, Some(&progress)).await.unwrap();
        assert_eq!(beat, Fenced::Held(Beat { cancel_requested: false }));
    }
    assert_eq!(status.get(id).await.unwrap().unwrap().progress, Some(at(5, 3)));
}

#[tokio::test]
async fn a_requeued_job_waits_for_its_time() {
    let (_folder, status) = open().await;
    let id = submitted(&status).await;
    let row = take(&status, id, "one", LEASE).await;
    let back = status.requeue(id, row.epoch, &broken(), LEASE).await.unwrap();
    assert!(matches!(back, Fenced::Held(row) if row.state == JobState::Queued && row.error == Some(broken())));
    assert!(matches!(status.claim(id, &rules("two", LEASE)).await.unwrap(), Claim::NotBefore(_)));
}

#[tokio::test]
async fn cancel_is_told_to_the_worker_or_done_at_once() {
    let (_folder, status) = open().await;
    let dead = |worker: &str| worker == "dead";
    let queued = submitted(&status).await;
    assert_eq!(status.cancel(queued, &dead).await.unwrap(), CancelOutcome::Cancelled);
    assert_eq!(status.cancel(queued, &dead).await.unwrap(), CancelOutcome::AlreadyEnded(JobState::Cancelled));

    let running = submitted(&status).await;
    let row = take(&status, running, "one", LEASE).await;
    assert_eq!(status.cancel(running, &dead).await.unwrap(), CancelOutcome::Requested);
    let beat = status.heartbeat(running, row.epoch, LEASE, None).await.unwrap();
    assert_eq!(beat, Fenced::Held(Beat { cancel_requested: true }));
    // An error on the way out does not bring a cancelled job back.
    let back = status.requeue(running, row.epoch, &broken(), Duration::ZERO).await.unwrap();
    assert!(matches!(back, Fenced::Held(row) if row.state == JobState::Cancelled));

    let orphan = submitted(&status).await;
    take(&status, orphan, "dead", LEASE).await;
    assert_eq!(status.cancel(orphan, &dead).await.unwrap(), CancelOutcome::Cancelled);
}

#[tokio::test]
async fn pages_hold_every_row_once() {
    let (_folder, status) = open().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(submitted(&status).await);
    }
    status.cancel(ids[0], &|_| false).await.unwrap();
    let mut seen = Vec::new();
    let mut filter = Filter { limit: 2, ..Filter::default() };
    loop {
        let page = status.list(&filter).await.unwrap();
        seen.extend(page.jobs.iter().map(JobRow::id));
        filter.after = page.next;
        if page.next.is_none() {
            break;
        }
    }
    seen.sort();
    ids.sort();
    assert_eq!(seen, ids);
    let queued = Filter { state: Some(JobState::Queued), limit: 10, ..Filter::default() };
    assert_eq!(status.list(&queued).await.unwrap().jobs.len(), 4);
}

#[tokio::test]
async fn unfinished_work_is_found_by_its_fingerprint() {
    let (_folder, status) = open().await;
    let id = submitted(&status).await;
    let fingerprint = request(id, "file:///a.png").fingerprint();
    assert_eq!(status.find_unfinished(&fingerprint).await.unwrap().unwrap().id(), id);
    status.cancel(id, &|_| false).await.unwrap();
    assert_eq!(status.find_unfinished(&fingerprint).await.unwrap(), None);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.db");
    std::fs::write(&path, "this is a text, long enough to be looked at as a header of a database").unwrap();
    let error = SqliteStatus::open(&path).await.unwrap_err().to_string();
    assert!(error.contains("rows.db") && error.contains("not a database"), "{error}");
}

#[tokio::test]
async fn a_row_that_cannot_be_read_does_not_hide_the_others() {
    let (_folder, status) = open().await;
    let (good, bad, last) = (submitted(&status).await, submitted(&status).await, submitted(&status).await);
    sqlx::query("UPDATE jobs SET request = '{}' WHERE id = ?")
        .bind(bad.to_string())
        .execute(&status.writer)
        .await
        .unwrap();
    let page = status.list(&Filter { limit: 2, ..Filter::default() }).await.unwrap();
    assert_eq!(page.jobs.iter().map(JobRow::id).collect::<Vec<_>>(), [last]);
    let page = status.list(&Filter { limit: 2, after: page.next, ..Filter::default() }).await.unwrap();
    assert_eq!((page.jobs.iter().map(JobRow::id).collect::<Vec<_>>(), page.next), (vec![good], None));
    assert!(status.get(bad).await.is_err());
}
