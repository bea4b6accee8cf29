//! What other job services were reported for: jobs lost with their queue, results that were never stored and called a
//! success, and one id that ran twice.

use std::time::Duration;

use lapin::{
    BasicProperties,
    options::{BasicPublishOptions, QueueDeleteOptions, QueuePurgeOptions},
};
use serde_json::json;

use super::{
    killed::composite,
    ledger::{Case, Tally, Witness, case},
};
use crate::{
    http::{
        server::Server,
        webhooks::{SECRET, receiver},
    },
    services::listeners::full_queue,
    services::proxy::{Fault, Proxy},
    services::world::World,
};

pub fn cases() -> Vec<Case> {
    vec![
        case("the queue loses every message", lost_queue()),
        case("a result that cannot be stored is not a success", never_stored()),
        case("the same id by three ways at once", three_ways()),
        case("a listener's queue is full, and later deleted", full_listener()),
        case("jobs are pruned before anybody was told of them", pruned_before_told()),
    ]
}

/// The rows are what was accepted; the queue only says that there is something to do.
async fn lost_queue() -> Tally {
    let world = World::service().await;
    let witness = Witness::of(&world).await;
    let ids = [composite(&world, "one").await, composite(&world, "two").await];
    let vhost = &world.service.as_ref().unwrap().vhost;
    vhost.until_left("acetate.composite", 2).await;
    let (connection, channel) = vhost.foreign().await;
    channel.queue_purge("acetate.composite".into(), QueuePurgeOptions::default()).await.unwrap();
    connection.close(0, "".into()).await.unwrap();
    vhost.until_left("acetate.composite", 0).await;
    let _worker = world.worker_with(&[("ACETATE__WORKER__REDISPATCH_SECONDS", "1")]);
    let tally = witness.judge(&world, &ids).await;
    assert_eq!((tally.succeeded, tally.attempts), (2, 2), "{tally:?}");
    tally
}

async fn never_stored() -> Tally {
    let mut world = World::service().await;
    let witness = Witness::of(&world).await;
    let proxy = Proxy::before(world.service.as_ref().unwrap().s3.address).await;
    world.set("ACETATE__STORE__ENDPOINT", &proxy.endpoint());
    world.set("ACETATE__STORE__OPERATION_TIMEOUT_SECONDS", "6");
    world.set("ACETATE__WORKER__MAX_ATTEMPTS", "2");
    world.set("ACETATE__WORKER__DATABASE_RETRY_SECONDS", "1");
    let worker = world.worker();
    worker.until_said("ready for jobs").await;
    for _ in 0..100 {
        proxy.next("PUT", Fault::Answer("503 Slow Down", "<Error><Code>SlowDown</Code></Error>"));
    }
    let id = composite(&world, "never").await;
    let job = world.until(&id, &["succeeded", "failed"]).await;
    assert_eq!((&job["state"], &job["error"]["code"]), (&json!("failed"), &json!("attempts_exhausted")), "{job:#}");
    assert_eq!((&job["manifest"], &job["outputs"]), (&json!(null), &json!([])), "{job:#}");
    let tally = witness.judge_with_ended(&world, std::slice::from_ref(&id), std::slice::from_ref(&id)).await;
    assert_eq!((tally.failed, tally.resurrected), (1, 0), "it is told to have failed, and nothing else: {tally:?}");
    tally
}

/// Every event is heard by those that have room, and none is lost for good.
async fn full_listener() -> Tally {
    let world = World::service().await;
    let witness = Witness::of(&world).await;
    let (connection, channel) = world.service.as_ref().unwrap().vhost.foreign().await;
    full_queue(&channel, "shop.events", "#").await;
    let worker = world.worker();
    let ids = [composite(&world, "one").await, composite(&world, "two").await];
    worker.until_said("bound to acetate.events is full").await;
    channel.queue_delete("shop.events".into(), QueueDeleteOptions::default()).await.unwrap();
    let tally = witness.judge(&world, &ids).await;
    assert_eq!((tally.succeeded, tally.attempts), (2, 2), "{tally:?}");
    connection.close(0, "".into()).await.unwrap();
    tally
}

