//! Jobs that have ended, and of which a message is still in a queue: none of them runs again.

use std::time::Duration;

use lapin::{
    BasicProperties, Channel,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use super::{
    killed::composite,
    ledger::{Case, Tally, Witness, case},
};
use crate::{
    common::until,
    http::{client::send, server::Server},
    services::world::World,
};

pub fn cases() -> Vec<Case> {
    vec![
        case("a batch is cancelled and pruned, its messages stay", pruned()),
        case("a job is cancelled and deleted over HTTP, its message stays", deleted_over_http()),
        case("a message comes again after its job succeeded and was pruned", late_duplicate()),
        case("a database from before the messages in the queue", older_database()),
        case("messages of a version without dispatch headers", older_messages()),
        case("a backup from before jobs were cancelled and pruned is restored", restored_backup()),
        case("a backup is restored under a running worker", rewound()),
        case("a backup is restored as data only, into new tables", restored_data()),
        case("a database in which a job that has succeeded is still queued", older_row("queued", 0)),
        case("a database in which a job that has succeeded is still running", older_row("running", 1)),
    ]
}

/// Jobs whose messages wait in the queue.
async fn queued(world: &World, batch: &str, count: u32) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..count {
        let (input, output) = (world.input(&format!("{n}.png"), [9, 80, 200, 255]), world.output(batch));
        ids.push(world.submit(&["composite", "--input", &input, "--output", &output, "--batch", batch]).await);
    }
    world.service.as_ref().unwrap().vhost.until_left("acetate.composite", count).await;
    ids
}

async fn prune(world: &World, jobs: usize) {
    until(|| async {
        let gone = world.json(&["jobs", "prune", "--older-than", "0s", "--json"]).await;
        if gone["jobs"] == jobs { Ok(()) } else { Err(gone) }
    })
    .await;
}

/// A worker takes everything from the queue; the jobs in `ended` are not run, and so many messages were put aside.
async fn nothing_comes_back(world: &World, ended: &[String], dead_letters: u32) -> Tally {
    let vhost = &world.service.as_ref().unwrap().vhost;
    let witness = Witness::of(world).await;
    let mut worker = world.worker();
    worker.until_said("ready for jobs").await;
    let last = composite(world, "last").await;
    world.until(&last, &["succeeded", "failed"]).await;
    // What it has in hand is finished before it leaves.
    worker.signal("-TERM");
    assert_eq!(worker.ended().await, Some(0), "{}", worker.log());
    vhost.until_left("acetate.composite", 0).await;
    vhost.until_left("acetate.dead-letters", dead_letters).await;
    assert_eq!(worker.log().matches("claimed").count(), 1, "only the last one: {}", worker.log());
    let listed = world.json(&["jobs", "list", "--json"]).await;
    let listed: Vec<_> = listed["jobs"].as_array().unwrap().iter().map(|job| &job["id"]).collect();
    assert_eq!(listed, [&json!(last)]);
    let tally = witness.judge_with_ended(world, &[last], ended).await;
    assert_eq!((tally.succeeded, tally.resurrected), (1, 0), "{tally:?}");
    tally
}

async fn pruned() -> Tally {
    let world = World::service().await;
    let before = Witness::of(&world).await;
    let ids = queued(&world, "wrong", 3).await;
    assert_eq!(world.json(&["jobs", "cancel", "--batch", "wrong", "--json"]).await["cancelled"], 3);
    drop(before);
    prune(&world, 3).await;
    world.service.as_ref().unwrap().vhost.until_left("acetate.composite", 3).await;
    nothing_comes_back(&world, &ids, 0).await
}

async fn deleted_over_http() -> Tally {
    let world = World::service().await;
    let _declared = Witness::of(&world).await;
    let ids = queued(&world, "wrong", 2).await;
    tokio::task::block_in_place(|| {
        let server = Server::of(world.command(&["serve"]));
        for id in &ids {
            server.act(id, "cancel").ok(200);
            assert_eq!(send("DELETE", &server.url(&format!("/v1/jobs/{id}")), &[], &[]).status, 204);
        }
        // Its relay has sent what it took.
        server.stop();
    });
    nothing_comes_back(&world, &ids, 0).await
}

