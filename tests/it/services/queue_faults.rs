//! Jobs through RabbitMQ with faults in the messages, the connection, the broker or the settings.

use std::{
    future::ready,
    time::{Duration, Instant},
};

use acetate::{
    job::{ErrorClass, ErrorRecord, JobId, JobKind},
    queue::{Consumer, Content, MAX_KEPT_BYTES, Queue, RabbitOptions, RabbitQueue},
};
use lapin::{
    BasicProperties,
    options::{BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};

use crate::{
    common,
    services::amqp_proxy::AmqpProxy,
    services::queue::{get_dead, header},
    services::rabbit::{Vhost, consume, dispatch, next, options, request},
};

#[tokio::test]
async fn what_cannot_be_read_is_put_aside_with_its_reason() {
    let vhost = Vhost::new();
    let queue = vhost.ready().await;
    let consumer = consume(&queue, &JobKind::ALL, 2);
    let (_connection, channel) = vhost.foreign().await;
    let id = JobId::new();
    let good = request(JobKind::Composite, id).to_json();
    let large = good.replace("\"labels\":{}", &format!("\"labels\":{{\"x\":\"{}\"}}", "y".repeat(10 << 20)));
    assert!(large.len() > 10 << 20);
    let cases = [
        (large, Some(id), "send references, not pixels"),
        (good.replace("\"version\":1", "\"version\":0"), Some(id), "version: 0 is not known"),
        (good.replace("\"labels\"", "\"lables\""), Some(id), "unknown field `lables`"),
        ("{\"version\": 1, \"id\"".to_owned(), None, "EOF"),
        (String::new(), None, "request: is empty"),
    ];
    for (body, wanted, reason) in cases {
        let published = channel.basic_publish(
            "acetate.jobs".into(),
            "composite".into(),
            BasicPublishOptions::default(),
            body.as_bytes(),
            BasicProperties::default(),
        );
        published.await.unwrap().await.unwrap();
        let delivery = next(&consumer).await;
        let Content::Unreadable { id, error, body: kept } = &delivery.content else {
            panic!("{reason}: it was read as {:?}", delivery.content)
        };
        assert_eq!(*id, wanted, "{reason}");
        assert!(error.to_string().contains(reason) && error.class() == ErrorClass::Invalid, "{error}");
        assert_eq!(kept.as_slice(), &body.as_bytes()[..body.len().min(MAX_KEPT_BYTES)]);
        let record = ErrorRecord::from(error);
        delivery.dead_letter(&record).await.unwrap().ack().await;

        let dead = get_dead(&vhost).await;
        assert!(dead.data == body.as_bytes(), "the whole message is kept");
        assert_eq!(header(&dead, "x-acetate-code"), "invalid_request");
        assert!(header(&dead, "x-acetate-reason").contains(reason));
        assert_eq!(header(&dead, "x-acetate-queue"), "acetate.composite");
    }
    // Other messages are still delivered.
    queue.publish_dispatch(&dispatch(JobKind::Composite)).await.unwrap();
    next(&consumer).await.ack().await;
}

#[tokio::test]
async fn lost_connections_are_made_anew() {
    let vhost = Vhost::new();
    let queue = vhost.ready().await;
    let consumer = consume(&queue, &[JobKind::Decompose], 3);
    let mut events = queue.events("job.*").await.unwrap();
    let sent: Vec<_> = (0..3).map(|_| dispatch(JobKind::Decompose)).collect();
    queue.publish_many(sent.clone()).await;
    let begun = next(&consumer).await;
    let since = queue.health().since;

    vhost.cut(3).await;
    until(|| !queue.health().connected).await;
    // The job was finished in the meantime, but it cannot be acknowledged.
    let finished = begun.job();
    begun.ack().await;

    let mut seen = Vec::new();
    for _ in 0..3 {
        let delivery = next(&consumer).await;
        seen.push(delivery.job().unwrap());
        delivery.ack().await;
    }
    seen.sort_unstable();
    let mut wanted: Vec<_> = sent.iter().map(|sent| sent.id).collect();
    wanted.sort_unstable();
    assert_eq!(seen, wanted, "each comes again exactly once, {finished:?} too");

    queue.publish_dispatch(&dispatch(JobKind::Decompose)).await.unwrap();
    next(&consumer).await.ack().await;
    until(|| queue.health().connected && queue.health().consuming).await;
    let health = queue.health();
    assert!(health.since > since && health.last_error.is_some(), "{health:?}");

    // The listener reconnects some time later; it misses what was published before.
    let start = Instant::now();
    loop {
        queue.publish_event("job.failed", b"{}".to_vec()).await.unwrap();
        if tokio::time::timeout(Duration::from_millis(500), events.next()).await.is_ok() {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "no event came");
    }
    consumer.close().await;
    vhost.until_left("acetate.decompose", 0).await;
}

#[tokio::test]
async fn an_idle_publisher_finds_its_way_back() {
    let vhost = Vhost::new();
    let queue = vhost.ready().await;
    assert!(queue.health().connected && !queue.health().consuming);
    vhost.cut(1).await;
    until(|| !queue.health().connected).await;
    until(|| queue.health().connected).await;
    queue.close().await;
}

/// Deletes the virtual host for a while, which acts like a broker that is gone.
#[tokio::test]
async fn all_comes_back_when_the_broker_does() {
    let vhost = Vhost::new();
    let queue = vhost.ready().await;
    let consumer = consume(&queue, &[JobKind::Edit], 1);
    until(|| queue.health().consuming).await;
    vhost.remove();
    until(|| !queue.health().connected && !queue.health().consuming).await;
    queue.publish_dispatch(&dispatch(JobKind::Edit)).await.unwrap_err();
    vhost.make();
    // The health check reconnects, even if nothing is published.
    until(|| queue.health().connected && queue.health().consuming).await;
    queue.publish_dispatch(&dispatch(JobKind::Edit)).await.unwrap();
    next(&consumer).await.ack().await;
}

#[tokio::test]
async fn a_consumer_waits_for_a_broker_that_is_away() {
    let vhost = Vhost::new();
    // The consumer starts before anything else, so it declares the queues itself.
    let queue = vhost.rabbit();
    assert!(!queue.health().connected);
    let consumer = consume(&queue, &[JobKind::Edit], 1);
    until(|| queue.health().consuming).await;
    queue.publish_dispatch(&dispatch(JobKind::Edit)).await.unwrap();
    next(&consumer).await.ack().await;
}

#[tokio::test]
async fn a_deleted_queue_is_made_anew_and_the_others_go_on() {
    let vhost = Vhost::new();
    let queue = vhost.ready().await;
    let consumer = consume(&queue, &[JobKind::Edit, JobKind::Decompose], 1);
    queue.publish_dispatch(&dispatch(JobKind::Decompose)).await.unwrap();
    let begun = next(&consumer).await;
    let (_connection, channel) = vhost.foreign().await;
    channel.queue_delete("acetate.edit".into(), QueueDeleteOptions::default()).await.unwrap();
    until(|| queue.health().last_error.is_some_and(|error| error.contains("acetate.edit"))).await;
    until(|| queue.health().consuming).await;
    queue.publish_dispatch(&dispatch(JobKind::Edit)).await.unwrap();
    let edit = next(&consumer).await;
    assert_eq!(edit.kind(), Some(JobKind::Edit));
    edit.ack().await;
    begun.ack().await;
    consumer.close().await;
    vhost.until_left("acetate.decompose", 0).await;
}

/// As RabbitMQ 4.3 and newer do it, on whatever runs here.
#[tokio::test]
async fn a_canceled_consumer_is_renewed_and_its_deliveries_come_again() {
    let vhost = Vhost::new();
    let (before, host) = vhost.url().rsplit_once('@').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let (host, name) = host.split_once('/').unwrap();
    let proxy = AmqpProxy::before(host).await;
    let url = format!("{before}@{}/{name}", proxy.address);
    let queue = Queue::Rabbit(RabbitQueue::new(&url, options()).unwrap());
    queue.ready(Duration::from_secs(30)).await.unwrap();
    let consumer = consume(&queue, &[JobKind::Edit, JobKind::Decompose], 3);
    let sent: Vec<_> = (0..2).map(|_| dispatch(JobKind::Edit)).collect();
    queue.publish_many(sent.clone()).await;
    let begun = next(&consumer).await;
    vhost.until_left("acetate.edit", 0).await;
    for round in 1..=3 {
        until(|| queue.health().consuming).await;
        let since = queue.health().since;
        proxy.cancel_consumers();
        until(|| proxy.canceled() == 2 * round).await;
        until(|| queue.health().consuming && queue.health().since > since).await;
        let error = queue.health().last_error.unwrap();
        // One kind held deliveries, the other none.
        assert!(error.contains("consumer timeout") || error.contains("ended the consumer"), "{error}");
    }
    // What the broker was told after that does not count, and nothing is lost or left behind on a closed channel.
    begun.ack().await;
    let mut seen = [next_job(&consumer).await, next_job(&consumer).await];
    let mut wanted: Vec<_> = sent.iter().map(|sent| sent.id).collect();
    seen.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(seen.to_vec(), wanted);
    consumer.close().await;
    vhost.until_left("acetate.edit", 0).await;
}

#[tokio::test]
async fn a_queue_that_somebody_made_otherwise_is_named() {
    let vhost = Vhost::new();
    let (_connection, channel) = vhost.foreign().await;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    for (kind, words) in [("classic", "delete it"), ("stream", "is a stream, which never runs empty")] {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
        channel.queue_declare("acetate.edit".into(), durable, arguments).await.unwrap();
        let start = Instant::now();
        let error = vhost.rabbit().ready(Duration::from_secs(60)).await.unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(30), "it was tried again, which cannot help");
        let text = error.to_string();
        assert_eq!(error.class(), ErrorClass::Invalid);
        for word in ["the queue acetate.edit", words, "inequivalent arg"] {
            assert!(text.contains(word), "{word} is not in: {text}");
        }
        channel.queue_delete("acetate.edit".into(), QueueDeleteOptions::default()).await.unwrap();
    }
}

