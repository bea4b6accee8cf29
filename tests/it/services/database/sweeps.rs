//! Batches that are cancelled, retried and deleted a piece at a time, and what is remembered of the deleted.

use std::{collections::BTreeSet, time::Duration};

use acetate::{
    database::{
        Admission, CancelId, Claim, ErrorCount, Fenced, JobStore, PruneRules, RetryRules, Scope, SubmitOptions,
        Submitted,
    },
    job::{BatchId, Epoch, ErrorRecord, JobError, JobId, JobState},
};
use jiff::Timestamp;

use super::support::*;
use crate::common::until;

on_both!(
    a_deleted_job_is_remembered_until_no_message_can_wait_any_more,
    a_message_creates_a_job_once,
    a_refused_message_of_a_deleted_job_is_not_told,
    a_job_that_was_retried_since_it_was_read_is_not_deleted,
    another_job_of_a_deleted_id_goes_on_after_its_last_epoch,
    the_age_of_a_job_is_by_the_databases_clock,
    pages_of_old_jobs_pass_by_those_that_stay,
    a_job_that_goes_back_to_the_queue_during_a_cancel_is_cancelled_too,
    a_job_that_a_worker_takes_during_a_cancel_is_cancelled_too,
    a_cancelled_batch_ends_the_jobs_of_dead_workers,
    a_cancel_that_is_stopped_is_continued,
    cancelled_jobs_take_their_unsent_dispatches_along,
    a_batch_is_retried_by_state_and_code,
    a_retried_batch_starts_over,
    a_cancellation_is_taken_back_and_nothing_else,
);

async fn ended(job_store: &JobStore) -> JobId {
    let id = submitted(job_store).await;
    job_store.cancel(id, &|_| false).await.unwrap();
    id
}

async fn a_deleted_job_is_remembered_until_no_message_can_wait_any_more(database: Database) {
    let job_store = database.service().await;
    let (id, other) = (ended(&job_store).await, ended(&job_store).await);
    let waiting = submitted(&job_store).await;
    assert_eq!(job_store.deleted_at(id).await.unwrap(), None);
    let before = job_store.now().await.unwrap();
    assert_eq!(job_store.forget(&as_read(&job_store, &[id, waiting, JobId::new()]).await).await.unwrap().deleted, 1);
    let at = job_store.deleted_at(id).await.unwrap().unwrap();
    assert!(before <= at && at <= job_store.now().await.unwrap(), "{before} {at}");
    assert_eq!(job_store.deleted_at(waiting).await.unwrap(), None, "it is not deleted");

    // A message of it does not bring it back, whatever its body is; one of another job is a job.
    for input in ["file:///a.png", "file:///b.png"] {
        assert_eq!(
            job_store.submit_message(&request(id, input), &SubmitOptions::default()).await.unwrap(),
            Admission::Deleted(at)
        );
    }
    assert_eq!(claim(&job_store, id, "one").await, Claim::Unknown);
    assert_eq!(
        job_store.outbox_take(10, LEASE).await.unwrap().iter().filter(|row| row.job == id).count(),
        1,
        "the event"
    );

    // A client that submits it now means it.
    assert!(matches!(submit(&job_store, &request(id, "file:///a.png")).await, Submitted::New(_)));
    assert_eq!(
        job_store.submit_message(&request(id, "file:///a.png"), &SubmitOptions::default()).await.unwrap(),
        Admission::Job
    );
    take(&job_store, id, "one", LEASE).await;

    assert_eq!(job_store.forget(&as_read(&job_store, &[other]).await).await.unwrap().deleted, 1);
    assert_eq!(job_store.forget_tombstones(Duration::from_secs(60)).await.unwrap(), 0);
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(job_store.forget_tombstones(NO_TIME).await.unwrap(), 2);
    assert_eq!(job_store.deleted_at(other).await.unwrap(), None);
    assert_eq!(
        job_store.submit_message(&request(other, "file:///a.png"), &SubmitOptions::default()).await.unwrap(),
        Admission::Job
    );
}

