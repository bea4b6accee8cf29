//! Queues of acetate whose length a policy limits: what RabbitMQ refuses waits, nothing is lost or told twice, and the
//! queue is named with its limit and what to do.

use std::time::Duration;

use acetate::{
    job::{ErrorRecord, JobError, JobId, JobKind},
    queue::{DEAD_LETTERS, Queue},
};
use lapin::{
    BasicProperties, Channel,
    options::{BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions, QueuePurgeOptions},
    types::FieldTable,
};
use serde_json::{Value, json};

use crate::{
    common::{self, until},
    http::client::get,
    services::{
        rabbit::{Broker, Vhost, consume, dispatch, next},
        world::World,
    },
};

const EDIT: &str = "acetate.edit";
const HEARD: &str = "shop.events";

fn brokers() -> Vec<Broker> {
    if Broker::newest().is_none() {
        common::skipped("full queues of the newest RabbitMQ", "scripts/services could not start it");
    }
    [Some(Broker::shared()), Broker::newest()].into_iter().flatten().collect()
}

/// A policy for one queue, which the broker has applied when this returns.
async fn limit(vhost: &Vhost, queue: &str, definition: Value) {
    let pattern = format!("^{}$", queue.replace('.', "\\."));
    tokio::task::block_in_place(|| vhost.policy(&pattern, definition.clone()));
    let path = format!("/queues/{}/{queue}", vhost.name);
    until(async || {
        let told = tokio::task::block_in_place(|| vhost.get(&path));
        if told["effective_policy_definition"] == definition { Ok(()) } else { Err(format!("no policy yet: {told}")) }
    })
    .await;
}

async fn waiting(channel: &Channel, queue: &str) -> u32 {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), passive, FieldTable::default()).await.unwrap().message_count()
}

/// Puts messages into a queue until it takes no more; returns how many there are.
async fn fill(vhost: &Vhost, queue: &str) -> u32 {
    let (_connection, channel) = vhost.foreign().await;
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    until(async || {
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let sent = channel.basic_publish("".into(), queue.into(), options, b"old", properties).await.unwrap();
        if sent.await.unwrap().is_nack() { Ok(()) } else { Err("there is still room") }
    })
    .await;
    waiting(&channel, queue).await
}

async fn purge(channel: &Channel, queue: &str) {
    channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await.unwrap();
}

