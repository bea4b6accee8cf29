//! The end of attempts and jobs: fenced, exactly once, and with a message.

use std::time::{Duration, Instant};

use acetate::{
    database::{CancelOutcome, Claim, Fenced, HeartbeatReply, JobStore, Published, RetryOutcome, SubmitOptions, Topic},
    job::{Epoch, ErrorRecord, JobError, JobEvent, JobId, JobState},
};

use super::support::*;
use crate::common::until;

on_both!(
    a_worker_that_lost_its_lease_loses_every_write,
    a_second_claim_at_the_same_epoch_is_not_the_first,
    an_ending_that_is_written_twice_counts_once,
    a_result_is_told_with_everything_about_it,
    a_result_is_found_by_its_content,
    a_requeued_job_waits_for_its_time,
    a_job_that_must_wait_has_lost_no_attempt,
    a_job_that_was_given_back_has_lost_no_attempt,
    cancel_is_told_to_the_worker_or_done_at_once,
    a_failed_job_starts_over,
    refused_messages_are_kept,
    embedded_mode_leaves_no_messages,
    many_workers_end_every_job_once,
);

async fn events(job_store: &JobStore) -> Vec<(Topic, JobEvent)> {
    let taken = job_store.outbox_take(100, LEASE).await.unwrap();
    taken
        .iter()
        .filter(|row| row.topic.is_event())
        .map(|row| (row.topic, serde_json::from_str(&row.payload).unwrap()))
        .collect()
}

async fn a_result_is_found_by_its_content(database: Database) {
    let job_store = database.service().await;
    let key = "cd".repeat(32);
    assert_eq!(job_store.results_of(&key, 4).await.unwrap(), []);
    let mut made = Vec::new();
    for source in [None, Some(JobId::new())] {
        let id = JobId::new();
        let options = SubmitOptions { reuse: source.is_some(), ..SubmitOptions::default() };
        job_store.submit(&request(id, "file:///a.png"), &options).await.unwrap();
        let fence = take(&job_store, id, "one", LEASE).await.fence();
        let published = Published { reused_from: source, ..result() };
        assert!(matches!(job_store.succeed(id, fence, &published).await.unwrap(), Fenced::Held(_)));
        let there = row(&job_store, id).await;
        assert_eq!((there.reuse, there.published.unwrap().reused_from), (source.is_some(), source));
        let outcome = if source.is_some() { "reused" } else { "succeeded" };
        assert_eq!(attempts(&job_store, id).await[0].outcome.as_deref(), Some(outcome));
        made.push(id);
    }
    let found = job_store.results_of(&key, 4).await.unwrap();
    let mut ids: Vec<_> = found.iter().map(|row| row.id()).collect();
    ids.sort();
    made.sort();
    assert_eq!(ids, made);
    assert_eq!(job_store.results_of(&key, 1).await.unwrap().len(), 1);
    assert_eq!(job_store.results_of("another", 4).await.unwrap(), []);
    let told: Vec<_> = events(&job_store).await.into_iter().map(|(_, event)| event.reused_from.is_some()).collect();
    assert_eq!(told, [false, true]);
}

async fn a_worker_that_lost_its_lease_loses_every_write(database: Database) {
    let job_store = database.service().await;
    let id = submitted(&job_store).await;
    let slow = take(&job_store, id, "slow", NO_TIME).await;
    let quick = take(&job_store, id, "quick", LEASE).await;
    assert_eq!((quick.epoch.0, quick.attempts), (2, 2));

    assert_eq!(job_store.heartbeat(id, slow.fence(), LEASE, None).await.unwrap(), Fenced::Lost);
    assert_eq!(job_store.succeed(id, slow.fence(), &result()).await.unwrap(), Fenced::Lost);
    assert_eq!(job_store.fail(id, slow.fence(), &broken()).await.unwrap(), Fenced::Lost);
    assert_eq!(job_store.requeue(id, slow.fence(), &broken(), LEASE).await.unwrap(), Fenced::Lost);
    assert_eq!(job_store.give_back(id, slow.fence()).await.unwrap(), Fenced::Lost);
    assert_eq!(job_store.cancelled(id, slow.fence()).await.unwrap(), Fenced::Lost);
    assert_eq!(row(&job_store, id).await.worker.as_deref(), Some("quick"));

    let Fenced::Held(done) = job_store.succeed(id, quick.fence(), &result()).await.unwrap() else { panic!("lost") };
    assert_eq!((done.state, &done.published), (JobState::Succeeded, &Some(result())));
    assert_eq!(job_store.succeed(id, slow.fence(), &result()).await.unwrap(), Fenced::Lost);
    assert_eq!(job_store.fail(id, quick.fence(), &broken()).await.unwrap(), Fenced::Lost);
    let outcomes: Vec<_> = attempts(&job_store, id).await.into_iter().map(|a| (a.worker, a.outcome)).collect();
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(outcomes, [("slow".to_owned(), some("lost")), ("quick".to_owned(), some("succeeded"))]);
    assert_eq!(events(&job_store).await.len(), 1, "one result, told once");
}