async fn late_duplicate() -> Tally {
    let world = World::service().await;
    let witness = Witness::of(&world).await;
    let id = acetate::job::JobId::new().to_string();
    let message = json!({
        "version": 1, "id": id, "kind": "composite", "input": {"image": world.input("raw.png", [1, 2, 3, 255])},
        "output": {"prefix": world.output("raw")},
    });
    let (connection, channel) = world.service.as_ref().unwrap().vhost.foreign().await;
    publish(&channel, &message, BasicProperties::default()).await;
    let mut worker = world.worker();
    // A row comes with the first look at its message.
    world.until(&id, &["succeeded", "failed"]).await;
    worker.signal("-TERM");
    worker.ended().await;
    let first = witness.judge(&world, std::slice::from_ref(&id)).await;
    assert_eq!(first.succeeded, 1, "{first:?}");
    prune(&world, 1).await;
    // Its sender was not sure.
    for _ in 0..2 {
        publish(&channel, &message, BasicProperties::default()).await;
    }
    let tally = nothing_comes_back(&world, &[id], 0).await;
    connection.close(0, "".into()).await.unwrap();
    tally
}

/// The jobs were accepted after the backup. What is not known is not run, however often it is retried, and not lost
/// either: a person can submit it.
async fn older_database() -> Tally {
    let world = World::service().await;
    let _declared = Witness::of(&world).await;
    let ids = queued(&world, "later", 2).await;
    forget_rows(&world).await;
    let tally = nothing_comes_back(&world, &ids, 2).await;

    let retry = async |more: &[&str]| {
        let args = [&["dead-letters", "retry", "--all", "--reason", "restored from an older backup", "--json"], more];
        assert_eq!(world.json(&args.concat()).await["done"].as_array().unwrap().len(), 2);
    };
    for _ in 0..2 {
        retry(&[]).await;
        forget_rows(&world).await;
        nothing_comes_back(&world, &ids, 2).await;
    }
    let witness = Witness::of(&world).await;
    retry(&["--as-new"]).await;
    let _worker = world.worker();
    for id in &ids {
        world.once(id, |_| true).await;
    }
    let again = witness.judge(&world, &ids).await;
    assert_eq!((again.succeeded, again.attempts), (2, 2), "{again:?}");
    tally
}

/// Nothing in the database says that the jobs have ended. It is noticed that it is old, and a person decides.
async fn restored_backup() -> Tally {
    let world = World::service().await;
    let witness = Witness::of(&world).await;
    let ids = queued(&world, "wrong", 3).await;
    world.sql("CREATE TABLE backup AS TABLE jobs; UPDATE lineage SET alive_at = alive_at - 120000").await;
    // Life goes on: a worker says so, and the jobs end.
    assert_eq!(world.run(&["queue", "pause"]).await.code, Some(0));
    let mut worker = world.worker();
    worker.until_said("ready for jobs").await;
    assert_eq!(world.json(&["jobs", "cancel", "--batch", "wrong", "--json"]).await["cancelled"], 3);
    worker.signal("-TERM");
    assert_eq!(worker.ended().await, Some(0), "{}", worker.log());
    assert!(!worker.log().contains("was restored"), "{}", worker.log());
    prune(&world, 3).await;
    assert_eq!(world.run(&["queue", "resume"]).await.code, Some(0));

    world
        .sql("INSERT INTO jobs SELECT * FROM backup; DELETE FROM tombstones; UPDATE lineage SET alive_at = alive_at - 3600000")
        .await;
    let worker = world.worker_with(&[("ACETATE__WORKER__REDISPATCH_SECONDS", "1")]);
    worker.until_said("nothing starts: the database was restored").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(world.count("SELECT count(*) FROM jobs WHERE state = 'queued'").await, 3, "{}", worker.log());
    let status = world.run(&["queue", "status"]).await;
    assert!(status.stdout.contains("the database was restored"), "{status:?}");
    let doctor = world.run(&["doctor"]).await;
    assert!(doctor.stdout.contains("acetate queue resume"), "{doctor:?}");
    assert_eq!(world.json(&["jobs", "cancel", "--batch", "wrong", "--json"]).await["cancelled"], 3);
    assert_eq!(world.run(&["queue", "resume"]).await.code, Some(0));
    let last = composite(&world, "last").await;
    let tally = witness.judge_with_ended(&world, &[last], &ids).await;
    assert_eq!((tally.succeeded, tally.resurrected), (1, 0), "{tally:?}");
    assert_eq!(worker.log().matches("was restored").count(), 1, "{}", worker.log());
    tally
}

