//! Jobs through RabbitMQ, without faults.

use std::time::{Duration, Instant};

use acetate::{
    job::{ErrorRecord, JobError, JobKind, TraceContext},
    queue::{ConsumeOptions, Content, DEAD_LETTERS, Dispatch, EmbeddedQueue, Event, Queue, queue_of},
};
use jiff::Timestamp;
use lapin::{
    message::BasicGetMessage,
    options::{BasicGetOptions, QueueDeleteOptions},
    types::{AMQPValue, ShortString},
};
use serde_json::json;

use crate::services::rabbit::{Vhost, consume, dispatch, next, nothing, prefer, request};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const STATE: &str = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE";

fn trace() -> Option<TraceContext> {
    TraceContext::read("test", Some(TRACE), Some(STATE))
}

#[tokio::test]
async fn a_job_goes_through_whole() {
    let vhost = Vhost::new();
    let queue = vhost.ready().await;
    let consumer = consume(&queue, &JobKind::ALL, 2);
    for kind in JobKind::ALL {
        let sent = Dispatch { trace: trace(), priority: 3, ..dispatch(kind) };
        queue.publish_dispatch(&sent).await.unwrap();
        let delivery = next(&consumer).await;
        assert_eq!(delivery.content, Content::Request(Box::new(request(kind, sent.id))));
        assert_eq!((delivery.job(), delivery.kind()), (Some(sent.id), Some(kind)));
        assert_eq!((delivery.redelivered, delivery.trace.clone()), (false, trace()));
        delivery.ack().await;
        vhost.until_left(queue_of(kind), 0).await;
    }
    let health = queue.health();
    assert!(health.connected && health.consuming && health.last_error.is_none(), "{health:?}");
    // Acknowledged messages are gone: none is redelivered when the consumer closes.
    consumer.close().await;
    for kind in JobKind::ALL {
        vhost.until_left(queue_of(kind), 0).await;
    }
    assert!(!queue.health().consuming);
}

/// The guarantees of both kinds of queues.
#[tokio::test]
async fn both_queues_keep_the_same_rules() {
    let vhost = Vhost::new();
    for queue in [Queue::Embedded(EmbeddedQueue::default()), vhost.ready().await] {
        let consumer = consume(&queue, &[JobKind::Composite], 1);
        let sent = dispatch(JobKind::Composite);
        queue.publish_dispatch(&sent).await.unwrap();

        let delivery = next(&consumer).await;
        assert_eq!(delivery.job(), Some(sent.id));
        drop(delivery);
        let delivery = next(&consumer).await;
        assert_eq!(delivery.job(), Some(sent.id), "what is dropped comes back");
        delivery.give_back().await;
        let delivery = next(&consumer).await;
        assert_eq!(delivery.job(), Some(sent.id), "what is given back comes back");
        delivery.ack().await;
        nothing(&consumer).await;

        let results = queue.publish_many((0..3).map(|_| dispatch(JobKind::Composite)).collect()).await;
        assert_eq!(results, vec![Ok(()); 3]);
        next(&consumer).await.ack().await;
        let reason = ErrorRecord::from(&JobError::invalid("id", "is known with another body"));
        next(&consumer).await.dead_letter(&reason).await.unwrap().ack().await;
        next(&consumer).await.ack().await;
        nothing(&consumer).await;

        consumer.close().await;
        assert!(consumer.next(None).await.is_none());
    }
}

#[tokio::test]
async fn a_retry_comes_from_elsewhere() {
    let vhost = Vhost::new();
    let queue = vhost.ready().await;
    let consumer = consume(&queue, &[JobKind::Edit], 1);
    queue.publish_dispatch(&dispatch(JobKind::Edit)).await.unwrap();
    next(&consumer).await.again_at(Timestamp::now()).await;
    nothing(&consumer).await;
    consumer.close().await;
    vhost.until_left(queue_of(JobKind::Edit), 0).await;
}

#[tokio::test]
async fn a_redelivery_says_so() {
    let vhost = Vhost::new();
    let queue = vhost.ready().await;
    let consumer = consume(&queue, &[JobKind::Edit], 1);
    queue.publish_dispatch(&dispatch(JobKind::Edit)).await.unwrap();
    drop(next(&consumer).await);
    let again = next(&consumer).await;
    assert!(again.redelivered);
    again.ack().await;
}

#[tokio::test]
async fn a_dead_letter_carries_its_reason_and_what_was_sent() {
    let vhost = Vhost::new();
    let queue = vhost.ready().await;
    let consumer = consume(&queue, &[JobKind::Decompose], 1);
    let sent = Dispatch { trace: trace(), ..dispatch(JobKind::Decompose) };
    queue.publish_dispatch(&sent).await.unwrap();
    let reason = ErrorRecord::from(&JobError::invalid("id", "is known with another body"));
    next(&consumer).await.dead_letter(&reason).await.unwrap().ack().await;

    let dead = get_dead(&vhost).await;
    assert_eq!(dead.data, sent.body);
    assert_eq!(dead.properties.message_id().as_ref().map(ShortString::as_str), Some(&*sent.id.to_string()));
    assert_eq!(header(&dead, "x-acetate-code"), "invalid_request");
    assert_eq!(header(&dead, "x-acetate-reason"), "id: is known with another body");
    assert_eq!(header(&dead, "x-acetate-queue"), "acetate.decompose");
    assert_eq!(header(&dead, "traceparent"), TRACE);
    vhost.until_left("acetate.decompose", 0).await;
}