/// After a failover to a replica that had not seen the first claim, or in a restored database.
async fn a_second_claim_at_the_same_epoch_is_not_the_first(database: Database) {
    let job_store = database.service().await;
    let id = submitted(&job_store).await;
    let first = take(&job_store, id, "first", LEASE).await;
    assert!(matches!(job_store.heartbeat(id, first.fence(), LEASE, None).await.unwrap(), Fenced::Held(_)));
    let back = "DELETE FROM attempts; UPDATE jobs SET state = 'queued', epoch = 0, claim = NULL, attempts = 0";
    database.sql(back).await;
    let second = take(&job_store, id, "second", LEASE).await;
    assert_eq!((first.epoch, second.epoch), (Epoch(1), Epoch(1)));

    let old = first.fence();
    assert_eq!(job_store.heartbeat(id, old, LEASE, None).await.unwrap(), Fenced::Lost);
    assert_eq!(job_store.succeed(id, old, &result()).await.unwrap(), Fenced::Lost);
    assert_eq!(job_store.adopt(id, old, &result(), Epoch(1)).await.unwrap(), Fenced::Lost);
    assert_eq!(job_store.fail(id, old, &broken()).await.unwrap(), Fenced::Lost);
    assert_eq!(job_store.requeue(id, old, &broken(), LEASE).await.unwrap(), Fenced::Lost);
    assert_eq!(job_store.give_back(id, old).await.unwrap(), Fenced::Lost);
    assert_eq!(job_store.cancelled(id, old).await.unwrap(), Fenced::Lost);
    assert_eq!(row(&job_store, id).await, second);

    let Fenced::Held(_) = job_store.succeed(id, second.fence(), &result()).await.unwrap() else { panic!("lost") };
    // The same result is not the first one's either.
    assert_eq!(job_store.succeed(id, old, &result()).await.unwrap(), Fenced::Lost);
    assert_eq!(events(&job_store).await.len(), 1);
}

async fn an_ending_that_is_written_twice_counts_once(database: Database) {
    let job_store = database.service().await;
    let mut ends = 0;
    for ending in 0..5 {
        let id = submitted(&job_store).await;
        let fence = take(&job_store, id, "one", LEASE).await.fence();
        let mut rows = Vec::new();
        // The reply to the first write was lost, so the worker writes again.
        for _ in 0..2 {
            let settled = match ending {
                0 => job_store.succeed(id, fence, &result()).await,
                1 => job_store.fail(id, fence, &broken()).await,
                2 => job_store.requeue(id, fence, &broken(), LEASE).await,
                3 => job_store.give_back(id, fence).await,
                _ => job_store.cancelled(id, fence).await,
            };
            let Fenced::Held(row) = settled.unwrap() else { panic!("ending {ending} was lost") };
            rows.push(row);
        }
        assert_eq!(rows[0], rows[1]);
        assert_eq!(rows[1], row(&job_store, id).await);
        assert_eq!(rows[0].attempts, u32::from(ending != 3));
        ends += usize::from(rows[0].state.is_terminal());
        assert_eq!(attempts(&job_store, id).await.len(), 1);
    }
    assert_eq!((ends, events(&job_store).await.len()), (3, 3));
}

