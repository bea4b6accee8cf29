//! Versions that run side by side: what a worker does with messages and rows of a newer one.

use std::time::Duration;

use acetate::job::JobId;
use lapin::{
    BasicProperties, ExchangeKind,
    options::{
        BasicAckOptions, BasicGetOptions, BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable, ShortString},
};
use serde_json::{Value, json};

use crate::{common::until, services::world::World};

/// A message of version 1, as every version must read it.
fn golden(world: &World, id: &str, input: &str) -> Value {
    json!({
        "version": 1, "id": id, "kind": "composite", "input": { "images": [input, input] },
        "output": { "prefix": world.output("golden") }, "params": {}, "labels": { "set": "x" }, "priority": 3,
    })
}

/// As a newer version might write one: another version, or another kind.
fn newer(world: &World, id: &str, input: &str) -> [Value; 2] {
    let old = golden(world, id, input);
    let (mut version, mut kind) = (old.clone(), old);
    version["version"] = json!(acetate::job::REQUEST_VERSION + 1);
    version["input"] = json!({ "pictures": [{ "at": input, "page": 1 }] });
    kind["kind"] = json!("upscale");
    kind["params"] = json!({ "factor": 4 });
    [version, kind]
}

async fn publish(world: &World, kind: &str, body: &Value, headers: FieldTable) {
    let (connection, channel) = world.service.as_ref().unwrap().vhost.foreign().await;
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let properties = BasicProperties::default().with_headers(headers).with_correlation_id("mine".into());
    let body = body.to_string();
    channel.basic_publish("acetate.jobs".into(), kind.into(), options, body.as_bytes(), properties).await.unwrap();
    connection.close(0, "".into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_newer_version_are_left_to_newer_workers() {
    let world = World::service().await;
    let worker = world.worker_with(&[("ACETATE__TELEMETRY__LEVEL", "debug")]);
    worker.until_said("ready for jobs").await;
    let input = world.input("a.png", [1, 2, 3, 255]);
    let [first, second] = [(); 2].map(|()| JobId::new().to_string());
    let left = [newer(&world, &first, &input)[0].clone(), newer(&world, &second, &input)[1].clone()];
    for body in &left {
        publish(&world, "composite", body, FieldTable::default()).await;
    }
    // Those behind them go on, and are what they always were.
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(JobId::new().to_string());
        publish(&world, "composite", &golden(&world, ids.last().unwrap(), &input), FieldTable::default()).await;
    }
    for id in &ids {
        assert_eq!(world.until(id, &["succeeded", "failed"]).await["state"], "succeeded");
    }
    // Both were left once, and again.
    let times = |log: &str, said: &str| log.matches(said).count();
    worker.until_log("still left to newer workers", |log| times(log, "still left to newer workers") >= 4).await;
    assert_eq!(times(&worker.log(), "a message is left to newer workers"), 2, "{}", worker.log());
    let vhost = &world.service.as_ref().unwrap().vhost;
    vhost.until_left("acetate.later", 2).await;
    vhost.until_left("acetate.dead-letters", 0).await;
    assert_eq!(world.count("SELECT count(*) FROM rejections").await, 0);
    drop(worker);

    // A newer worker gets them as they were sent.
    let (_connection, channel) = vhost.foreign().await;
    let mut found = Vec::new();
    while found.len() < 2 {
        let got = until(|| async {
            let got = channel.basic_get("acetate.composite".into(), BasicGetOptions::default()).await.unwrap();
            got.ok_or("the messages are gone")
        })
        .await;
        assert_eq!(got.properties.correlation_id().as_ref().unwrap().as_str(), "mine");
        let headers = got.properties.headers().clone().unwrap_or_default();
        let times = headers.inner().get("x-acetate-left").cloned();
        assert!(matches!(times, Some(AMQPValue::LongLongInt(2..=20))), "it spins, or is not left: {times:?}");
        got.acker.ack(BasicAckOptions::default()).await.unwrap();
        let body: Value = serde_json::from_slice(&got.data).unwrap();
        if !found.contains(&body) {
            found.push(body);
        }
    }
    assert!(left.iter().all(|body| found.contains(body)), "{found:?}");
}

/// In a fleet whose clients are newer than its workers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_goes_on_beside_many_messages_of_a_newer_version() {
    const NEWER: u32 = 200;
    const KNOWN: usize = 20;
    let mut world = World::service().await;
    world.set("ACETATE__WORKER__SLOTS", "2");
    world.rows().await;
    let vhost = &world.service.as_ref().unwrap().vhost;
    vhost.ready().await.close().await;
    let input = world.input("a.png", [1, 2, 3, 255]);
    let (connection, channel) = vhost.foreign().await;
    let send = async |body: Value| {
        let (options, body) = (BasicPublishOptions::default(), body.to_string());
        channel
            .basic_publish("acetate.jobs".into(), "composite".into(), options, body.as_bytes(), Default::default())
            .await
            .unwrap();
    };
    for _ in 0..NEWER {
        send(newer(&world, &JobId::new().to_string(), &input)[0].clone()).await;
    }
    let ids: Vec<_> = (0..KNOWN).map(|_| JobId::new().to_string()).collect();
    for id in &ids {
        send(golden(&world, id, &input)).await;
    }
    vhost.until_left("acetate.composite", NEWER + KNOWN as u32).await;
    let start = std::time::Instant::now();
    let worker = world.worker();
    let done = "SELECT count(*) FROM jobs WHERE state = 'succeeded'";
    until(|| async {
        let count = world.count(done).await;
        if count == KNOWN as i64 { Ok(()) } else { Err(format!("{count} have run: {}", worker.log())) }
    })
    .await;
    let first = start.elapsed();
    // While they circulate.
    let id = JobId::new().to_string();
    let start = std::time::Instant::now();
    send(golden(&world, &id, &input)).await;
    world.until(&id, &["succeeded"]).await;
    println!("{KNOWN} known messages behind {NEWER} newer ones: {first:.1?}; one beside them: {:.1?}", start.elapsed());
    assert!(first < Duration::from_secs(45) && start.elapsed() < Duration::from_secs(10), "{first:?}");
    drop(worker);
    connection.close(0, "".into()).await.unwrap();
    // None is lost.
    let all = async || {
        let (_connection, channel) = vhost.foreign().await;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let mut left = 0;
        for queue in ["acetate.composite", "acetate.later"] {
            left += channel.queue_declare(queue.into(), passive, FieldTable::default()).await.unwrap().message_count();
        }
        // What a worker published and had not acknowledged when it was killed is there twice.
        if (NEWER..NEWER + 10).contains(&left) { Ok(()) } else { Err(format!("{left} messages are left")) }
    };
    until(all).await;
}

