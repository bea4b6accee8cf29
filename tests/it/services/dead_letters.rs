//! Dead letters: looking at them, publishing them again and dropping them, on every RabbitMQ that is here.

use std::{
    collections::BTreeSet,
    future::ready,
    time::{Duration, Instant},
};

use acetate::{
    job::{ErrorRecord, JobError, JobKind, TraceContext},
    queue::{
        DEAD_EXCHANGE, DEAD_LETTERS, DeadLetter, DeadLetterAction, DeadLetterFilter, DeadLetterName, DeadLetterRetry,
        Queue, RabbitQueue,
    },
};
use lapin::{
    BasicProperties,
    options::{BasicGetOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::json;

use crate::{
    common,
    services::{
        broker::{Node, other_programs},
        rabbit::{Broker, Vhost, consume, dispatch, next, options},
    },
};

const ALL: &str = "^acetate\\.";
/// To where they came from, as they were sent.
const RETRY: DeadLetterAction = DeadLetterAction::Retry(DeadLetterRetry { to: None, as_new: false });

/// This machine's broker, the newest, and an older 4.x, which counts returns.
async fn brokers() -> (Vec<Broker>, Option<Node>) {
    let programs = other_programs();
    let older = programs.first().filter(|_| programs.len() > 1).cloned();
    let start =
        |program| tokio::task::spawn_blocking(move || Node::of(program, "", "rabbitmq_management", |_| String::new()));
    let node = match older {
        Some(program) => Some(start(program).await.unwrap()),
        None => None,
    };
    if Broker::newest().is_none() {
        common::skipped("dead letters of the newest RabbitMQ", "scripts/services could not start it");
    }
    let brokers = [Some(Broker::shared()), Broker::newest(), node.as_ref().map(Node::broker)];
    (brokers.into_iter().flatten().collect(), node)
}

/// Puts messages into the dead letters as a client of any kind may.
pub async fn put(vhost: &Vhost, bodies: &[Vec<u8>], properties: &BasicProperties) {
    let (_connection, channel) = vhost.foreign().await;
    let before = count(vhost).await;
    for body in bodies {
        let options = BasicPublishOptions::default();
        let sent = channel.basic_publish(DEAD_EXCHANGE.into(), "edit".into(), options, body, properties.clone());
        sent.await.unwrap().await.unwrap();
    }
    vhost.until_left(DEAD_LETTERS, before + u32::try_from(bodies.len()).unwrap()).await;
}

async fn count(vhost: &Vhost) -> u32 {
    let (_connection, channel) = vhost.foreign().await;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(DEAD_LETTERS.into(), passive, FieldTable::default()).await.unwrap().message_count()
}

/// Takes all for good.
async fn drain(vhost: &Vhost) -> Vec<Vec<u8>> {
    let (_connection, channel) = vhost.foreign().await;
    let mut bodies = Vec::new();
    while let Some(message) = channel.basic_get(DEAD_LETTERS.into(), BasicGetOptions { no_ack: true }).await.unwrap() {
        bodies.push(message.delivery.data);
    }
    bodies
}

pub fn headers(pairs: &[(&str, &str)]) -> BasicProperties {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        table.insert((*name).into(), AMQPValue::LongString((*value).into()));
    }
    BasicProperties::default().with_headers(table).with_delivery_mode(2)
}

fn bodies(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|index| format!("message {index}").into_bytes()).collect()
}

async fn nothing_recorded(_: Vec<DeadLetter>) -> Result<(), JobError> {
    Ok(())
}