#[tokio::test]
async fn several_hosts_are_tried_in_turn() {
    let vhost = Vhost::new();
    let (before, host) = vhost.url().rsplit_once('@').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    for url in [format!("{before}@127.0.0.1:9,{host}"), format!("amqp://127.0.0.1:9/v,{before}@{host}")] {
        let queue = Queue::Rabbit(RabbitQueue::new(&url, options()).unwrap());
        queue.ready(Duration::from_secs(30)).await.unwrap();
        let consumer = consume(&queue, &[JobKind::Edit], 1);
        queue.publish_dispatch(&dispatch(JobKind::Edit)).await.unwrap();
        next(&consumer).await.ack().await;
        consumer.close().await;
    }
    let nobody = RabbitQueue::new("amqp://127.0.0.1:9,127.0.0.1:10/v", options()).unwrap();
    let error = Queue::Rabbit(nobody).ready(Duration::ZERO).await.unwrap_err().to_string();
    assert!(error.contains("127.0.0.1:9") && error.contains("127.0.0.1:10"), "{error}");
}

#[tokio::test]
async fn another_consumer_timeout_is_no_surprise() {
    let vhost = Vhost::new();
    vhost.ready().await;
    let other = RabbitOptions { consumer_timeout: Duration::from_secs(7200), ..options() };
    let queue = Queue::Rabbit(RabbitQueue::new(&vhost.url(), other).unwrap());
    // The queues keep the timeout that they were declared with.
    queue.ready(Duration::from_secs(30)).await.unwrap();
}