async fn a_message_creates_a_job_once(database: Database) {
    let job_store = database.service().await;
    let id = JobId::new();
    let messages: Vec<_> = (0..12)
        .map(|_| {
            let job_store = job_store.clone();
            tokio::spawn(async move {
                job_store.submit_message(&request(id, "file:///a.png"), &SubmitOptions::default()).await
            })
        })
        .collect();
    for message in messages {
        assert_eq!(message.await.unwrap().unwrap(), Admission::Job);
    }
    assert_eq!(job_store.count().await.unwrap(), [(JobState::Queued, 1)]);
    assert_eq!(job_store.outbox_take(10, LEASE).await.unwrap().len(), 1);
    let error = job_store.submit_message(&request(id, "file:///b.png"), &SubmitOptions::default()).await.unwrap_err();
    assert!(matches!(&error, JobError::InvalidRequest { field, .. } if field == "id"), "{error}");
}

/// A prune looks at many jobs, deletes their files, and then their rows.
async fn a_job_that_was_retried_since_it_was_read_is_not_deleted(database: Database) {
    let job_store = database.service().await;
    let ids = [ended(&job_store).await, ended(&job_store).await, ended(&job_store).await, ended(&job_store).await];
    let read = as_read(&job_store, &ids).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    for &id in &ids[1..] {
        job_store.retry(id).await.unwrap();
    }
    // One succeeds, one is cancelled again, one waits.
    let taken = take(&job_store, ids[1], "one", LEASE).await;
    let _ = job_store.succeed(ids[1], taken.fence(), &result()).await.unwrap();
    job_store.cancel(ids[2], &|_| false).await.unwrap();
    let forgotten = job_store.prune(&read, None).await.unwrap();
    assert_eq!((forgotten.deleted, forgotten.left), (1, 3));
    assert_eq!(job_store.get(ids[0]).await.unwrap(), None);
    for (&id, state) in ids[1..].iter().zip([JobState::Succeeded, JobState::Cancelled, JobState::Queued]) {
        assert_eq!(row(&job_store, id).await.state, state);
        assert_eq!(job_store.deleted_at(id).await.unwrap(), None, "it is not remembered as deleted");
    }
    let forgotten = job_store.forget(&as_read(&job_store, &ids).await).await.unwrap();
    assert_eq!((forgotten.deleted, forgotten.left), (2, 1), "the first is gone, the last has not ended");
}

/// A worker of the deleted job may still be frozen, or write its files.
async fn another_job_of_a_deleted_id_goes_on_after_its_last_epoch(database: Database) {
    let job_store = database.service().await;
    let id = submitted(&job_store).await;
    let frozen = take(&job_store, id, "frozen", NO_TIME).await;
    let second = take(&job_store, id, "second", NO_TIME).await;
    // The last one found the result of the first in the store, and its row has that epoch.
    let third = take(&job_store, id, "third", LEASE).await;
    let _ = job_store.adopt(id, third.fence(), &result(), Epoch(1)).await.unwrap();
    assert_eq!((row(&job_store, id).await.epoch, third.epoch), (Epoch(1), Epoch(3)));
    assert_eq!(job_store.forget(&as_read(&job_store, &[id]).await).await.unwrap().deleted, 1);

    assert!(matches!(submit(&job_store, &request(id, "file:///a.png")).await, Submitted::New(_)));
    let next = take(&job_store, id, "next", LEASE).await;
    assert_eq!((next.epoch, next.attempts), (Epoch(4), 1));
    for old in [&frozen, &second, &third] {
        assert_eq!(job_store.heartbeat(id, old.fence(), LEASE, None).await.unwrap(), Fenced::Lost);
        assert_eq!(job_store.succeed(id, old.fence(), &result()).await.unwrap(), Fenced::Lost);
    }
    let _ = job_store.cancelled(id, next.fence()).await.unwrap();
    // A job that no worker had is deleted in between.
    for epoch in [4, 4, 5] {
        assert_eq!(job_store.forget(&as_read(&job_store, &[id]).await).await.unwrap().deleted, 1);
        submit(&job_store, &request(id, "file:///a.png")).await;
        if epoch == 4 {
            assert_eq!(row(&job_store, id).await.epoch, Epoch(0), "it has no files yet");
            job_store.cancel(id, &|_| false).await.unwrap();
        }
    }
    assert_eq!(take(&job_store, id, "last", LEASE).await.epoch, Epoch(5));
}

