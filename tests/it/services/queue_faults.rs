//! Jobs through RabbitMQ when something is wrong: with the messages, the connection, the broker or the settings.

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
        (good.replace("\"version\":1", "\"version\":9"), Some(id), "version: 9 is not known"),
        (good.replace("\"labels\"", "\"lables\""), Some(id), "unknown field `lables`"),
        ("{\"version\": 1, \"id\"".to_owned(), None, "EOF"),
        (String::new(), None, "EOF"),
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
        delivery.dead_letter(&record).await.unwrap();

        let dead = get_dead(&vhost).await;
        assert!(dead.data == body.as_bytes(), "the whole message is kept");
        assert_eq!(header(&dead, "x-acetate-code"), "invalid_request");
        assert!(header(&dead, "x-acetate-reason").contains(reason));
        assert_eq!(header(&dead, "x-acetate-queue"), "acetate.composite");
    }
    // Neighbours go on.
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
    // The job was finished in the meantime, and the broker cannot be told.
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

    // The listener is back some time after; what was published before that it does not see.
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

/// A virtual host that is gone for a while stands for a broker that is.
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
    // Nobody publishes, and still it is noticed.
    until(|| queue.health().connected && queue.health().consuming).await;
    queue.publish_dispatch(&dispatch(JobKind::Edit)).await.unwrap();
    next(&consumer).await.ack().await;
}

#[tokio::test]
async fn a_consumer_waits_for_a_broker_that_is_away() {
    let vhost = Vhost::new();
    // A consumer that begins before anything else: it makes the queues itself.
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

#[tokio::test]
async fn a_queue_that_somebody_made_otherwise_is_named() {
    let vhost = Vhost::new();
    let (_connection, channel) = vhost.foreign().await;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    channel.queue_declare("acetate.edit".into(), durable, arguments).await.unwrap();
    let start = Instant::now();
    let error = vhost.rabbit().ready(Duration::from_secs(60)).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(30), "it was tried again, which cannot help");
    let text = error.to_string();
    assert_eq!(error.class(), ErrorClass::Invalid);
    for word in ["the queue acetate.edit", "x-dead-letter-exchange", "current is none", "delete it"] {
        assert!(text.contains(word), "{word} is not in: {text}");
    }
}

#[tokio::test]
async fn another_consumer_timeout_is_no_surprise() {
    let vhost = Vhost::new();
    vhost.ready().await;
    let other = RabbitOptions { consumer_timeout: Duration::from_secs(7200), ..options() };
    let queue = Queue::Rabbit(RabbitQueue::new(&vhost.url(), other).unwrap());
    // The queues keep the one that they were made with.
    queue.ready(Duration::from_secs(30)).await.unwrap();
}

#[tokio::test]
async fn a_broker_short_of_memory_is_not_waited_for_without_end() {
    let vhost = Vhost::new();
    let impatient = RabbitOptions { publish_timeout: Duration::from_secs(1), ..options() };
    let queue = Queue::Rabbit(RabbitQueue::new(&vhost.url(), impatient).unwrap());
    queue.ready(Duration::from_secs(30)).await.unwrap();
    queue.publish_dispatch(&dispatch(JobKind::Edit)).await.unwrap();
    let consumer = consume(&queue, &[JobKind::Edit], 1);
    let begun = next(&consumer).await;

    let alarm = MemoryAlarm::raise();
    for _ in 0..2 {
        let start = Instant::now();
        let error = queue.publish_dispatch(&dispatch(JobKind::Edit)).await.unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert!(error.class() == ErrorClass::Transient && error.to_string().contains("short of memory"), "{error}");
    }
    // What is consumed can be acknowledged all the same.
    begun.ack().await;
    drop(alarm);

    let sent = dispatch(JobKind::Edit);
    let start = Instant::now();
    while let Err(error) = queue.publish_dispatch(&sent).await {
        assert!(start.elapsed() < Duration::from_secs(30), "{error}");
    }
    // A message that was given up may have got through after all.
    while next_job(&consumer).await != sent.id {}
    consumer.close().await;
    vhost.until_left("acetate.edit", 0).await;
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
        (good.replace("amqp://", "amqps://"), ErrorClass::Transient, "with TLS"),
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

/// As when the broker runs out of memory, for all of its virtual hosts; over when dropped.
struct MemoryAlarm;

impl MemoryAlarm {
    fn raise() -> Self {
        evaluate("rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []}).");
        Self
    }
}

impl Drop for MemoryAlarm {
    fn drop(&mut self) {
        evaluate("rabbit_alarm:clear_alarm({resource_limit, memory, node()}).");
    }
}

/// Erlang in the broker. `ACETATE_TEST_RABBITMQCTL` is the command where the broker is not this machine's.
fn evaluate(expression: &str) {
    let command = std::env::var("ACETATE_TEST_RABBITMQCTL").unwrap_or_else(|_| "rabbitmqctl".to_owned());
    let mut words = command.split_whitespace();
    let ran = std::process::Command::new(words.next().unwrap()).args(words).args(["eval", expression]).output();
    let output = ran.unwrap_or_else(|error| panic!("{command}: {error}; set ACETATE_TEST_RABBITMQCTL"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command} eval: {said}; ACETATE_TEST_RABBITMQCTL may be `sudo rabbitmqctl`");
}

async fn until(holds: impl Fn() -> bool) {
    common::until(|| ready(if holds() { Ok(()) } else { Err("it did not come to hold") })).await;
}