#[tokio::test]
async fn a_broker_that_cannot_be_used_is_explained() {
    let vhost = Vhost::new();
    let good = vhost.url();
    let (scheme, rest) = good.split_once("://").unwrap();
    let (credentials, host) = rest.split_once('@').unwrap();
    let user = credentials.split(':').next().unwrap();
    let cases = [
        (format!("{scheme}://{user}:s3cret@{host}"), ErrorClass::Invalid, "refuses the user or the password"),
        (format!("{good}-not"), ErrorClass::Invalid, "does not exist"),
        ("amqp://u:s3cret@127.0.0.1:9".to_owned(), ErrorClass::Transient, "127.0.0.1:9"),
        (good.replace("amqp://", "amqps://"), ErrorClass::Transient, "does not speak TLS"),
    ];
    for (url, class, wanted) in cases {
        let queue = Queue::Rabbit(RabbitQueue::new(&url, options()).unwrap());
        let error = queue.ready(Duration::from_secs(2)).await.unwrap_err();
        let text = error.to_string();
        assert!(error.class() == class && text.contains(wanted), "{url}: {text}");
        assert!(!text.contains("s3cret"), "{text}");
        let error = queue.publish_dispatch(&dispatch(JobKind::Edit)).await.unwrap_err();
        assert_eq!(error.class(), class, "{error}");
        let health = queue.health();
        assert!(!health.connected && health.last_error.is_some(), "{health:?}");
    }
}

async fn next_job(consumer: &Consumer) -> JobId {
    let delivery = next(consumer).await;
    let id = delivery.job().unwrap();
    delivery.ack().await;
    id
}

async fn until(holds: impl Fn() -> bool) {
    common::until(|| ready(if holds() { Ok(()) } else { Err("it did not come to hold") })).await;
}