async fn a_refused_message_of_a_deleted_job_is_not_told(database: Database) {
    let job_store = database.service().await;
    let error = ErrorRecord::from(&JobError::invalid("version", "9 is not known"));
    let id = ended(&job_store).await;
    job_store.forget(&as_read(&job_store, &[id]).await).await.unwrap();
    assert!(!job_store.reject(id, "{}", &error).await.unwrap(), "its end was told before");
    assert_eq!(job_store.rejection(id).await.unwrap(), None);
}

async fn the_age_of_a_job_is_by_the_databases_clock(database: Database) {
    let job_store = database.service().await;
    let id = ended(&job_store).await;
    let now = job_store.now().await.unwrap();
    assert!(now.duration_since(Timestamp::now()).abs() < jiff::SignedDuration::from_secs(5), "{now}");
    let row = row(&job_store, id).await;
    assert!(row.finished_at.unwrap() <= now);
    let rules = |before| PruneRules { before, states: JobState::ALL.to_vec(), batch: None, limit: 10 };
    assert_eq!(job_store.count_prunable(&rules(now - Duration::from_secs(60))).await.unwrap(), 0);
    assert_eq!(job_store.count_prunable(&rules(now + Duration::from_secs(1))).await.unwrap(), 1);
}

async fn pages_of_old_jobs_pass_by_those_that_stay(database: Database) {
    let job_store = database.service().await;
    let ids = submitted_batch(&job_store, &batch("old"), 9).await;
    // The first stays, the second cannot be read, and the others go.
    for id in &ids[1..] {
        let fence = take(&job_store, *id, "one", LEASE).await.fence();
        assert!(matches!(job_store.fail(*id, fence, &broken()).await.unwrap(), Fenced::Held(_)));
    }
    database.sql(&format!("UPDATE jobs SET request = '{{}}' WHERE id = '{}'", ids[1])).await;
    let before = job_store.now().await.unwrap() + LEASE;
    let rules = PruneRules { before, states: JobState::ALL.to_vec(), batch: None, limit: 1 };
    assert_eq!(job_store.count_prunable(&rules).await.unwrap(), 8);
    let (mut seen, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = job_store.prunable(&rules, after).await.unwrap();
        seen.extend(page.jobs.iter().map(|job| job.id));
        // Every other one is let go between the pages.
        if let Some(job) = page.jobs.first().filter(|_| pages % 2 == 0) {
            job_store.forget(&as_read(&job_store, &[job.id]).await).await.unwrap();
        }
        pages += 1;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, ids[2..], "the order of arrival, each once");
}

async fn a_job_that_goes_back_to_the_queue_during_a_cancel_is_cancelled_too(database: Database) {
    let job_store = database.service().await;
    let name = batch("moving");
    // More than one step.
    let ids = submitted_batch(&job_store, &name, 1500).await;
    let moving = ids[3];
    let mut fence = None;
    let mut steps = 0;
    let cancelled = job_store.cancel_batch_in_steps(&name, CancelId::new(), |_| {
        steps += 1;
        // A worker takes the job before the sweep comes to it, and returns it behind the sweep.
        let job_store = job_store.clone();
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                match steps {
                    1 => fence = Some(take(&job_store, moving, "one", LEASE).await.fence()),
                    2 => drop(job_store.requeue(moving, fence.unwrap(), &broken(), NO_TIME).await.unwrap()),
                    _ => {}
                }
            });
        });
        true
    });
    assert_eq!(cancelled.await.unwrap(), 1500);
    assert_eq!(job_store.count().await.unwrap(), [(JobState::Cancelled, 1500)]);
}

async fn a_job_that_a_worker_takes_during_a_cancel_is_cancelled_too(database: Database) {
    let job_store = database.service().await;
    let name = batch("taken");
    let id = submitted_batch(&job_store, &name, 1).await[0];
    let mut looks = 0;
    let cancelled = job_store.cancel_batch_in_steps(&name, CancelId::new(), |_| {
        looks += 1;
        // After the look at the running jobs, and before that at the queued ones.
        if looks == 1 {
            let take = take(&job_store, id, "one", LEASE);
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(take)).fence();
        }
        true
    });
    assert_eq!(cancelled.await.unwrap(), 1);
    assert!(row(&job_store, id).await.cancel_requested);
}