async fn a_result_is_told_with_everything_about_it(database: Database) {
    let job_store = database.service().await;
    let id = JobId::new();
    let options = SubmitOptions { batch: Some(batch("posters")), ..SubmitOptions::default() };
    job_store.submit(&request(id, "file:///a.png"), &options).await.unwrap();
    let fence = take(&job_store, id, "one", LEASE).await.fence();
    let Fenced::Held(done) = job_store.succeed(id, fence, &result()).await.unwrap() else { panic!("lost") };
    assert_eq!(done, row(&job_store, id).await, "what is answered is what stands in the row");
    let events = events(&job_store).await;
    let (topic, event) = &events[0];
    assert_eq!((*topic, event.event.as_str(), event.version), (Topic::Succeeded, "job.succeeded", 1));
    assert_eq!((event.id, event.state, event.attempts, event.epoch), (id, JobState::Succeeded, 1, fence.epoch));
    assert_eq!((&event.batch, &event.labels), (&Some(batch("posters")), &done.request.labels));
    assert_eq!(event.manifest.as_deref(), Some("s3://out/scene/j/1/manifest.json"));
    assert_eq!((event.outputs[0].name.as_str(), event.outputs[0].size), ("composite.png", 70));
    assert_eq!((event.error.as_ref(), Some(event.time)), (None, done.finished_at));
}

async fn a_requeued_job_waits_for_its_time(database: Database) {
    let job_store = database.service().await;
    let id = submitted(&job_store).await;
    // Its first message has been sent, and is being deleted while the job already fails.
    let first = job_store.outbox_take(10, LEASE).await.unwrap();
    let taken = take(&job_store, id, "one", LEASE).await;
    let (delay, since) = (Duration::from_millis(1500), Instant::now());
    let back = job_store.requeue(id, taken.fence(), &broken(), delay).await.unwrap();
    assert!(matches!(&back, Fenced::Held(row) if row.state == JobState::Queued && row.error == Some(broken())));
    job_store.outbox_done(&[first[0].id]).await.unwrap();
    assert!(matches!(claim(&job_store, id, "two").await, Claim::NotBefore(_)));
    assert_eq!(job_store.outbox_take(10, LEASE).await.unwrap(), [], "not before its time");
    let again = until_some(|| async { job_store.outbox_take(10, LEASE).await.unwrap() }).await;
    assert!(since.elapsed() >= delay, "before its time: {:?}", since.elapsed());
    assert_eq!(again.iter().map(|row| (row.job, row.topic)).collect::<Vec<_>>(), [(id, Topic::Dispatch)]);
    assert_eq!(again[0].payload, request(id, "file:///a.png").to_json());
    assert_eq!(take(&job_store, id, "two", LEASE).await.attempts, 2);
}

async fn a_job_that_must_wait_has_lost_no_attempt(database: Database) {
    let job_store = database.service().await;
    let id = submitted(&job_store).await;
    let first = take(&job_store, id, "one", LEASE).await;
    let (delay, since) = (Duration::from_millis(1500), Instant::now());
    for _ in 0..2 {
        let Fenced::Held(back) = job_store.postpone(id, first.fence(), &broken(), delay).await.unwrap() else {
            panic!("lost")
        };
        assert_eq!((back.state, back.attempts, back.epoch), (JobState::Queued, 0, first.epoch), "also if repeated");
        assert_eq!(back.error, Some(broken()));
    }
    assert!(matches!(claim(&job_store, id, "two").await, Claim::NotBefore(_)));
    until_some(|| async {
        match claim(&job_store, id, "two").await {
            Claim::Taken(row) => vec![row],
            _ => Vec::new(),
        }
    })
    .await;
    assert!(since.elapsed() >= delay);
    let row = row(&job_store, id).await;
    assert_eq!((row.attempts, row.epoch.0), (1, 2));
    assert_eq!(attempts(&job_store, id).await[0].outcome.as_deref(), Some("requeued"));
}

async fn a_job_that_was_given_back_has_lost_no_attempt(database: Database) {
    let job_store = database.service().await;
    let id = submitted(&job_store).await;
    let first = take(&job_store, id, "one", LEASE).await;
    let Fenced::Held(back) = job_store.give_back(id, first.fence()).await.unwrap() else { panic!("lost") };
    assert_eq!((back.state, back.attempts, back.epoch), (JobState::Queued, 0, first.epoch));
    assert_eq!(job_store.succeed(id, first.fence(), &result()).await.unwrap(), Fenced::Lost);
    let second = take(&job_store, id, "two", LEASE).await;
    assert_eq!((second.attempts, second.epoch.0), (1, 2));
    let outcomes: Vec<_> = attempts(&job_store, id).await.into_iter().map(|attempt| attempt.outcome).collect();
    assert_eq!(outcomes, [Some("given_back".to_owned()), None]);
    // If its cancellation was requested, it is not queued again.
    assert_eq!(job_store.cancel(id, &|_| false).await.unwrap(), CancelOutcome::Requested);
    let Fenced::Held(ended) = job_store.give_back(id, second.fence()).await.unwrap() else { panic!("lost") };
    assert_eq!((ended.state, ended.attempts), (JobState::Cancelled, 1));
}