fn full(queue: &Queue) -> Vec<(&'static str, String)> {
    queue.health().full.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_full_queue_refuses_is_told_and_nothing_else() {
    for broker in brokers() {
        let vhost = Vhost::on(&broker);
        let queue = vhost.ready().await;
        let (_connection, channel) = vhost.foreign().await;
        limit(&vhost, EDIT, json!({ "max-length": 2 })).await;
        let (mut taken, mut refused) = (0, Vec::new());
        // The limit is not exact: the queue tells publishers a moment later.
        for _ in 0..20 {
            for result in queue.publish_many(vec![dispatch(JobKind::Edit)]).await {
                match result {
                    Ok(()) => taken += 1,
                    Err(error) => refused.push(error),
                }
            }
        }
        assert!(refused.len() >= 10, "{taken} were taken");
        assert!(refused.iter().all(|error| matches!(error, JobError::Unconfirmed { .. })), "{refused:?}");
        assert!(refused[0].to_string().contains("the queue acetate.edit is full"), "{}", refused[0]);
        vhost.until_left(EDIT, taken).await;
        let told = full(&queue);
        let [(EDIT, why)] = &told[..] else { panic!("{told:?}") };
        for words in [&*format!("holds {taken} messages"), "start more workers", "max-length", &vhost.name] {
            assert!(why.contains(words), "{words}: {why}");
        }
        assert_eq!(queue.health().refused, None, "no right is missing");
        // Others are not concerned.
        queue.publish_dispatch(&dispatch(JobKind::Composite)).await.unwrap();
        assert_eq!(full(&queue).len(), 1);
        purge(&channel, EDIT).await;
        until(async || queue.publish_dispatch(&dispatch(JobKind::Edit)).await).await;
        assert_eq!(full(&queue), []);
        queue.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_not_acknowledged_before_its_dead_letter_is_there() {
    for broker in brokers() {
        let vhost = Vhost::on(&broker);
        let queue = vhost.ready().await;
        let (_connection, channel) = vhost.foreign().await;
        limit(&vhost, DEAD_LETTERS, json!({ "max-length": 1 })).await;
        let old = fill(&vhost, DEAD_LETTERS).await;
        let reason = ErrorRecord::from(&JobError::invalid("color", "is not known"));
        let consumer = consume(&queue, &[JobKind::Edit], 1);
        for body in ["first", "second"] {
            let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
            let sent = channel.basic_publish("".into(), EDIT.into(), options, body.as_bytes(), properties);
            sent.await.unwrap();
        }
        // Both are tried, because what waits for a dead letter lets others pass.
        for _ in 0..2 {
            let delivery = next(&consumer).await;
            assert!(!delivery.has_come_before());
            let error = delivery.dead_letter(&reason).await.unwrap_err();
            assert!(error.to_string().contains("the queue acetate.dead-letters is full"), "{error}");
        }
        let told = full(&queue);
        assert!(matches!(&told[..], [(DEAD_LETTERS, why)] if why.contains("acetate dead-letters list")), "{told:?}");
        let delivery = next(&consumer).await;
        assert!(delivery.has_come_before());
        assert!(delivery.dead_letter(&reason).await.is_err());
        tokio::task::block_in_place(|| vhost.delete(&format!("/policies/{}/test", vhost.name)));
        for _ in 0..2 {
            loop {
                let delivery = next(&consumer).await;
                if let Ok(delivery) = delivery.dead_letter(&reason).await {
                    delivery.ack().await;
                    break;
                }
            }
        }
        vhost.until_left(DEAD_LETTERS, old + 2).await;
        assert_eq!(full(&queue), []);
        consumer.close().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!((waiting(&channel, EDIT).await, waiting(&channel, "acetate.later").await), (0, 0));
        queue.close().await;
    }
}

/// An invalid message comes again and again while the dead letters are full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_message_is_told_once_while_the_dead_letters_are_full() {
    let world = World::service().await;
    let vhost = &world.service.as_ref().unwrap().vhost;
    vhost.ready().await.close().await;
    let (_connection, channel) = vhost.foreign().await;
    for queue in [HEARD, "answers"] {
        channel.queue_declare(queue.into(), QueueDeclareOptions::default(), FieldTable::default()).await.unwrap();
    }
    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
    channel.queue_bind(HEARD.into(), "acetate.events".into(), "job.failed".into(), options, none).await.unwrap();
    limit(vhost, DEAD_LETTERS, json!({ "max-length": 1 })).await;
    let old = fill(vhost, DEAD_LETTERS).await;
    let worker = world.worker();
    let at = worker.http().await;
    let id = JobId::new();
    let body = json!({ "version": 1, "id": id, "kind": "composite", "color": 1 }).to_string();
    let properties = BasicProperties::default().with_reply_to("answers".into());
    let options = BasicPublishOptions::default();
    let sent = channel.basic_publish("acetate.jobs".into(), "composite".into(), options, body.as_bytes(), properties);
    sent.await.unwrap();
    let tried = |times: usize| {
        worker.until_log("the message came again", move |log| {
            log.matches("the queue acetate.dead-letters is full").count() >= times
        })
    };
    tried(3).await;
    assert_eq!(waiting(&channel, HEARD).await, 1, "{}", worker.log());
    assert_eq!(waiting(&channel, "answers").await, 0, "it is not decided yet");
    let shown = world.run(&["jobs", "show", &id.to_string()]).await;
    assert!(shown.stdout.contains("failed: the message was refused"), "{shown:?}");
    let (ready, metrics) = tokio::task::block_in_place(|| {
        (
            get(&format!("{at}/readyz")).ok(200).json(),
            String::from_utf8(get(&format!("{at}/metrics")).ok(200).body).unwrap(),
        )
    });
    let queue = ready["checks"]["queue"].as_str().unwrap();
    assert!(queue.starts_with("full: acetate.dead-letters") && ready["ready"] == true, "{ready:#}");
    assert!(metrics.contains("acetate_queue_full{queue=\"acetate.dead-letters\"} 1"), "{metrics}");
    assert!(metrics.contains("acetate_queue_full{queue=\"acetate.composite\"} 0"), "{metrics}");
    let doctor = world.run(&["doctor"]).await;
    assert!(doctor.stdout.contains(&format!("acetate.dead-letters is full, {old} messages wait")), "{doctor:?}");

    tokio::task::block_in_place(|| vhost.delete(&format!("/policies/{}/test", vhost.name)));
    vhost.until_left(DEAD_LETTERS, old + 1).await;
    vhost.until_left("answers", 1).await;
    assert_eq!(waiting(&channel, HEARD).await, 1, "{}", worker.log());
    let letter = world.json(&["dead-letters", "show", &id.to_string(), "--json"]).await;
    assert_eq!(letter["body"], body);
    worker.until_said(&format!("acetate dead-letters show {}", letter["id"].as_str().unwrap())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_names_full_queues_and_policies_that_lose_messages() {
    for broker in brokers() {
        let world = World::service_on(broker).await;
        let vhost = &world.service.as_ref().unwrap().vhost;
        vhost.ready().await.close().await;
        let doctor = world.run(&["doctor"]).await;
        assert!(doctor.stdout.contains("messages are accepted\n"), "{doctor:?}");
        limit(vhost, "acetate.composite", json!({ "max-length": 1 })).await;
        let input = world.input("a.png", [1, 2, 3, 255]);
        for _ in 0..8 {
            world.submit(&["composite", "--input", &input, "--output", &world.output("made")]).await;
        }
        let kept = world.count("SELECT count(*) FROM outbox WHERE refusals > 0").await;
        assert!(kept >= 1, "{kept} were refused");
        let doctor = world.run(&["doctor"]).await;
        for words in [
            "warning  RabbitMQ",
            "raise max-length 1 in the policy `test` of acetate.composite",
            &format!("{kept} composite jobs not dispatched").replace("1 composite jobs", "1 composite job"),
        ] {
            assert!(doctor.stdout.contains(words), "{words}: {doctor:?}");
        }
        limit(vhost, "acetate.composite", json!({ "max-length": 9, "overflow": "drop-head" })).await;
        let doctor = world.run(&["doctor"]).await;
        let words = "the policy `test` of acetate.composite has overflow drop-head, so that RabbitMQ removes messages \
                     when the queue is full (now max-length 9): set overflow to reject-publish in it";
        assert!(doctor.stdout.contains(words), "{doctor:?}");
    }
}