async fn a_cancelled_batch_ends_the_jobs_of_dead_workers(database: Database) {
    let job_store = database.service().await;
    let name = batch("dead");
    let ids = submitted_batch(&job_store, &name, 4).await;
    take(&job_store, ids[0], "gone", NO_TIME).await;
    let asked = take(&job_store, ids[1], "alive", LEASE).await.fence();
    // Its worker dies after it was asked.
    take(&job_store, ids[2], "gone", Duration::from_millis(300)).await;
    assert_eq!(job_store.cancel_running(&name, CancelId::new()).await.unwrap(), 3);
    let scope = Scope::Batch(name.clone());
    until(|| async {
        let abandoned = job_store.abandoned_in(&scope, 10).await.unwrap();
        if abandoned == [ids[0], ids[2]] { Ok(()) } else { Err(format!("{abandoned:?} were left")) }
    })
    .await;
    let composite = async || {
        let counts = job_store.kind_counts().await.unwrap();
        counts.first().map(|counts| (counts.waiting + counts.dispatched, counts.running))
    };
    assert_eq!(composite().await, Some((3, 1)), "what dead workers left waits");
    assert_eq!(job_store.running_in(&scope).await.unwrap(), 1);

    // Two of dead workers, and one that waits.
    assert_eq!(job_store.cancel_batch(&name).await.unwrap(), 3);
    assert_eq!(job_store.abandoned_in(&scope, 10).await.unwrap(), []);
    let summary = job_store.batch_summary(&name).await.unwrap().unwrap();
    assert_eq!(summary.states, [(JobState::Cancelled, 3), (JobState::Running, 1)]);
    assert_eq!(attempts(&job_store, ids[0]).await[0].outcome.as_deref(), Some("lost"));
    assert!(matches!(job_store.cancelled(ids[1], asked).await.unwrap(), Fenced::Held(_)));
    let told = job_store.outbox_take(100, LEASE).await.unwrap();
    let told: BTreeSet<_> =
        told.iter().filter(|row| row.topic.as_str() == "job.cancelled").map(|row| row.job).collect();
    assert_eq!(told, ids.iter().copied().collect());
}

async fn a_cancel_that_is_stopped_is_continued(database: Database) {
    let job_store = database.service().await;
    let name = batch("long");
    submitted_batch(&job_store, &name, 2500).await;
    let mut steps = 0;
    let stopped = job_store.cancel_batch_in_steps(&name, CancelId::new(), |_| {
        steps += 1;
        steps < 2
    });
    let first = stopped.await.unwrap();
    assert!((1..2500).contains(&first), "{first}");
    assert_eq!(job_store.cancel_batch(&name).await.unwrap(), 2500 - first);
    let mut told = BTreeSet::new();
    loop {
        let taken = job_store.outbox_take(1000, LEASE).await.unwrap();
        if taken.is_empty() {
            break;
        }
        assert!(taken.iter().all(|row| row.topic.is_event() && told.insert(row.job)), "each is told once");
        job_store.outbox_done(&taken.iter().map(|row| row.id).collect::<Vec<_>>()).await.unwrap();
    }
    assert_eq!(told.len(), 2500);
}

async fn cancelled_jobs_take_their_unsent_dispatches_along(database: Database) {
    let job_store = database.service().await;
    let name = batch("unsent");
    submitted_batch(&job_store, &name, 3).await;
    job_store.cancel_batch(&name).await.unwrap();
    let left = job_store.outbox_take(10, LEASE).await.unwrap();
    assert_eq!(left.iter().map(|row| row.topic.as_str()).collect::<Vec<_>>(), ["job.cancelled"; 3]);
}

/// A batch with a succeeded, a running and a queued job, two cancelled ones, and failed ones of two codes.
async fn mixed(job_store: &JobStore, name: &BatchId) -> Vec<JobId> {
    let ids = submitted_batch(job_store, name, 8).await;
    let fence = take(job_store, ids[0], "one", LEASE).await.fence();
    assert!(matches!(job_store.succeed(ids[0], fence, &result()).await.unwrap(), Fenced::Held(_)));
    take(job_store, ids[1], "one", LEASE).await;
    for id in &ids[3..5] {
        job_store.cancel(*id, &|_| false).await.unwrap();
    }
    let invalid = ErrorRecord::from(&JobError::invalid("x", "\"code\":\"storage\""));
    for (id, error) in [(ids[5], broken()), (ids[6], broken()), (ids[7], invalid)] {
        let fence = take(job_store, id, "one", LEASE).await.fence();
        assert!(matches!(job_store.fail(id, fence, &error).await.unwrap(), Fenced::Held(_)));
    }
    ids
}