/// No server runs that would call the webhooks, when the jobs are pruned.
async fn pruned_before_told() -> Tally {
    let mut world = World::service().await;
    let (port, calls) = receiver(&[]);
    let origin = format!("http://127.0.0.1:{port}");
    for (name, value) in [("SECRET", SECRET), ("ALLOW", &origin)] {
        world.set(&format!("ACETATE__HTTP__WEBHOOK_{name}"), value);
    }
    let hook = format!("{origin}/batch");
    let witness = Witness::of(&world).await;
    let (input, output) = (world.input("a.png", [9, 80, 200, 255]), world.output("told"));
    std::fs::write(world.place.path("rows.jsonl"), format!("{}\n", json!({ "image": input }))).unwrap();
    let args = ["submit", "composite", "--from", "rows.jsonl", "--batch", "told", "--output", &output];
    let submitted = world.run(&[&args[..], &["--batch-webhook", &hook]].concat()).await;
    assert_eq!(submitted.code, Some(0), "{submitted:?}");
    world.sql(&format!("UPDATE jobs SET webhook = '{origin}/job'")).await;
    let id = world.json(&["jobs", "list", "--json"]).await["jobs"][0]["id"].as_str().unwrap().to_owned();
    let worker = world.worker();
    let mut tally = witness.judge(&world, std::slice::from_ref(&id)).await;
    drop(worker);
    assert_eq!(world.json(&["jobs", "prune", "--older-than", "0s", "--json"]).await["jobs"], 1);
    let server = world.start(&["serve"], &[]);
    server.http().await;
    let mut told: Vec<_> = tokio::task::block_in_place(|| {
        std::iter::from_fn(|| calls.recv_timeout(Duration::from_secs(20)).ok())
            .take(2)
            .map(|call| call.json())
            .collect()
    });
    told.sort_by_key(|call| call["event"].to_string());
    let heard: Vec<_> = told.iter().map(|call| (&call["event"], &call["succeeded"], &call["id"])).collect();
    let (none, batch, job) = (json!(null), json!("batch.ended"), json!("job.succeeded"));
    tally.lost += usize::from(heard != [(&batch, &json!(1), &none), (&job, &none, &json!(id))]);
    tally
}

async fn three_ways() -> Tally {
    let world = World::service().await;
    let witness = Witness::of(&world).await;
    let id = acetate::job::JobId::new().to_string();
    let (input, output) = (world.input("same.png", [1, 2, 3, 255]), world.output("same"));
    let body = json!({ "id": id, "kind": "composite", "input": {"image": input}, "output": {"prefix": output} });
    let mut message = body.clone();
    message["version"] = json!(1);
    let (_first, _second) = (world.worker(), world.worker());
    let (connection, channel) = world.service.as_ref().unwrap().vhost.foreign().await;
    let raw = async {
        let (options, text) = (BasicPublishOptions::default(), message.to_string());
        let properties = BasicProperties::default();
        channel
            .basic_publish("acetate.jobs".into(), "composite".into(), options, text.as_bytes(), properties)
            .await
            .unwrap();
    };
    let http = async {
        tokio::task::block_in_place(|| {
            let server = Server::of(world.command(&["serve"]));
            let answer = server.post("/v1/jobs", &body);
            assert!(matches!(answer.status, 200 | 202), "{}", answer.status);
        });
    };
    let args = ["composite", "--input", &input, "--output", &output, "--id", &id];
    let ((), by_command, ()) = tokio::join!(raw, world.submit(&args), http);
    assert_eq!(by_command, id);
    let tally = witness.judge(&world, std::slice::from_ref(&id)).await;
    assert_eq!((tally.succeeded, tally.attempts), (1, 1), "{tally:?}");
    world.service.as_ref().unwrap().vhost.until_left("acetate.composite", 0).await;
    world.service.as_ref().unwrap().vhost.until_left("acetate.dead-letters", 0).await;
    connection.close(0, "".into()).await.unwrap();
    tally
}