async fn cancel_is_told_to_the_worker_or_done_at_once(database: Database) {
    let job_store = database.service().await;
    let dead = |worker: &str| worker == "dead";
    let queued = submitted(&job_store).await;
    assert_eq!(job_store.cancel(queued, &dead).await.unwrap(), CancelOutcome::Cancelled);
    assert_eq!(job_store.cancel(queued, &dead).await.unwrap(), CancelOutcome::AlreadyEnded(JobState::Cancelled));
    assert_eq!(job_store.cancel(JobId::new(), &dead).await.unwrap(), CancelOutcome::Unknown);

    let running = submitted(&job_store).await;
    let taken = take(&job_store, running, "one", LEASE).await;
    assert_eq!(job_store.cancel(running, &dead).await.unwrap(), CancelOutcome::Requested);
    let beat = job_store.heartbeat(running, taken.fence(), LEASE, None).await.unwrap();
    assert_eq!(beat, Fenced::Held(HeartbeatReply { cancel_requested: true }));
    // A job that fails after its cancellation was requested is not requeued.
    let back = job_store.requeue(running, taken.fence(), &broken(), NO_TIME).await.unwrap();
    assert!(matches!(back, Fenced::Held(row) if row.state == JobState::Cancelled));

    let orphan = submitted(&job_store).await;
    take(&job_store, orphan, "dead", LEASE).await;
    assert_eq!(job_store.cancel(orphan, &dead).await.unwrap(), CancelOutcome::Cancelled);

    // Its worker dies after the request: the next claim cancels the job.
    let told = submitted(&job_store).await;
    take(&job_store, told, "dying", Duration::from_millis(300)).await;
    assert_eq!(job_store.cancel(told, &dead).await.unwrap(), CancelOutcome::Requested);
    let claimed = until(|| async {
        match claim(&job_store, told, "next").await {
            Claim::Held { .. } => Err("its lease does not end"),
            other => Ok(other),
        }
    });
    assert!(matches!(claimed.await, Claim::Ended(row) if row.state == JobState::Cancelled));

    let mut ended: Vec<_> = events(&job_store).await.into_iter().map(|(topic, event)| (event.id, topic)).collect();
    ended.sort_by_key(|(id, _)| *id);
    let mut wanted = [queued, running, orphan, told].map(|id| (id, Topic::Cancelled));
    wanted.sort_by_key(|(id, _)| *id);
    assert_eq!(ended, wanted);
}

async fn a_failed_job_starts_over(database: Database) {
    let job_store = database.service().await;
    assert_eq!(job_store.retry(JobId::new()).await.unwrap(), RetryOutcome::Unknown);
    let id = submitted(&job_store).await;
    assert_eq!(job_store.retry(id).await.unwrap(), RetryOutcome::Refused(JobState::Queued));
    let first = take(&job_store, id, "one", LEASE).await;
    assert_eq!(job_store.retry(id).await.unwrap(), RetryOutcome::Refused(JobState::Running));
    assert!(matches!(job_store.fail(id, first.fence(), &broken()).await.unwrap(), Fenced::Held(_)));
    job_store.outbox_take(10, LEASE).await.unwrap();

    let RetryOutcome::Queued(again) = job_store.retry(id).await.unwrap() else { panic!("refused") };
    assert_eq!((again.state, again.attempts, again.epoch), (JobState::Queued, 0, first.epoch));
    assert_eq!((&again.error, again.finished_at), (&None, None));
    assert_eq!(*again, row(&job_store, id).await);
    let sent = job_store.outbox_take(10, LEASE).await.unwrap();
    assert_eq!(sent.iter().map(|row| (row.job, row.topic)).collect::<Vec<_>>(), [(id, Topic::Dispatch)]);
    assert_eq!(job_store.fail(id, first.fence(), &broken()).await.unwrap(), Fenced::Lost);

    let second = take(&job_store, id, "two", LEASE).await;
    assert_eq!((second.attempts, second.epoch.0), (1, 2));
    assert!(matches!(job_store.succeed(id, second.fence(), &result()).await.unwrap(), Fenced::Held(_)));
    assert_eq!(job_store.retry(id).await.unwrap(), RetryOutcome::Refused(JobState::Succeeded));
    assert_eq!(attempts(&job_store, id).await.len(), 2);
}