async fn a_batch_is_retried_by_state_and_code(database: Database) {
    let job_store = database.service().await;
    let (name, other) = (batch("mixed"), batch("other"));
    let elsewhere = mixed(&job_store, &other).await;
    let ids = mixed(&job_store, &name).await;
    let count = |state, code: &str, jobs| ErrorCount { state, code: code.to_owned(), jobs };
    let counts = [
        count(JobState::Cancelled, "cancelled", 2),
        count(JobState::Failed, "storage", 2),
        count(JobState::Failed, "invalid_request", 1),
    ];
    assert_eq!(job_store.error_counts(&name).await.unwrap(), counts);
    assert_eq!(job_store.error_counts(&batch("none")).await.unwrap(), []);

    let rules = |states: &[JobState], codes: &[&str]| RetryRules {
        batch: name.clone(),
        states: states.to_vec(),
        codes: codes.iter().map(|code| (*code).to_owned()).collect(),
        cancel: None,
    };
    let retry = async |rules: RetryRules| job_store.retry_batch(&rules, |_| true).await.unwrap();
    use JobState::{Cancelled, Failed};
    assert_eq!(retry(rules(&[], &[])).await, []);
    assert_eq!(retry(rules(&JobState::ALL, &["stor", "no_such_code", ""])).await, []);
    assert_eq!(retry(rules(&[Cancelled], &["storage"])).await, []);
    assert_eq!(retry(rules(&[Failed], &["no_such_code", "storage"])).await, ids[5..7]);
    assert_eq!(retry(rules(&[Failed], &["storage"])).await, []);
    assert_eq!(retry(rules(&[Failed], &[])).await, ids[7..]);
    // Those in other states stay, also when they are named.
    assert_eq!(retry(rules(&JobState::ALL, &[])).await, ids[3..5]);
    let states = [(JobState::Queued, 6), (JobState::Running, 1), (JobState::Succeeded, 1)];
    assert_eq!(job_store.batch_summary(&name).await.unwrap().unwrap().states, states);
    assert_eq!(job_store.error_counts(&other).await.unwrap(), counts);
    assert_eq!(row(&job_store, elsewhere[5]).await.state, Failed);
}

async fn a_cancellation_is_taken_back_and_nothing_else(database: Database) {
    let job_store = database.service().await;
    let name = batch("undone");
    let ids = submitted_batch(&job_store, &name, 8).await;
    // One was cancelled before, two by another cancellation of the batch; one has failed, one runs.
    job_store.cancel(ids[0], &|_| false).await.unwrap();
    let fence = take(&job_store, ids[1], "one", LEASE).await.fence();
    assert!(matches!(job_store.fail(ids[1], fence, &broken()).await.unwrap(), Fenced::Held(_)));
    let running = take(&job_store, ids[2], "one", LEASE).await;
    let (cancel, other) = (CancelId::new(), CancelId::new());
    assert_eq!(job_store.cancel_batch_in_steps(&name, cancel, |_| true).await.unwrap(), 6);
    let rules = |cancel| RetryRules {
        batch: name.clone(),
        states: vec![JobState::Cancelled],
        codes: Vec::new(),
        cancel: Some(cancel),
    };
    let undo = async |cancel| job_store.retry_batch(&rules(cancel), |_| true).await.unwrap();
    assert_eq!(undo(other).await, []);
    assert_eq!(job_store.stopping(&name, cancel).await.unwrap(), 1);
    assert_eq!(undo(cancel).await, ids[3..]);
    // The worker stops a step later.
    assert!(matches!(job_store.cancelled(ids[2], running.fence()).await.unwrap(), Fenced::Held(_)));
    assert_eq!(job_store.stopping(&name, cancel).await.unwrap(), 0);
    assert_eq!(undo(cancel).await, ids[2..3]);
    assert_eq!(undo(cancel).await, [], "once");
    let states = [(JobState::Cancelled, 1), (JobState::Failed, 1), (JobState::Queued, 6)];
    assert_eq!(job_store.batch_summary(&name).await.unwrap().unwrap().states, states);

    // What was retried by other means and cancelled again is not of the first cancellation any more.
    assert_eq!(job_store.cancel_batch_in_steps(&name, other, |_| true).await.unwrap(), 6);
    assert!(matches!(job_store.retry(ids[3]).await.unwrap(), acetate::database::RetryOutcome::Queued(_)));
    job_store.cancel(ids[3], &|_| false).await.unwrap();
    assert_eq!(undo(other).await, [&ids[2..3], &ids[4..]].concat());
}