#[tokio::test]
async fn a_message_that_no_queue_takes_is_an_error_of_its_own() {
    let vhost = Vhost::new();
    let queue = vhost.ready().await;
    let (_connection, channel) = vhost.foreign().await;
    channel.queue_delete("acetate.edit".into(), QueueDeleteOptions::default()).await.unwrap();

    let kinds = [JobKind::Decompose, JobKind::Edit];
    let results = queue.publish_many((0..200).map(|index| dispatch(kinds[index % 2])).collect()).await;
    for (index, result) in results.iter().enumerate() {
        if index % 2 == 0 {
            assert_eq!(*result, Ok(()), "message {index}");
        } else {
            let error = result.as_ref().unwrap_err().to_string();
            assert!(error.contains("acetate.jobs") && error.ends_with("the routing key edit"), "{error}");
        }
    }
    vhost.until_left("acetate.decompose", 100).await;
    // An event without a listener is dropped.
    queue.publish_event("job.progress", b"{}".to_vec()).await.unwrap();
}

#[tokio::test]
async fn ten_thousand_jobs_are_published_at_once() {
    let vhost = Vhost::new();
    let queue = vhost.ready().await;
    let jobs: Vec<_> = (0..10_000).map(|_| dispatch(JobKind::Composite)).collect();
    let start = Instant::now();
    let results = queue.publish_many(jobs).await;
    let took = start.elapsed();
    println!("10,000 jobs were published in {took:?}");
    assert!(results.iter().all(Result::is_ok), "{:?}", results.iter().find(|result| result.is_err()));
    assert!(took < Duration::from_secs(20), "{took:?}");
    vhost.until_left("acetate.composite", 10_000).await;
}

#[tokio::test]
async fn no_more_than_the_prefetch_is_taken() {
    let vhost = Vhost::new();
    let queue = vhost.ready().await;
    let results = queue.publish_many((0..5).map(|_| dispatch(JobKind::Decompose)).collect()).await;
    assert!(results.iter().all(Result::is_ok));
    let consumer = consume(&queue, &[JobKind::Decompose], 2);
    let (first, second) = (next(&consumer).await, next(&consumer).await);
    nothing(&consumer).await;
    vhost.until_left("acetate.decompose", 3).await;
    first.ack().await;
    let third = next(&consumer).await;
    nothing(&consumer).await;
    second.ack().await;
    third.ack().await;
    for _ in 0..2 {
        next(&consumer).await.ack().await;
    }
}

#[tokio::test]
async fn the_preferred_kind_goes_first_and_the_other_waits_for_a_bounded_time() {
    let vhost = Vhost::new();
    let queue = vhost.ready().await;
    let kinds = [JobKind::Edit, JobKind::Decompose];
    queue.publish_dispatch(&dispatch(JobKind::Edit)).await.unwrap();
    queue.publish_many((0..30).map(|_| dispatch(JobKind::Decompose)).collect()).await;
    let affinity = Duration::from_millis(1500);
    let consumer = queue.consume(ConsumeOptions { kinds: kinds.to_vec(), prefetch: 2, affinity });
    // Both kinds must have been delivered before the first call.
    vhost.until_left("acetate.edit", 0).await;
    vhost.until_left("acetate.decompose", 28).await;
    let start = Instant::now();
    let mut before = 0;
    loop {
        let delivery = prefer(&consumer, Some(JobKind::Decompose)).await;
        let kind = delivery.kind();
        // The time that a job takes.
        tokio::time::sleep(Duration::from_millis(100)).await;
        delivery.ack().await;
        if kind == Some(JobKind::Edit) {
            break;
        }
        before += 1;
    }
    assert!(before >= 2 && start.elapsed() < affinity * 3, "{before} before it, {:?}", start.elapsed());
    assert!(before < 30, "the other kind waited until nothing else was left");
}

