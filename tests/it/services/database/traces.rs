//! The trace of a job, and the spans of its attempts.

use acetate::{
    database::{CancelId, Fenced, JobStore, SubmitOptions, Topic},
    job::{JobId, TraceContext},
};

use super::support::*;

on_both!(
    a_trace_stays_with_the_job_and_goes_with_its_messages,
    a_message_brings_a_trace,
    an_event_has_its_trace_even_if_the_job_is_deleted,
    what_an_older_version_wrote_has_the_trace_of_the_job,
    attempts_know_the_one_before,
    what_is_no_trace_is_left_out,
);

fn context(span: &str) -> TraceContext {
    let parent = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{span}-01");
    TraceContext::read("test", Some(&parent), Some("rojo=1,congo=2")).unwrap()
}

fn submission() -> TraceContext {
    context("00f067aa0ba902b7")
}

async fn traced(job_store: &JobStore) -> JobId {
    let request = request(JobId::new(), "file:///a.png");
    let options = SubmitOptions {
        trace: Some(submission()),
        webhook: Some("https://example.org/".to_owned()),
        ..SubmitOptions::default()
    };
    job_store.submit(&request, &options).await.unwrap();
    request.id
}

async fn a_trace_stays_with_the_job_and_goes_with_its_messages(database: Database) {
    let job_store = database.service().await;
    let (id, silent) = (traced(&job_store).await, submitted(&job_store).await);
    assert_eq!(row(&job_store, id).await.trace, Some(submission()));
    assert_eq!(row(&job_store, silent).await.trace, None);
    let sent = job_store.outbox_take(10, LEASE).await.unwrap();
    for message in &sent {
        assert_eq!((message.topic, &message.attempt), (Topic::Dispatch, &None));
        assert_eq!(message.trace, Some(submission()).filter(|_| message.job == id));
    }
    job_store.outbox_done(&sent.iter().map(|row| row.id).collect::<Vec<_>>()).await.unwrap();

    // The same job again, in another trace, is the first one; a retry is, too.
    let other = SubmitOptions { trace: Some(context("aaaaaaaaaaaaaaaa")), ..SubmitOptions::default() };
    job_store.submit(&row(&job_store, id).await.request, &other).await.unwrap();
    let job = take(&job_store, id, "one", LEASE).await;
    let span = context("bbbbbbbbbbbbbbbb");
    assert_eq!(job_store.trace_attempt(id, job.epoch, &span).await.unwrap(), None);
    let Fenced::Held(_) = job_store.fail(id, job.fence(), &broken()).await.unwrap() else { panic!("lost") };
    job_store.retry(id).await.unwrap();
    assert_eq!(row(&job_store, id).await.trace, Some(submission()));
    let mut topics = Vec::new();
    for message in job_store.outbox_take(10, LEASE).await.unwrap() {
        assert_eq!(message.trace, Some(submission()), "{:?}", message.topic);
        let attempt = message.attempt.as_ref().map(TraceContext::traceparent);
        assert_eq!(attempt, message.topic.is_event().then(|| span.traceparent()));
        topics.push(message.topic);
    }
    assert_eq!(topics, [Topic::Failed, Topic::Dispatch]);
    let calls = job_store.webhooks_take(&calls(10), LEASE).await.unwrap();
    assert_eq!((calls.len(), &calls[0].trace), (1, &Some(submission())));
    assert_eq!(calls[0].attempt.as_ref().map(TraceContext::traceparent), Some(span.traceparent()));
}

async fn a_message_brings_a_trace(database: Database) {
    let job_store = database.service().await;
    let request = request(JobId::new(), "file:///a.png");
    let options = SubmitOptions { trace: Some(submission()), ..SubmitOptions::default() };
    job_store.submit_message(&request, &options).await.unwrap();
    assert_eq!(row(&job_store, request.id).await.trace, Some(submission()));
}

async fn an_event_has_its_trace_even_if_the_job_is_deleted(database: Database) {
    let job_store = database.service().await;
    // One by itself, one with its batch.
    let id = traced(&job_store).await;
    job_store.cancel(id, &|_| false).await.unwrap();
    let options = SubmitOptions { trace: Some(submission()), batch: Some(batch("b")), ..SubmitOptions::default() };
    job_store.submit(&request(JobId::new(), "file:///a.png"), &options).await.unwrap();
    job_store.cancel_queued(&batch("b"), CancelId::new(), None).await.unwrap();
    let delete = "DELETE FROM attempts; DELETE FROM webhooks; DELETE FROM jobs";
    database.sql(&format!("DELETE FROM outbox WHERE topic = 'dispatch'; {delete}")).await;
    let events = job_store.outbox_take(10, LEASE).await.unwrap();
    assert_eq!(events.len(), 2);
    assert!(
        events
            .iter()
            .all(|event| event.topic.is_event() && event.trace == Some(submission()) && event.attempt.is_none()),
        "{events:?}"
    );
}

async fn what_an_older_version_wrote_has_the_trace_of_the_job(database: Database) {
    let job_store = database.service().await;
    let id = traced(&job_store).await;
    job_store.cancel(id, &|_| false).await.unwrap();
    database.sql("UPDATE outbox SET traceparent = NULL, tracestate = NULL").await;
    let sent = job_store.outbox_take(10, LEASE).await.unwrap();
    assert!(!sent.is_empty() && sent.iter().all(|row| row.trace == Some(submission())), "{sent:?}");
}

async fn attempts_know_the_one_before(database: Database) {
    let job_store = database.embedded().await;
    let id = traced(&job_store).await;
    let spans = [context("1111111111111111"), context("2222222222222222"), context("3333333333333333")];
    let mut before = None;
    for span in &spans {
        let job = take(&job_store, id, "one", LEASE).await;
        let found = job_store.trace_attempt(id, job.epoch, span).await.unwrap();
        assert_eq!(found.as_ref().map(TraceContext::traceparent), before);
        before = Some(span.traceparent());
        let Fenced::Held(_) = job_store.give_back(id, job.fence()).await.unwrap() else { panic!("lost") };
    }
    // The one before did not export its spans: then there is nothing to link to.
    take(&job_store, id, "two", NO_TIME).await;
    let job = take(&job_store, id, "three", LEASE).await;
    assert_eq!(job_store.trace_attempt(id, job.epoch, &spans[0]).await.unwrap(), None);
    let traces: Vec<_> = attempts(&job_store, id).await.into_iter().map(|attempt| attempt.trace_id.is_some()).collect();
    assert_eq!(traces, [true, true, true, false, true]);
}

async fn what_is_no_trace_is_left_out(database: Database) {
    let job_store = database.service().await;
    let id = traced(&job_store).await;
    database.sql("UPDATE jobs SET traceparent = 'nonsense'; UPDATE outbox SET traceparent = NULL").await;
    assert_eq!(row(&job_store, id).await.trace, None);
    assert_eq!(job_store.outbox_take(10, LEASE).await.unwrap()[0].trace, None);
    take(&job_store, id, "one", LEASE).await;
}