/// The new tables have a row in `lineage` already, so that there are two, and the store does not know the first.
async fn restored_data() -> Tally {
    let world = World::service().await;
    let witness = Witness::of(&world).await;
    let ids = queued(&world, "wrong", 3).await;
    world.sql("CREATE TABLE backup AS TABLE jobs; CREATE TABLE lineage_backup AS TABLE lineage").await;
    assert_eq!(world.json(&["jobs", "cancel", "--batch", "wrong", "--json"]).await["cancelled"], 3);
    prune(&world, 3).await;
    // Made anew and restored. The new name comes before or after the old one.
    for name in ["0", "z"] {
        world
            .sql(&format!(
                "DELETE FROM jobs WHERE batch = 'wrong'; DELETE FROM tombstones; DELETE FROM lineage;
                 INSERT INTO lineage (name, alive_at) VALUES ('{name}', acetate_now());
                 INSERT INTO lineage SELECT * FROM lineage_backup; INSERT INTO jobs SELECT * FROM backup"
            ))
            .await;
        let doctor = world.run(&["doctor"]).await;
        assert!(doctor.stdout.contains("was restored") && doctor.stdout.contains("queue resume"), "{doctor:?}");
        let mut worker = world.worker_with(&[("ACETATE__WORKER__REDISPATCH_SECONDS", "1")]);
        worker.until_said("nothing starts: the database was restored").await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(world.count("SELECT count(*) FROM jobs WHERE state = 'queued'").await, 3, "{}", worker.log());
        assert_eq!(world.count("SELECT count(*) FROM lineage").await, 1);
        let doctor = world.run(&["doctor"]).await;
        assert!(doctor.stdout.contains("acetate queue resume"), "{doctor:?}");
        assert_eq!(world.json(&["jobs", "cancel", "--batch", "wrong", "--json"]).await["cancelled"], 3);
        assert_eq!(world.run(&["queue", "resume"]).await.code, Some(0));
        worker.signal("-TERM");
        assert_eq!(worker.ended().await, Some(0), "{}", worker.log());
        assert_eq!(worker.log().matches("was restored").count(), 1, "{}", worker.log());
    }
    let _worker = world.worker();
    let last = composite(&world, "last").await;
    let tally = witness.judge_with_ended(&world, &[last], &ids).await;
    assert_eq!((tally.succeeded, tally.resurrected), (1, 0), "{tally:?}");
    tally
}

/// Into the tables that a worker uses, so that it keeps its connections, and again with other connections.
async fn rewound() -> Tally {
    let world = World::service().await;
    let witness = Witness::of(&world).await;
    let ids = queued(&world, "wrong", 3).await;
    world.sql("CREATE TABLE backup AS TABLE jobs").await;
    assert_eq!(world.run(&["queue", "pause"]).await.code, Some(0));
    let url = &world.service.as_ref().unwrap().schema.url;
    let name = format!("rewound-{}", acetate::job::JobId::new());
    let own = format!("{url}&application_name={name}");
    let worker =
        world.worker_with(&[("ACETATE__WORKER__REDISPATCH_SECONDS", "1"), ("ACETATE__STATUS__URL", own.as_str())]);
    worker.until_said("ready for jobs").await;
    assert_eq!(world.json(&["jobs", "cancel", "--batch", "wrong", "--json"]).await["cancelled"], 3);
    prune(&world, 3).await;
    assert_eq!(world.run(&["queue", "resume"]).await.code, Some(0));
    let first = composite(&world, "first").await;
    world.until(&first, &["succeeded", "failed"]).await;

    for end in ["", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = "] {
        let cut = if end.is_empty() { String::new() } else { format!("; {end}'{name}'") };
        let restore = format!(
            "DELETE FROM jobs WHERE batch = 'wrong'; INSERT INTO jobs SELECT * FROM backup; DELETE FROM tombstones;
             UPDATE lineage SET alive_at = alive_at - 3600000{cut}"
        );
        let times = worker.log().matches("nothing starts: the database was restored").count() + 1;
        world.sql(&restore).await;
        let said = |log: &str| log.matches("nothing starts: the database was restored").count() == times;
        worker.until_log("nothing starts", said).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(world.count("SELECT count(*) FROM jobs WHERE state = 'queued'").await, 3, "{}", worker.log());
        assert_eq!(world.json(&["jobs", "cancel", "--batch", "wrong", "--json"]).await["cancelled"], 3);
        assert_eq!(world.run(&["queue", "resume"]).await.code, Some(0));
    }
    let last = composite(&world, "last").await;
    let tally = witness.judge_with_ended(&world, &[first, last], &ids).await;
    assert_eq!((tally.succeeded, tally.resurrected), (2, 0), "{tally:?}");
    tally
}

