//! Listeners to events whose queues are full.

use std::time::{Duration, Instant};

use acetate::job::JobId;
use lapin::{
    BasicProperties, Channel,
    options::{BasicPublishOptions, QueueBindOptions, QueueDeclareOptions, QueuePurgeOptions},
    types::{AMQPValue, FieldTable},
};

use crate::{common::until, services::world::World};

const FULL: &str = "shop.events";
const OTHER: &str = "audit.events";

/// A queue for these events, with room for one message, which is taken.
pub async fn full_queue(channel: &Channel, name: &str, events: &str) {
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    channel.queue_declare(name.into(), QueueDeclareOptions::default(), arguments).await.unwrap();
    channel
        .basic_publish("".into(), name.into(), BasicPublishOptions::default(), b"old", BasicProperties::default())
        .await
        .unwrap();
    bind(channel, name, events).await;
}

async fn bind(channel: &Channel, name: &str, events: &str) {
    let none = FieldTable::default();
    channel
        .queue_bind(name.into(), "acetate.events".into(), events.into(), QueueBindOptions::default(), none)
        .await
        .unwrap();
}

async fn count(channel: &Channel, queue: &str) -> u32 {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), passive, FieldTable::default()).await.unwrap().message_count()
}

async fn composite(world: &World, input: &str) -> String {
    world.submit(&["composite", "--input", input, "--output", &world.output("told")]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_of_a_listener_makes_no_storm_and_holds_nothing_up() {
    let world = World::service().await;
    let vhost = &world.service.as_ref().unwrap().vhost;
    vhost.ready().await.close().await;
    let (_connection, channel) = vhost.foreign().await;
    channel.queue_declare(OTHER.into(), QueueDeclareOptions::default(), FieldTable::default()).await.unwrap();
    bind(&channel, OTHER, "job.succeeded").await;
    full_queue(&channel, FULL, "job.succeeded").await;

    let worker = world.worker();
    let input = world.input("a.png", [1, 2, 3, 255]);
    let ids = [composite(&world, &input).await, composite(&world, &input).await, composite(&world, &input).await];
    for id in &ids {
        assert_eq!(world.until(id, &["succeeded", "failed"]).await["state"], "succeeded");
    }
    let refused = "SELECT count(*) FROM outbox WHERE refusals > 0";
    let three = async || match world.count(refused).await {
        3 => Ok(()),
        other => Err(format!("{other} events were refused: {}", worker.log())),
    };
    until(three).await;
    // After 0 and 2 seconds, not every 2 seconds: the next time is after 12.
    let rare = "SELECT count(*) FROM outbox WHERE refusals = 2 AND available_at > acetate_now() + 5000";
    until(async || match world.count(rare).await {
        3 => Ok(()),
        other => Err(format!("{other} events wait longer: {}", worker.log())),
    })
    .await;
    let heard = count(&channel, OTHER).await;
    assert!((3..=6).contains(&heard), "three events were sent {heard} times: {}", worker.log());
    for words in ["bound to acetate.events is full", "rabbitmqctl list_bindings -p"] {
        assert!(worker.log().contains(words), "{words}: {}", worker.log());
    }
    let doctor = world.run(&["doctor"]).await;
    assert!(
        doctor.stdout.contains("3 events refused by a queue that is bound to the exchange acetate.events"),
        "{doctor:?}"
    );

    // Other events go on, and so do messages that are refused, whose sender hears of it.
    let failed = composite(&world, &input.replace("a.png", "missing.png")).await;
    world.until(&failed, &["failed"]).await;
    let start = Instant::now();
    let unsent = format!("SELECT count(*) FROM outbox WHERE job = '{failed}' AND topic <> 'dispatch'");
    until(async || if world.count(&unsent).await == 0 { Ok(()) } else { Err("it waits for the others") }).await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());

    // When there is room again, it gets what is left, and everybody else gets that, too.
    for _ in 0..3 {
        channel.queue_purge(FULL.into(), QueuePurgeOptions::default()).await.unwrap();
        world.sql("UPDATE outbox SET available_at = 0 WHERE refusals > 0").await;
        let due = "SELECT count(*) FROM outbox WHERE refusals > 0 AND available_at = 0";
        until(async || if world.count(due).await == 0 { Ok(()) } else { Err("they were not sent again") }).await;
    }
    until(async || match world.count(refused).await {
        0..=2 => Ok(()),
        all => Err(format!("{all} are refused")),
    })
    .await;

    // It is not tried for ever.
    let last = composite(&world, &input).await;
    assert_eq!(world.until(&last, &["succeeded", "failed"]).await["state"], "succeeded");
    until(async || if world.count(refused).await > 0 { Ok(()) } else { Err("none is refused") }).await;
    world.sql("UPDATE outbox SET available_at = 0, refusals = 7 WHERE refusals > 0").await;
    worker.until_said("events are given up").await;
    until(async || if world.count(refused).await == 0 { Ok(()) } else { Err("it is still there") }).await;
}

/// The sender of a message that is no job is told of it once, and the message is put aside once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_message_is_put_aside_although_a_listener_is_full() {
    let world = World::service().await;
    let vhost = &world.service.as_ref().unwrap().vhost;
    vhost.ready().await.close().await;
    let (_connection, channel) = vhost.foreign().await;
    channel.queue_declare(OTHER.into(), QueueDeclareOptions::default(), FieldTable::default()).await.unwrap();
    bind(&channel, OTHER, "job.failed").await;
    full_queue(&channel, FULL, "job.failed").await;
    let worker = world.worker();
    let id = JobId::new();
    let body = format!("{{\"version\": 1, \"id\": \"{id}\", \"kind\": \"composite\", \"color\": 1}}");
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    channel
        .basic_publish("acetate.jobs".into(), "composite".into(), options, body.as_bytes(), properties)
        .await
        .unwrap();
    vhost.until_left("acetate.dead-letters", 1).await;
    // A message that is given back comes again after a second.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(count(&channel, OTHER).await, 1, "{}", worker.log());
    assert!(worker.log().contains("not every listener was told"), "{}", worker.log());
}