/// Without the right to declare the queue where they wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newer_messages_wait_with_the_worker_where_no_queue_can_be_declared() {
    let mut world = World::service().await;
    let vhost = &world.service.as_ref().unwrap().vhost;
    vhost.ready().await.close().await;
    let user = tokio::task::block_in_place(|| vhost.user("", "^acetate\\.", "^acetate\\."));
    let url = user.url.clone();
    world.set("ACETATE__QUEUE__URL", &url);
    let worker = world.worker();
    worker.until_said("ready for jobs").await;
    let input = world.input("a.png", [1, 2, 3, 255]);
    let [left, known] = [(); 2].map(|()| JobId::new().to_string());
    publish(&world, "composite", &newer(&world, &left, &input)[0].clone(), FieldTable::default()).await;
    publish(&world, "composite", &golden(&world, &known, &input), FieldTable::default()).await;
    assert_eq!(world.until(&known, &["succeeded", "failed"]).await["state"], "succeeded");
    worker.until_said("cannot wait in the queue acetate.later").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(worker.log().matches("cannot wait in the queue").count(), 1, "{}", worker.log());
    drop(worker);
    let vhost = &world.service.as_ref().unwrap().vhost;
    vhost.until_left("acetate.composite", 1).await;

    // Somebody else declares it, as the documentation shows.
    let (connection, channel) = vhost.foreign().await;
    let later: ShortString = "acetate.later".into();
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(later.clone(), ExchangeKind::Fanout, durable, FieldTable::default()).await.unwrap();
    let mut arguments = FieldTable::default();
    for (name, value) in [
        ("x-queue-type", "quorum"),
        ("x-overflow", "reject-publish"),
        ("x-dead-letter-exchange", "acetate.jobs"),
        ("x-dead-letter-strategy", "at-least-once"),
    ] {
        arguments.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(later.clone(), durable, arguments).await.unwrap();
    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
    channel.queue_bind(later.clone(), later, "".into(), options, none).await.unwrap();
    connection.close(0, "".into()).await.unwrap();
    let worker = world.worker();
    vhost.until_left("acetate.later", 1).await;
    assert!(!worker.log().contains("cannot wait in the queue"), "{}", worker.log());
    drop(worker);
    tokio::task::block_in_place(|| drop(user));
}