/// RabbitMQ 4.0 to 4.2 would delete them at the twentieth look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_often_loses_nothing_and_keeps_the_order() {
    let (brokers, _node) = brokers().await;
    for broker in brokers {
        let vhost = Vhost::on(&broker);
        let queue = vhost.ready().await;
        let sent = bodies(7);
        put(&vhost, &sent, &headers(&[("x-acetate-queue", "acetate.edit")])).await;
        let mut first: Option<Vec<DeadLetter>> = None;
        for _ in 0..45 {
            let page = queue.dead_letters(&DeadLetterFilter::default(), 100).await.unwrap();
            assert_eq!((page.total, page.letters.len(), page.more), (7, 7, false), "{:?}", vhost.version());
            let plain = |letters: Vec<DeadLetter>| -> Vec<(String, u32)> {
                letters.into_iter().map(|letter| (letter.id, letter.position)).collect()
            };
            let seen = first.get_or_insert_with(|| page.letters.clone()).clone();
            assert_eq!(plain(page.letters), plain(seen));
            vhost.until_left(DEAD_LETTERS, 7).await;
        }
        let page = queue.dead_letters(&DeadLetterFilter::default(), 3).await.unwrap();
        assert_eq!((page.letters.len(), page.more), (3, true));
        vhost.until_left(DEAD_LETTERS, 7).await;
        // Also after looks at a part.
        let shown = queue.dead_letter(DeadLetterName::Position(1)).await.unwrap().unwrap();
        assert_eq!(shown.body.as_deref().map(str::as_bytes), Some(&sent[0][..]));
        vhost.until_left(DEAD_LETTERS, 7).await;
        assert_eq!(drain(&vhost).await, sent, "{:?}", vhost.version());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_retried_goes_to_where_it_came_from_as_it_was_sent() {
    let (brokers, _node) = brokers().await;
    for broker in brokers {
        let vhost = Vhost::on(&broker);
        let queue = vhost.ready().await;
        let consumer = consume(&queue, &JobKind::ALL, 10);
        let mut sent = dispatch(JobKind::Composite);
        let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        sent.trace = TraceContext::read("the test", Some(traceparent), None);
        queue.publish_dispatch(&sent).await.unwrap();
        let reason = ErrorRecord::from(&JobError::invalid("id", "is known with another body"));
        next(&consumer).await.dead_letter(&reason).await.unwrap().ack().await;
        vhost.until_left(DEAD_LETTERS, 1).await;

        let letter = queue.dead_letters(&DeadLetterFilter::default(), 10).await.unwrap().letters.remove(0);
        assert_eq!(
            (letter.kind, letter.code.as_deref(), letter.job),
            (Some(JobKind::Composite), Some("invalid_request"), Some(sent.id))
        );
        assert!(letter.at.is_some() && letter.reason.as_deref() == Some("id: is known with another body"));
        vhost.until_left(DEAD_LETTERS, 1).await;
        let shown = queue.dead_letter(DeadLetterName::Job(sent.id)).await.unwrap().unwrap();
        assert_eq!(shown.body.as_deref().map(str::as_bytes), Some(&sent.body[..]));
        vhost.until_left(DEAD_LETTERS, 1).await;

        let mut recorded = Vec::new();
        let record = |letters: Vec<DeadLetter>| {
            recorded.extend(letters.into_iter().map(|letter| letter.id));
            ready(Ok(()))
        };
        let named = DeadLetterFilter::one(DeadLetterName::Id(letter.id.clone()));
        let report = queue.handle_dead_letters(&named, RETRY, record, |_| true).await.unwrap();
        assert_eq!((report.done, report.failed.len()), (vec![letter.id.clone()], 0));
        assert_eq!(recorded, [letter.id]);
        let again = next(&consumer).await;
        assert_eq!(
            (again.job(), again.kind(), again.trace.clone()),
            (Some(sent.id), Some(JobKind::Composite), sent.trace)
        );
        // Sent because of a row, and it stays so, however often it is refused and retried.
        assert!(again.is_dispatch);
        again.dead_letter(&reason).await.unwrap().ack().await;
        vhost.until_left(DEAD_LETTERS, 1).await;
        let all = DeadLetterFilter::default();
        queue.handle_dead_letters(&all, RETRY, nothing_recorded, |_| true).await.unwrap();
        let again = next(&consumer).await;
        assert!(again.is_dispatch);
        again.dead_letter(&reason).await.unwrap().ack().await;
        vhost.until_left(DEAD_LETTERS, 1).await;
        // Unless a person says otherwise.
        let as_new = DeadLetterAction::Retry(DeadLetterRetry { to: None, as_new: true });
        queue.handle_dead_letters(&all, as_new, nothing_recorded, |_| true).await.unwrap();
        let new = next(&consumer).await;
        assert_eq!((new.is_dispatch, new.job()), (false, Some(sent.id)));
        new.ack().await;
        vhost.until_left(DEAD_LETTERS, 0).await;
        consumer.close().await;
    }
}

/// What RabbitMQ itself removes has another form.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_messages_are_letters_too() {
    let (brokers, _node) = brokers().await;
    for broker in brokers {
        let vhost = Vhost::on(&broker);
        vhost.policy("^acetate\\.edit$", json!({ "message-ttl": 1 }));
        let queue = vhost.ready().await;
        let sent = dispatch(JobKind::Edit);
        queue.publish_dispatch(&sent).await.unwrap();
        vhost.until_left(DEAD_LETTERS, 1).await;
        let filter = DeadLetterFilter { reason: Some("expired".to_owned()), ..DeadLetterFilter::default() };
        let letter = queue.dead_letters(&filter, 10).await.unwrap().letters.remove(0);
        assert_eq!(
            (letter.queue.as_deref(), letter.kind, letter.code.as_deref()),
            (Some("acetate.edit"), Some(JobKind::Edit), Some("expired"))
        );
        assert!(letter.at.is_some() && letter.headers.contains_key("x-death"), "{letter:?}");
        vhost.until_left(DEAD_LETTERS, 1).await;

        let to = DeadLetterAction::Retry(DeadLetterRetry { to: Some(JobKind::Composite), as_new: false });
        let report = queue.handle_dead_letters(&filter, to, nothing_recorded, |_| true).await.unwrap();
        assert_eq!(report.done.len(), 1);
        vhost.until_left("acetate.composite", 1).await;
        let (_connection, channel) = vhost.foreign().await;
        let message = channel.basic_get("acetate.composite".into(), BasicGetOptions { no_ack: true }).await.unwrap();
        let headers = message.unwrap().delivery.properties.headers().clone().unwrap();
        // The last two are the broker's own.
        let own = |name: &String| !name.ends_with("-count");
        let left: Vec<_> = headers.inner().keys().map(|name| name.to_string()).filter(own).collect();
        assert_eq!(left, ["x-acetate-dispatch"]);
    }
}