async fn a_retried_batch_starts_over(database: Database) {
    let job_store = database.service().await;
    let name = batch("again");
    let ids = mixed(&job_store, &name).await;
    let before = row(&job_store, ids[5]).await;
    for row in job_store.outbox_take(100, LEASE).await.unwrap() {
        job_store.outbox_done(&[row.id]).await.unwrap();
    }
    let rules = RetryRules {
        batch: name,
        states: vec![JobState::Failed, JobState::Cancelled],
        codes: Vec::new(),
        cancel: None,
    };
    let mut told = 0;
    let queued = job_store.retry_batch(&rules, |jobs| {
        told += jobs;
        true
    });
    assert_eq!(queued.await.unwrap(), ids[3..]);
    assert_eq!(told, 5);
    let again = row(&job_store, ids[5]).await;
    assert_eq!((again.state, again.attempts, again.epoch), (JobState::Queued, 0, before.epoch));
    assert_eq!((&again.error, again.finished_at, again.cancel_requested), (&None, None, false));
    let sent = job_store.outbox_take(100, LEASE).await.unwrap();
    assert!(sent.iter().all(|row| !row.topic.is_event() && row.payload.contains("file:///a.png")));
    assert_eq!(sent.iter().map(|row| row.job).collect::<BTreeSet<_>>(), ids[3..].iter().copied().collect());
    for id in &ids[3..] {
        take(&job_store, *id, "two", LEASE).await;
    }
    // Without a queue of others there is nothing to send.
    let embedded = database.embedded().await;
    let alone = batch("alone");
    let options = SubmitOptions { batch: Some(alone.clone()), ..SubmitOptions::default() };
    let id = JobId::new();
    embedded.submit(&request(id, "file:///a.png"), &options).await.unwrap();
    assert_eq!(embedded.cancel_batch(&alone).await.unwrap(), 1);
    let rules = RetryRules { batch: alone, states: vec![JobState::Cancelled], codes: Vec::new(), cancel: None };
    assert_eq!(embedded.retry_batch(&rules, |_| true).await.unwrap(), [id]);
    assert_eq!(embedded.outbox_take(100, LEASE).await.unwrap(), []);
}

/// Without statistics, the planner takes the indexes of messages that wait for almost empty, and may read all of one
/// for every job. After a large submission that would be so until the tables are analyzed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_job_costs_the_same_however_many_messages_wait() {
    on_postgres(beside_many).await;
}

async fn beside_many(database: Database) {
    let job_store = database.service().await;
    database.sql("ALTER TABLE jobs SET (autovacuum_enabled = FALSE)").await;
    database.sql("ALTER TABLE outbox SET (autovacuum_enabled = FALSE)").await;
    let ids = submitted_batch(&job_store, &batch("large"), 4000).await;
    let few = &ids[..20];
    job_store.close().await;
    let read = "SELECT (SUM(idx_tup_read) + (SELECT SUM(seq_tup_read) FROM pg_stat_user_tables
                         WHERE relname = 'outbox' AND schemaname = CURRENT_SCHEMA))::BIGINT
                  FROM pg_stat_user_indexes WHERE relname = 'outbox' AND schemaname = CURRENT_SCHEMA";
    let before = database.count(read).await;
    let job_store = database.service().await;
    for (n, &id) in few.iter().enumerate() {
        match n % 2 {
            0 => assert_eq!(take(&job_store, id, "one", LEASE).await.attempts, 1),
            _ => drop(job_store.cancel(id, &|_| false).await.unwrap()),
        }
    }
    assert_eq!(job_store.forget(&as_read(&job_store, few).await).await.unwrap().deleted, 10);
    job_store.close().await;
    let after = database.count(read).await;
    assert!(after - before < 1000, "{} rows and entries were read for {} jobs", after - before, few.len());
}
