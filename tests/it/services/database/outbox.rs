//! Outgoing messages, and jobs whose message was lost.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use acetate::{
    database::{Fenced, JobStore, OutboxId, OutboxRow, Topic},
    job::{JobId, JobState},
};

use super::support::*;
use crate::common::until;

on_both!(
    two_relays_never_hold_the_same_message,
    a_relay_that_died_leaves_its_messages_to_others,
    what_could_not_be_sent_comes_again_later,
    a_lost_message_loses_no_job,
    a_job_whose_worker_died_is_dispatched_again,
    a_change_wakes_those_who_wait,
);

fn ids(rows: &[OutboxRow]) -> Vec<OutboxId> {
    rows.iter().map(|row| row.id).collect()
}

async fn two_relays_never_hold_the_same_message(database: Database) {
    let status = database.service().await;
    let jobs: BTreeSet<JobId> = submitted_batch(&status, &batch("many"), 400).await.into_iter().collect();
    let mut relays = Vec::new();
    for _ in 0..4 {
        let status = database.service().await;
        relays.push(tokio::spawn(async move {
            let mut sent = Vec::new();
            loop {
                let taken = status.outbox_take(17, LEASE).await.unwrap();
                if taken.is_empty() {
                    return sent;
                }
                sent.extend(taken.iter().map(|row| row.job));
                status.outbox_done(&ids(&taken)).await.unwrap();
            }
        }));
    }
    let mut sent = Vec::new();
    for relay in relays {
        sent.extend(relay.await.unwrap());
    }
    assert_eq!(sent.len(), 400);
    assert_eq!(sent.into_iter().collect::<BTreeSet<_>>(), jobs);
}

async fn a_relay_that_died_leaves_its_messages_to_others(database: Database) {
    let status = database.service().await;
    let id = submitted(&status).await;
    let first = status.outbox_take(10, Duration::from_millis(300)).await.unwrap();
    assert_eq!((first.len(), first[0].job, first[0].topic), (1, id, Topic::Dispatch));
    assert_eq!(status.outbox_take(10, LEASE).await.unwrap(), []);
    let second = until_some(|| take_all(&status)).await;
    assert_eq!(ids(&second), ids(&first));
    status.outbox_done(&ids(&second)).await.unwrap();
    // The first relay resumes.
    status.outbox_done(&ids(&first)).await.unwrap();
    assert_eq!(status.outbox_take(10, LEASE).await.unwrap(), []);
}

async fn what_could_not_be_sent_comes_again_later(database: Database) {
    let status = database.service().await;
    submitted(&status).await;
    let taken = status.outbox_take(10, LEASE).await.unwrap();
    status.outbox_release(&ids(&taken), Duration::from_millis(400)).await.unwrap();
    assert_eq!(status.outbox_take(10, LEASE).await.unwrap(), []);
    assert_eq!(ids(&until_some(|| take_all(&status)).await), ids(&taken));
    status.outbox_release(&[], NO_TIME).await.unwrap();
    status.outbox_done(&[]).await.unwrap();
}

async fn take_all(status: &JobStore) -> Vec<OutboxRow> {
    status.outbox_take(100, LEASE).await.unwrap()
}

/// Takes everything that is due out of the outbox without sending it.
async fn send_and_lose(status: &JobStore) -> usize {
    let taken = take_all(status).await;
    status.outbox_done(&ids(&taken)).await.unwrap();
    taken.len()
}

/// The time until the reaper finds one job.
async fn reaped(status: &JobStore, grace: Duration) -> Duration {
    let begin = Instant::now();
    until(|| async { if status.reap(grace).await.unwrap() == 0 { Err("nothing is found") } else { Ok(()) } }).await;
    begin.elapsed()
}

async fn a_lost_message_loses_no_job(database: Database) {
    let status = database.service().await;
    let grace = Duration::from_millis(500);
    let id = submitted(&status).await;
    assert_eq!(send_and_lose(&status).await, 1);
    let first = reaped(&status, grace).await;
    assert!(first > grace / 2, "it was sent just now: {first:?}");
    assert_eq!(status.reap(grace).await.unwrap(), 0, "once is enough");
    let again = status.outbox_take(10, LEASE).await.unwrap();
    assert_eq!((again[0].job, again[0].topic), (id, Topic::Dispatch));
    status.outbox_done(&ids(&again)).await.unwrap();
    let second = reaped(&status, grace).await;
    assert!(second > grace * 3 / 2, "the queue may merely be long: {second:?}");
    take(&status, id, "one", LEASE).await;
    assert_eq!(status.reap(NO_TIME).await.unwrap(), 0, "somebody works on it");
}

async fn a_job_whose_worker_died_is_dispatched_again(database: Database) {
    let status = database.service().await;
    let grace = Duration::from_secs(60);
    let id = submitted(&status).await;
    assert_eq!(send_and_lose(&status).await, 1);
    let dying = take(&status, id, "dying", Duration::from_millis(200)).await;
    assert_eq!(status.reap(grace).await.unwrap(), 0);
    let due = until_some(|| async { status.due(10).await.unwrap() }).await;
    assert_eq!(due.iter().map(|(id, ..)| *id).collect::<Vec<_>>(), [id]);
    assert_eq!(status.reap(grace).await.unwrap(), 1);
    assert_eq!(send_and_lose(&status).await, 1);
    assert_eq!(status.reap(grace).await.unwrap(), 0, "whoever gets the message may be busy");
    // The worker was only slow, and no other worker has claimed its job, so the result counts.
    assert!(matches!(status.succeed(id, dying.fence(), &result()).await.unwrap(), Fenced::Held(_)));
    assert_eq!(row(&status, id).await.state, JobState::Succeeded);
}

async fn a_change_wakes_those_who_wait(database: Database) {
    let status = database.service().await;
    let other = database.service().await;
    for watched in [&status, &other] {
        // Polling alone would wake two or three times. Between processes, SQLite has only that.
        let least = if database.is_postgres() || std::ptr::eq(watched, &raw const status) { 5 } else { 2 };
        let mut seen = Vec::new();
        // On a busy machine this may be late, but not every time.
        while !seen.iter().any(|woken| (least..20).contains(woken)) {
            assert!(seen.len() < 6, "woken {seen:?} times");
            seen.push(woken_within_a_second(&status, watched).await);
        }
    }
}

async fn woken_within_a_second(status: &JobStore, watched: &JobStore) -> usize {
    let mut changes = watched.changes();
    let waits = tokio::spawn(async move {
        let mut woken = 0;
        let begin = std::time::Instant::now();
        while begin.elapsed() < Duration::from_secs(1) {
            changes.wait_for_change().await;
            woken += 1;
        }
        woken
    });
    for _ in 0..4 {
        // Far enough apart that no two of them share a notification.
        tokio::time::sleep(Duration::from_millis(150)).await;
        submitted(status).await;
    }
    waits.await.unwrap()
}