async fn refused_messages_are_kept(database: Database) {
    let job_store = database.service().await;
    let error = ErrorRecord::from(&JobError::invalid("params.steps", "0 is not between 1 and 1000"));
    let id = JobId::new();
    let raw = format!("{{\"id\": \"{id}\", \0{}", "ä".repeat(40_000));
    assert!(job_store.reject(id, "first", &error).await.unwrap());
    assert!(job_store.reject(id, &raw, &error).await.unwrap());
    let kept = job_store.rejection(id).await.unwrap().unwrap();
    assert_eq!((kept.id, &kept.error), (id, &error));
    assert!(kept.body.starts_with("{\"id\"") && (65_000..=65_540).contains(&kept.body.len()), "{}", kept.body.len());
    assert_eq!(job_store.get(id).await.unwrap(), None);

    let job = submitted(&job_store).await;
    assert!(!job_store.reject(job, "again, and wrong", &error).await.unwrap());
    assert_eq!(job_store.rejection(job).await.unwrap(), None, "the row of a job is left alone");

    assert_eq!(job_store.forget_rejections(kept.received_at).await.unwrap(), 0);
    assert_eq!(job_store.forget_rejections(kept.received_at + Duration::from_secs(1)).await.unwrap(), 1);
    assert_eq!(job_store.rejection(id).await.unwrap(), None);
}

async fn embedded_mode_leaves_no_messages(database: Database) {
    let job_store = database.embedded().await;
    let id = submitted(&job_store).await;
    let taken = take(&job_store, id, "one", NO_TIME).await;
    assert_eq!(job_store.reap(NO_TIME).await.unwrap(), 0);
    let requeued = job_store.requeue(id, taken.fence(), &broken(), LEASE).await.unwrap();
    assert!(matches!(requeued, Fenced::Held(_)));
    assert!(matches!(claim(&job_store, id, "two").await, Claim::NotBefore(_)));
    assert_eq!(job_store.cancel(id, &|_| false).await.unwrap(), CancelOutcome::Cancelled);
    assert!(matches!(job_store.retry(id).await.unwrap(), RetryOutcome::Queued(_)));
    assert_eq!(job_store.outbox_take(10, LEASE).await.unwrap(), []);
}

async fn many_workers_end_every_job_once(database: Database) {
    let job_store = database.service().await;
    let ids = submitted_batch(&job_store, &batch("many"), 400).await;
    let begin = std::time::Instant::now();
    let workers: Vec<_> = (0..8)
        .map(|n| {
            let (job_store, ids) = (job_store.clone(), ids.clone());
            tokio::spawn(async move {
                let mut published = 0;
                // Each task tries all jobs, starting at a different one.
                for at in 0..ids.len() {
                    let id = ids[(at + n * 50) % ids.len()];
                    if let Claim::Taken(row) = claim(&job_store, id, &format!("w{n}")).await {
                        let settled = job_store.succeed(id, row.fence(), &result()).await.unwrap();
                        published += usize::from(matches!(settled, Fenced::Held(_)));
                    }
                }
                published
            })
        })
        .collect();
    let mut published = 0;
    for worker in workers {
        published += worker.await.unwrap();
    }
    println!("400 jobs claimed and settled, 3200 claims, in {:.2} s", begin.elapsed().as_secs_f64());
    assert_eq!(published, 400);
    assert_eq!(job_store.count().await.unwrap(), [(JobState::Succeeded, 400)]);
    let mut told: Vec<_> = Vec::new();
    loop {
        let taken = job_store.outbox_take(300, LEASE).await.unwrap();
        if taken.is_empty() {
            break;
        }
        told.extend(taken.iter().filter(|row| row.topic == Topic::Succeeded).map(|row| row.job));
        job_store.outbox_done(&taken.iter().map(|row| row.id).collect::<Vec<_>>()).await.unwrap();
    }
    told.sort();
    let mut all = ids;
    all.sort();
    assert_eq!(told, all);
}