/// A person who waits is told what is known.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_job_hears_of_the_workers_that_do_not_take_it() {
    let world = World::service().await;
    world.rows().await;
    let (input, output) = (world.input("a.png", [1, 2, 3, 255]), world.output("waits"));
    let args = ["submit", "composite", "--input", &input, "--output", &output, "--wait"];
    let alone = world.start(&args, &[]);
    alone.until_said("waiting for a worker (start one: acetate worker)").await;
    alone.until_said("no worker took it in 10 s, and none is running").await;
    drop(alone);
    world.sql("INSERT INTO workers (name, slots, seen_at) VALUES ('old@elsewhere', 2, acetate_now() + 600000)").await;
    let waits = world.start(&args, &[]);
    waits
        .until_said(
            "no worker took it in 10 s: 2 composite queued, 0 running; workers seen: old@elsewhere (an older version)",
        )
        .await;
    assert!(!waits.log().contains("start one"), "{}", waits.log());
    drop(waits);
    assert_eq!(world.run(&["queue", "pause", "composite"]).await.code, Some(0));
    let paused = world.start(&args, &[]);
    paused.until_said("composite is paused (acetate queue resume composite)").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_newer_version_stay_queued_and_come_again_later() {
    let world = World::service().await;
    let worker = world.worker();
    worker.until_said("ready for jobs").await;
    let input = world.input("a.png", [1, 2, 3, 255]);
    let mut ids = Vec::new();
    for which in 0..2 {
        let id = JobId::new().to_string();
        let body = newer(&world, &id, &input)[which].clone();
        // As a newer submitter leaves it: the kind may have a queue that this version does not know.
        let kind = body["kind"].as_str().unwrap();
        world
            .sql(&format!(
                "INSERT INTO jobs (id, fingerprint, kind, request, priority, state, available_at, quiet_until,
                                   created_at, updated_at)
                 VALUES ('{id}', 'x', '{kind}', '{body}', 0, 'queued', acetate_now(), acetate_now(), acetate_now(),
                         acetate_now());
                 INSERT INTO outbox (job, topic, kind, priority, available_at, created_at)
                 VALUES ('{id}', 'dispatch', '{kind}', 0, acetate_now(), acetate_now())"
            ))
            .await;
        ids.push((id, kind.to_owned()));
    }
    // Of the version: sent by this relay, and left for later. Of the kind: not touched, not even sent.
    worker.until_said("left to newer workers").await;
    let [(version, _), (kind, _)] = &ids[..] else { panic!() };
    let waiting = "SELECT count(*) FROM jobs WHERE state = 'queued' AND attempts = 0 AND epoch = 0 AND error IS NULL";
    let later = format!("SELECT count(*) FROM outbox WHERE job = '{version}' AND available_at > acetate_now() + 20000");
    until(|| async {
        let count = world.count(&later).await;
        if count == 1 { Ok(()) } else { Err(format!("{count} messages for later")) }
    })
    .await;
    // This version's own jobs go on beside them.
    let own = JobId::new().to_string();
    publish(&world, "composite", &golden(&world, &own, &input), FieldTable::default()).await;
    assert_eq!(world.until(&own, &["succeeded", "failed"]).await["state"], "succeeded");
    // The relay has sent what came after them.
    let events = format!("SELECT count(*) FROM outbox WHERE job = '{own}'");
    until(async || if world.count(&events).await == 0 { Ok(()) } else { Err("its end is not told") }).await;
    assert_eq!(world.count(waiting).await, 2);
    assert_eq!(worker.log().matches("left to newer workers").count(), 1, "it spins: {}", worker.log());
    let unsent = format!("SELECT count(*) FROM outbox WHERE job = '{kind}' AND taken_until IS NULL");
    assert_eq!(world.count(&unsent).await, 1);
    assert!(!worker.log().contains("could not send the outbox"), "{}", worker.log());
    assert!(!worker.log().contains("could not count"), "{}", worker.log());
    let listed = world.json(&["jobs", "list", "--json"]).await;
    assert_eq!(listed["jobs"].as_array().unwrap().len(), 1, "{listed:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_knows_for_a_day_is_refused() {
    let world = World::service().await;
    let worker = world.worker();
    worker.until_said("ready for jobs").await;
    let id = JobId::new().to_string();
    let mut headers = FieldTable::default();
    let yesterday = jiff::Timestamp::now().as_second() - 25 * 3600;
    headers.insert("x-acetate-left-since".into(), AMQPValue::LongLongInt(yesterday));
    let body = newer(&world, &id, "s3://pictures/a.png")[1].clone();
    publish(&world, "composite", &body, headers).await;
    world.service.as_ref().unwrap().vhost.until_left("acetate.dead-letters", 1).await;
    let job = world.until(&id, &["failed"]).await;
    assert_eq!(job["error"]["code"], "invalid_request", "{job:#}");
    assert!(job["error"]["message"].as_str().unwrap().contains("upscale"), "{job:#}");

    // A field that version 1 does not have is the sender's mistake, at once.
    let id = JobId::new().to_string();
    let mut body = golden(&world, &id, "s3://pictures/a.png");
    body["params"]["new"] = json!(1);
    publish(&world, "composite", &body, FieldTable::default()).await;
    world.service.as_ref().unwrap().vhost.until_left("acetate.dead-letters", 2).await;
    assert_eq!(world.until(&id, &["failed"]).await["error"]["code"], "invalid_request");
}
