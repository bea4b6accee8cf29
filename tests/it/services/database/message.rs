//! Messages that are lost, left to others, or answers to a sender.

use std::time::Duration;

use acetate::{
    database::{Deferred, Fenced, JobStore, SubmitOptions, Topic},
    job::{JobId, JobKind},
};

use super::support::*;

on_both!(
    jobs_of_an_empty_queue_are_dispatched_again_at_once,
    a_deferred_job_comes_later_and_is_not_changed,
    a_kind_of_a_newer_version_is_nobody_elses_business,
    an_answer_is_due_when_the_job_ends,
);

/// Sends everything that is due, and loses it.
async fn send_and_lose(job_store: &JobStore) -> Vec<JobId> {
    let taken = job_store.outbox_take(100, LEASE).await.unwrap();
    job_store.outbox_done(&taken.iter().map(|row| row.id).collect::<Vec<_>>()).await.unwrap();
    taken.iter().map(|row| row.job).collect()
}

async fn jobs_of_an_empty_queue_are_dispatched_again_at_once(database: Database) {
    let job_store = database.service().await;
    let kind = request(JobId::new(), "file:///a.png").task.kind();
    let grace = Duration::from_millis(300);
    let id = submitted(&job_store).await;
    tokio::time::sleep(2 * grace).await;
    assert_eq!(job_store.redispatch(&[kind], grace).await.unwrap(), 0, "its message was not sent yet");
    assert_eq!(send_and_lose(&job_store).await, [id]);
    let other: Vec<_> = JobKind::ALL.into_iter().filter(|other| *other != kind).collect();
    assert_eq!(job_store.redispatch(&other, NO_TIME).await.unwrap(), 0, "those queues are not its own");
    assert_eq!(job_store.redispatch(&[], NO_TIME).await.unwrap(), 0);
    // However long it has waited: the pause does not grow, because nothing is before it in the queue.
    for _ in 0..3 {
        let found = until_some(|| async {
            let found = job_store.redispatch(&JobKind::ALL, grace).await.unwrap();
            if found > 0 { vec![found] } else { Vec::new() }
        });
        assert_eq!(found.await, [1]);
        assert_eq!(job_store.redispatch(&JobKind::ALL, grace).await.unwrap(), 0, "once is enough");
        assert_eq!(send_and_lose(&job_store).await, [id]);
        assert_eq!(job_store.redispatch(&JobKind::ALL, grace).await.unwrap(), 0, "it was sent just now");
    }
    let job = take(&job_store, id, "one", LEASE).await;
    tokio::time::sleep(2 * grace).await;
    assert_eq!(job_store.redispatch(&JobKind::ALL, grace).await.unwrap(), 0, "somebody works on it");
    let Fenced::Held(_) = job_store.requeue(id, job.fence(), &broken(), LEASE).await.unwrap() else { panic!("lost") };
    assert_eq!(job_store.redispatch(&JobKind::ALL, NO_TIME).await.unwrap(), 0, "it is not due");
}

async fn a_deferred_job_comes_later_and_is_not_changed(database: Database) {
    let job_store = database.service().await;
    let id = submitted(&job_store).await;
    assert_eq!(send_and_lose(&job_store).await, [id]);
    let before = row(&job_store, id).await;
    let delay = Duration::from_millis(400);
    assert_eq!(job_store.defer(id, delay).await.unwrap(), Deferred::Later);
    assert_eq!(job_store.defer(id, delay).await.unwrap(), Deferred::Later, "another message of the same job");
    assert_eq!(row(&job_store, id).await, before);
    assert_eq!(send_and_lose(&job_store).await, [], "not yet");
    assert_eq!(until_some(|| send_and_lose(&job_store)).await, [id], "and only once");
    job_store.cancel(id, &|_| false).await.unwrap();
    assert_eq!(job_store.defer(id, delay).await.unwrap(), Deferred::Ended);
    assert_eq!(job_store.defer(JobId::new(), delay).await.unwrap(), Deferred::Unknown);
}

async fn a_kind_of_a_newer_version_is_nobody_elses_business(database: Database) {
    let job_store = database.service().await;
    let [old, new] = [submitted(&job_store).await, submitted(&job_store).await];
    database.sql(&format!("UPDATE outbox SET kind = 'upscale' WHERE job = '{new}'")).await;
    database.sql(&format!("UPDATE jobs SET kind = 'upscale' WHERE id = '{new}'")).await;
    assert_eq!(send_and_lose(&job_store).await, [old]);
    let depths = job_store.queue_depth().await.unwrap();
    assert_eq!(depths.iter().map(|depth| depth.queued).collect::<Vec<_>>(), [1]);
}

async fn an_answer_is_due_when_the_job_ends(database: Database) {
    const ADDRESS: &str = "amqp-reply:answers?7";
    let job_store = database.service().await;
    let id = submitted(&job_store).await;
    assert!(job_store.want_reply(id, ADDRESS).await.unwrap());
    assert!(job_store.want_reply(id, "amqp-reply:others").await.unwrap(), "the first one counts");
    assert!(job_store.replies_take(10, LEASE).await.unwrap().is_empty());
    let job = take(&job_store, id, "one", LEASE).await;
    let Fenced::Held(_) = job_store.succeed(id, job.fence(), &result()).await.unwrap() else { panic!("lost") };
    assert!(!job_store.want_reply(id, ADDRESS).await.unwrap(), "it has ended");
    assert!(!job_store.want_reply(JobId::new(), ADDRESS).await.unwrap());

    let hooked = request(JobId::new(), "file:///b.png");
    let options = SubmitOptions { webhook: Some("https://example.org/".to_owned()), ..SubmitOptions::default() };
    job_store.submit(&hooked, &options).await.unwrap();
    job_store.cancel(hooked.id, &|_| false).await.unwrap();

    let calls = job_store.webhooks_take(&calls(10), LEASE).await.unwrap();
    assert_eq!(calls.iter().map(|call| call.job).collect::<Vec<_>>(), [hooked.id], "an answer is no webhook");
    let answers = job_store.replies_take(10, LEASE).await.unwrap();
    assert_eq!(answers.iter().map(|answer| (answer.job, answer.url.as_str())).collect::<Vec<_>>(), [(id, ADDRESS)]);
    job_store.webhook_done(answers[0].id).await.unwrap();
    assert!(job_store.replies_take(10, LEASE).await.unwrap().is_empty());
    let topics: Vec<_> = job_store.outbox_take(10, LEASE).await.unwrap().iter().map(|row| row.topic).collect();
    assert!(topics.contains(&Topic::Succeeded), "the event is sent as ever: {topics:?}");
}