/// A crash after the publication, before the letter is removed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_in_between_duplicates_and_does_not_lose() {
    let vhost = Vhost::new();
    let queue = vhost.ready().await;
    put(&vhost, &bodies(3), &headers(&[("x-acetate-queue", "acetate.edit")])).await;
    let crash = |_: Vec<DeadLetter>| ready(Err(JobError::database("away")));
    let all = DeadLetterFilter::default();
    let error = queue.handle_dead_letters(&all, RETRY, crash, |_| true).await.unwrap_err();
    assert!(error.to_string().contains("away"));
    vhost.until_left(DEAD_LETTERS, 3).await;
    vhost.until_left("acetate.edit", 3).await;
    let error = queue.handle_dead_letters(&all, DeadLetterAction::Drop, crash, |_| true).await.unwrap_err();
    assert!(error.to_string().contains("away"));
    vhost.until_left(DEAD_LETTERS, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_choose_and_the_rest_stays_in_order() {
    let vhost = Vhost::new();
    let queue = vhost.ready().await;
    let from = |kind: &str, code: &str, reason: &str| {
        headers(&[
            ("x-acetate-queue", &format!("acetate.{kind}")),
            ("x-acetate-code", code),
            ("x-acetate-reason", reason),
        ])
    };
    put(&vhost, &[b"1".to_vec()], &from("edit", "invalid_request", "unknown field `Color`")).await;
    put(&vhost, &[b"2".to_vec()], &from("composite", "invalid_request", "too long")).await;
    put(&vhost, &[b"3".to_vec()], &from("edit", "database", "cannot store it")).await;
    put(&vhost, &[b"4".to_vec()], &BasicProperties::default()).await;
    let chosen = async |kind: Option<JobKind>, reason: &str| {
        let reason = Some(reason.to_owned()).filter(|reason| !reason.is_empty());
        let filter = DeadLetterFilter { kind, reason, ..DeadLetterFilter::default() };
        let positions: Vec<_> =
            queue.dead_letters(&filter, 10).await.unwrap().letters.iter().map(|letter| letter.position).collect();
        vhost.until_left(DEAD_LETTERS, 4).await;
        positions
    };
    assert_eq!(chosen(None, "").await, [1, 2, 3, 4]);
    assert_eq!(chosen(Some(JobKind::Edit), "").await, [1, 3, 4], "the routing key tells of the fourth");
    assert_eq!(chosen(None, "invalid_request").await, [1, 2]);
    assert_eq!(chosen(None, "field `color`").await, [1]);
    assert_eq!(chosen(Some(JobKind::Composite), "color").await, [0; 0]);

    let second = DeadLetterFilter::one(DeadLetterName::Position(2));
    let report = queue.handle_dead_letters(&second, DeadLetterAction::Drop, nothing_recorded, |_| true).await.unwrap();
    assert_eq!(report.done.len(), 1);
    vhost.until_left(DEAD_LETTERS, 3).await;
    assert_eq!(drain(&vhost).await, [b"1", b"3", b"4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_of_unknown_origin_needs_to_be_told_where_to_go() {
    let vhost = Vhost::new();
    let queue = vhost.ready().await;
    let (_connection, channel) = vhost.foreign().await;
    let options = BasicPublishOptions::default();
    let sent = channel.basic_publish("".into(), DEAD_LETTERS.into(), options, b"?", BasicProperties::default());
    sent.await.unwrap();
    vhost.until_left(DEAD_LETTERS, 1).await;
    let all = DeadLetterFilter::default();
    let retry = async |to| {
        let action = DeadLetterAction::Retry(DeadLetterRetry { to, as_new: false });
        queue.handle_dead_letters(&all, action, nothing_recorded, |_| true).await.unwrap()
    };
    let report = retry(None).await;
    assert!(report.done.is_empty() && report.failed[0].1.to_string().contains("--to"), "{report:?}");
    vhost.until_left(DEAD_LETTERS, 1).await;
    assert_eq!(retry(Some(JobKind::Edit)).await.done.len(), 1);
    vhost.until_left("acetate.edit", 1).await;
}

/// Two operators drop and retry all at the same time, while a worker dead-letters more.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_operators_and_a_worker_at_once() {
    let vhost = Vhost::new();
    let queue = vhost.ready().await;
    let sent = bodies(60);
    put(&vhost, &sent[..40], &headers(&[("x-acetate-queue", "acetate.edit")])).await;
    let handle = |action| {
        let queue = vhost.rabbit();
        async move {
            let mut done = Vec::new();
            loop {
                let all = DeadLetterFilter::default();
                let report = queue.handle_dead_letters(&all, action, nothing_recorded, |_| true).await.unwrap();
                assert!(report.failed.is_empty(), "{report:?}");
                if report.done.is_empty() && report.total == 0 {
                    return done;
                }
                done.extend(report.done);
            }
        }
    };
    let more = async {
        let (_connection, channel) = vhost.foreign().await;
        for body in &sent[40..] {
            let properties = headers(&[("x-acetate-queue", "acetate.edit")]);
            let options = BasicPublishOptions::default();
            let sent = channel.basic_publish(DEAD_EXCHANGE.into(), "edit".into(), options, body, properties);
            sent.await.unwrap().await.unwrap();
        }
    };
    let (mut retried, dropped, ()) = tokio::join!(handle(RETRY), handle(DeadLetterAction::Drop), more);
    // What came, or was returned, after both had ended.
    let start = Instant::now();
    while retried.len() + dropped.len() < sent.len() {
        assert!(start.elapsed() < Duration::from_secs(60), "{} and {}", retried.len(), dropped.len());
        retried.extend(handle(RETRY).await);
    }
    vhost.until_left(DEAD_LETTERS, 0).await;
    let all: BTreeSet<_> = retried.iter().chain(&dropped).collect();
    assert_eq!((retried.len() + dropped.len(), all.len()), (60, 60), "each exactly once");
    vhost.until_left("acetate.edit", u32::try_from(retried.len()).unwrap()).await;
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_queue_and_missing_rights_are_named() {
    let (brokers, _node) = brokers().await;
    for broker in brokers {
        let vhost = Vhost::on(&broker);
        let queue = vhost.ready().await;
        let user = vhost.user("", ALL, "^acetate\\.(edit|composite|decompose|workflow)$");
        let stranger = Queue::Rabbit(RabbitQueue::new(&user.url, options()).unwrap());
        let error = stranger.dead_letters(&DeadLetterFilter::default(), 10).await;
        // An empty queue is not read.
        put(&vhost, &bodies(1), &BasicProperties::default()).await;
        let error = match error {
            Err(error) => error,
            Ok(_) => stranger.dead_letters(&DeadLetterFilter::default(), 10).await.unwrap_err(),
        };
        let text = error.to_string();
        assert!(text.contains("permission to read acetate.dead-letters"), "{text}");
        vhost.until_left(DEAD_LETTERS, 1).await;

        vhost.delete(&format!("/queues/{}/{DEAD_LETTERS}", vhost.name));
        let error = queue.dead_letters(&DeadLetterFilter::default(), 10).await.unwrap_err().to_string();
        assert!(error.contains("acetate.dead-letters does not exist"), "{error}");
    }
    let embedded = Queue::Embedded(Default::default());
    let error = embedded.dead_letters(&DeadLetterFilter::default(), 10).await.unwrap_err().to_string();
    assert!(error.contains("queue.url: is not set") && error.contains("--state failed"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_classic_queue_is_read_as_well() {
    let vhost = Vhost::new();
    vhost.ready().await.close().await;
    vhost.delete(&format!("/queues/{}/{DEAD_LETTERS}", vhost.name));
    let (_connection, channel) = vhost.foreign().await;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(DEAD_LETTERS.into(), durable, FieldTable::default()).await.unwrap();
    let bind = QueueBindOptions::default();
    channel
        .queue_bind(DEAD_LETTERS.into(), DEAD_EXCHANGE.into(), "".into(), bind, FieldTable::default())
        .await
        .unwrap();
    let sent = bodies(5);
    put(&vhost, &sent, &BasicProperties::default()).await;
    // A connection that declares would refuse the classic queue; this one only looks.
    let queue = vhost.rabbit();
    for _ in 0..3 {
        let page = queue.dead_letters(&DeadLetterFilter::default(), 10).await.unwrap();
        assert_eq!(page.letters.len(), 5);
        vhost.until_left(DEAD_LETTERS, 5).await;
    }
    let third = DeadLetterFilter::one(DeadLetterName::Position(3));
    queue.handle_dead_letters(&third, DeadLetterAction::Drop, nothing_recorded, |_| true).await.unwrap();
    vhost.until_left(DEAD_LETTERS, 4).await;
    assert_eq!(drain(&vhost).await, [&sent[0], &sent[1], &sent[3], &sent[4]].map(Clone::clone));
}