#[tokio::test]
async fn urgent_jobs_overtake_where_the_broker_can() {
    let vhost = Vhost::new();
    let queue = vhost.ready().await;
    let urgent = |index| if index >= 10 { 9 } else { 0 };
    let jobs: Vec<_> =
        (0..20).map(|index| Dispatch { priority: urgent(index), ..dispatch(JobKind::Composite) }).collect();
    let ids: Vec<_> = jobs.iter().map(|job| job.id).collect();
    queue.publish_many(jobs).await;
    let consumer = consume(&queue, &[JobKind::Composite], 1);
    let mut places = Vec::new();
    for _ in 0..20 {
        let delivery = next(&consumer).await;
        places.push(ids.iter().position(|id| Some(*id) == delivery.job()).unwrap());
        delivery.ack().await;
    }
    if vhost.version() >= (4, 0) {
        // RabbitMQ 4 delivers two urgent messages for each other one.
        let among_first = places[..10].iter().filter(|place| **place >= 10).count();
        assert!(among_first >= 6, "{places:?}");
    } else {
        assert_eq!(places, (0..20).collect::<Vec<_>>(), "quorum queues before RabbitMQ 4 know no priorities");
    }
}

#[tokio::test]
async fn closing_gives_back_what_was_not_begun() {
    let vhost = Vhost::new();
    let queue = vhost.ready().await;
    queue.publish_many((0..6).map(|_| dispatch(JobKind::Workflow)).collect()).await;
    let consumer = consume(&queue, &[JobKind::Workflow], 4);
    let begun = next(&consumer).await;
    vhost.until_left("acetate.workflow", 2).await;
    consumer.close().await;
    assert!(consumer.next(None).await.is_none());
    vhost.until_left("acetate.workflow", 5).await;

    // The delivery in progress stays with its consumer, and can be finished.
    let other = consume(&queue, &[JobKind::Workflow], 10);
    for _ in 0..5 {
        let delivery = next(&other).await;
        assert_ne!(delivery.job(), begun.job());
        delivery.ack().await;
    }
    begun.ack().await;
    other.close().await;
    vhost.until_left("acetate.workflow", 0).await;
}

#[tokio::test]
async fn events_reach_those_who_asked_for_them() {
    let vhost = Vhost::new();
    let queue = vhost.ready().await;
    let mut all = queue.events("#").await.unwrap();
    let mut failed = queue.events("job.failed").await.unwrap();
    let body = |text: &str| json!({ "id": text }).to_string().into_bytes();
    let events = ["job.progress", "job.succeeded", "job.failed"]
        .map(|name| Event { name: name.to_owned(), body: body(name), trace: trace() })
        .to_vec();
    assert_eq!(queue.publish_events(events.clone()).await, vec![Ok(()); 3]);
    for event in &events {
        assert_eq!(all.next().await.as_ref(), Some(event));
    }
    assert_eq!(failed.next().await.as_ref(), events.last());
    let long = "x".repeat(300);
    assert!(queue.publish_event(&long, Vec::new()).await.unwrap_err().to_string().contains("event"));
}

#[tokio::test]
async fn the_queues_are_as_they_should_be() {
    let vhost = Vhost::new();
    vhost.ready().await;
    vhost.ready().await;
    let queues = vhost.get(&format!("/queues/{}", vhost.name));
    let mut names: Vec<_> = queues.as_array().unwrap().iter().map(|queue| queue["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    let wanted = ["acetate.composite", "acetate.dead-letters", "acetate.decompose", "acetate.edit", "acetate.workflow"];
    assert_eq!(names, wanted);
    let edit = vhost.get(&format!("/queues/{}/acetate.edit", vhost.name));
    assert_eq!(
        edit["arguments"],
        json!({
            "x-queue-type": "quorum",
            "x-dead-letter-exchange": "acetate.dead",
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
            "x-delivery-limit": 1_000_000,
            "x-consumer-timeout": 3_600_000,
        })
    );
}

/// The request as in `docs/messages.md`.
#[tokio::test]
async fn queues_that_were_made_by_hand_are_taken() {
    let vhost = Vhost::new();
    let arguments = json!({
        "x-queue-type": "quorum",
        "x-overflow": "reject-publish",
        "x-dead-letter-exchange": "acetate.dead",
        "x-dead-letter-strategy": "at-least-once",
        "x-delivery-limit": 1_000_000,
        "x-consumer-timeout": 3_600_000,
    });
    let queue = json!({ "durable": true, "arguments": arguments });
    vhost.put(&format!("/queues/{}/acetate.edit", vhost.name), &queue);
    vhost.put(&format!("/exchanges/{}/acetate.jobs", vhost.name), &json!({ "type": "direct", "durable": true }));
    vhost.ready().await.publish_dispatch(&dispatch(JobKind::Edit)).await.unwrap();
    vhost.until_left("acetate.edit", 1).await;
}

pub async fn get_dead(vhost: &Vhost) -> BasicGetMessage {
    vhost.until_left(DEAD_LETTERS, 1).await;
    let (_connection, channel) = vhost.foreign().await;
    let message = channel.basic_get(DEAD_LETTERS.into(), BasicGetOptions { no_ack: true }).await.unwrap();
    message.expect("there was a dead letter")
}

pub fn header(message: &BasicGetMessage, name: &str) -> String {
    let headers = message.properties.headers().as_ref().expect("no headers");
    match headers.inner().get(name) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        other => panic!("{name} is {other:?}"),
    }
}
