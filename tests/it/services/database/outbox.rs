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
    let job_store = database.service().await;
    let jobs: BTreeSet<JobId> = submitted_batch(&job_store, &batch("many"), 400).await.into_iter().collect();
    let mut relays = Vec::new();
    for _ in 0..4 {
        let job_store = database.service().await;
        relays.push(tokio::spawn(async move {
            let mut sent = Vec::new();
            loop {
                let taken = job_store.outbox_take(17, LEASE).await.unwrap();
                if taken.is_empty() {
                    return sent;
                }
                sent.extend(taken.iter().map(|row| row.job));
                job_store.outbox_done(&ids(&taken)).await.unwrap();
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
    let job_store = database.service().await;
    let id = submitted(&job_store).await;
    let first = job_store.outbox_take(10, Duration::from_millis(300)).await.unwrap();
    assert_eq!((first.len(), first[0].job, first[0].topic), (1, id, Topic::Dispatch));
    assert_eq!(job_store.outbox_take(10, LEASE).await.unwrap(), []);
    let second = until_some(|| take_all(&job_store)).await;
    assert_eq!(ids(&second), ids(&first));
    job_store.outbox_done(&ids(&second)).await.unwrap();
    // The first relay resumes.
    job_store.outbox_done(&ids(&first)).await.unwrap();
    assert_eq!(job_store.outbox_take(10, LEASE).await.unwrap(), []);
}

async fn what_could_not_be_sent_comes_again_later(database: Database) {
    let job_store = database.service().await;
    submitted(&job_store).await;
    let taken = job_store.outbox_take(10, LEASE).await.unwrap();
    job_store.outbox_release(&ids(&taken), Duration::from_millis(400)).await.unwrap();
    assert_eq!(job_store.outbox_take(10, LEASE).await.unwrap(), []);
    assert_eq!(ids(&until_some(|| take_all(&job_store)).await), ids(&taken));
    job_store.outbox_release(&[], NO_TIME).await.unwrap();
    job_store.outbox_done(&[]).await.unwrap();
}

async fn take_all(job_store: &JobStore) -> Vec<OutboxRow> {
    job_store.outbox_take(100, LEASE).await.unwrap()
}

/// Takes everything that is due out of the outbox without sending it.
async fn send_and_lose(job_store: &JobStore) -> usize {
    let taken = take_all(job_store).await;
    job_store.outbox_done(&ids(&taken)).await.unwrap();
    taken.len()
}

/// The time until the reaper finds one job.
async fn reaped(job_store: &JobStore, grace: Duration) -> Duration {
    let begin = Instant::now();
    until(|| async { if job_store.reap(grace).await.unwrap() == 0 { Err("nothing is found") } else { Ok(()) } }).await;
    begin.elapsed()
}

async fn a_lost_message_loses_no_job(database: Database) {
    let job_store = database.service().await;
    let grace = Duration::from_millis(500);
    let id = submitted(&job_store).await;
    assert_eq!(send_and_lose(&job_store).await, 1);
    let first = reaped(&job_store, grace).await;
    assert!(first > grace / 2, "it was sent just now: {first:?}");
    assert_eq!(job_store.reap(grace).await.unwrap(), 0, "once is enough");
    let again = job_store.outbox_take(10, LEASE).await.unwrap();
    assert_eq!((again[0].job, again[0].topic), (id, Topic::Dispatch));
    job_store.outbox_done(&ids(&again)).await.unwrap();
    let second = reaped(&job_store, grace).await;
    assert!(second > grace * 3 / 2, "the queue may merely be long: {second:?}");
    take(&job_store, id, "one", LEASE).await;
    assert_eq!(job_store.reap(NO_TIME).await.unwrap(), 0, "somebody works on it");
}

async fn a_job_whose_worker_died_is_dispatched_again(database: Database) {
    let job_store = database.service().await;
    let grace = Duration::from_secs(60);
    let id = submitted(&job_store).await;
    assert_eq!(send_and_lose(&job_store).await, 1);
    let dying = take(&job_store, id, "dying", Duration::from_millis(200)).await;
    assert_eq!(job_store.reap(grace).await.unwrap(), 0);
    let due = until_some(|| async { job_store.due(10).await.unwrap() }).await;
    assert_eq!(due.iter().map(|(id, ..)| *id).collect::<Vec<_>>(), [id]);
    assert_eq!(job_store.reap(grace).await.unwrap(), 1);
    assert_eq!(send_and_lose(&job_store).await, 1);
    assert_eq!(job_store.reap(grace).await.unwrap(), 0, "whoever gets the message may be busy");
    // The worker was only slow, and no other worker has claimed its job, so the result counts.
    assert!(matches!(job_store.succeed(id, dying.fence(), &result()).await.unwrap(), Fenced::Held(_)));
    assert_eq!(row(&job_store, id).await.state, JobState::Succeeded);
}

async fn a_change_wakes_those_who_wait(database: Database) {
    let job_store = database.service().await;
    let other = database.service().await;
    for watched in [&job_store, &other] {
        // Polling alone would wake two or three times. Between processes, SQLite has only that.
        let least = if database.is_postgres() || std::ptr::eq(watched, &raw const job_store) { 5 } else { 2 };
        let mut seen = Vec::new();
        // On a busy machine this may be late, but not every time.
        while !seen.iter().any(|woken| (least..20).contains(woken)) {
            assert!(seen.len() < 6, "woken {seen:?} times");
            seen.push(woken_within_a_second(&job_store, watched).await);
        }
    }
}

async fn woken_within_a_second(job_store: &JobStore, watched: &JobStore) -> usize {
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
        submitted(job_store).await;
    }
    waits.await.unwrap()
}