/// As a fleet leaves them whose older workers sent them, and pruned their jobs.
async fn older_messages() -> Tally {
    let world = World::service().await;
    let _declared = Witness::of(&world).await;
    let (connection, channel) = world.service.as_ref().unwrap().vhost.foreign().await;
    let id = acetate::job::JobId::new().to_string();
    let message = json!({
        "version": 1, "id": id, "kind": "composite", "input": {"image": world.input("old.png", [1, 2, 3, 255])},
        "output": {"prefix": world.output("old")},
    });
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_app_id("acetate".into())
        .with_type("composite".into())
        .with_message_id(id.as_str().into())
        .with_delivery_mode(2);
    publish(&channel, &message, properties).await;
    let tally = nothing_comes_back(&world, &[id], 1).await;
    connection.close(0, "".into()).await.unwrap();
    tally
}

/// A backup from before the job's end is restored: the job is there, queued or taken by a worker of that time.
async fn older_row(state: &'static str, epoch: i64) -> Tally {
    let world = World::service().await;
    let witness = Witness::of(&world).await;
    let mut worker = world.worker();
    let id = composite(&world, "done").await;
    let job = world.until(&id, &["succeeded", "failed"]).await;
    worker.signal("-TERM");
    worker.ended().await;
    let first = witness.judge(&world, std::slice::from_ref(&id)).await;
    assert_eq!((first.succeeded, first.attempts), (1, 1), "{first:?}");
    let result = world.path(job["outputs"][0]["url"].as_str().unwrap());
    let made = std::fs::metadata(&result).unwrap().modified().unwrap();

    let mut rows = PgConnection::connect(&world.service.as_ref().unwrap().schema.url).await.unwrap();
    let (attempts, worker) = if epoch == 0 { ("DELETE FROM attempts", "NULL") } else { ("SELECT 1", "'gone'") };
    let restore = format!(
        "UPDATE jobs SET state = '{state}', epoch = {epoch}, attempts = {epoch}, worker = {worker}, lease_until = 1000,
                         quiet_until = 1000, available_at = 1000, manifest = NULL, outputs = NULL, result_root = NULL,
                         finished_at = NULL;
         {attempts}"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(restore)).execute(&mut rows).await.unwrap();
    rows.close().await.unwrap();
    let witness = Witness::of(&world).await;
    let worker = world.worker();
    let tally = witness.judge(&world, std::slice::from_ref(&id)).await;
    assert_eq!(tally.succeeded, 1, "{tally:?}");
    assert!(worker.log().contains("not run again"), "{}", worker.log());
    assert_eq!(std::fs::metadata(&result).unwrap().modified().unwrap(), made, "its file was not written again");
    tally
}

async fn publish(channel: &Channel, message: &Value, properties: BasicProperties) {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let body = message.to_string();
    // In the queue before anybody looks.
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let confirm =
        channel.basic_publish("acetate.jobs".into(), "composite".into(), options, body.as_bytes(), properties).await;
    let confirmation = confirm.unwrap().await.unwrap();
    assert!(confirmation.is_ack() && confirmation.take_message().is_none());
}

/// The database as it was before the jobs.
async fn forget_rows(world: &World) {
    let mut rows = PgConnection::connect(&world.service.as_ref().unwrap().schema.url).await.unwrap();
    sqlx::raw_sql("DELETE FROM outbox; DELETE FROM jobs").execute(&mut rows).await.unwrap();
    rows.close().await.unwrap();
}
