//! RabbitMQ is unreachable, cut off, or takes its messages back.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    gate::Gate,
    killed::{composite, decompose},
    ledger::{Case, Tally, Witness, case},
};
use crate::{
    common,
    services::{rabbit::Broker, world::World},
};

pub fn cases() -> Vec<Case> {
    vec![
        case("the connection to the broker is cut mid-job", cut_mid_job()),
        case("the broker is away for longer than a lease, mid-job", away_mid_job()),
        case("the broker is away while jobs are submitted", away_while_submitting()),
        case("the broker takes its messages back mid-job", taken_back()),
        case("the same, and the workers are in PID namespaces of their own", taken_back_between_namespaces()),
        case("a policy lets every message expire", expired(Some(Broker::shared()))),
        case("a policy lets every message expire, on the newest broker", expired(Broker::newest())),
        case("the queues are purged while jobs are queued", purged()),
        case("a policy limits the length of a queue", full(Some(Broker::shared()))),
        case("a policy limits the length of a queue, on the newest broker", full(Broker::newest())),
        case("a policy drops the oldest messages", dropped(Some(Broker::shared()))),
        case("a policy drops the oldest messages, on the newest broker", dropped(Broker::newest())),
        case("a policy limits deliveries, and workers die at each", delivery_limit(Some(Broker::shared()))),
        case("a policy limits deliveries on the newest broker", delivery_limit(Broker::newest())),
    ]
}

/// A world whose worker and commands reach RabbitMQ through a gate.
async fn gated() -> (World, Gate) {
    let mut world = World::service().await;
    let url = world.service.as_ref().unwrap().vhost.url();
    let (before, rest) = url.rsplit_once('@').unwrap();
    let (host, vhost) = rest.split_once('/').unwrap();
    let gate = Gate::before(host).await;
    let url = format!("{before}@{}/{vhost}", gate.address);
    world.set("ACETATE__QUEUE__URL", &url);
    (world, gate)
}

async fn cut_mid_job() -> Tally {
    let (world, gate) = gated().await;
    let witness = Witness::of(&world).await;
    let worker = world.worker_with(&[("ACETATE__WORKER__FAILPOINT", "step:1=pause:2")]);
    let id = decompose(&world, "cut").await;
    worker.until_said("stands still").await;
    gate.cut();
    let tally = witness.judge(&world, &[id]).await;
    assert_eq!((tally.succeeded, tally.attempts), (1, 1), "a connection is no reason to begin anew: {tally:?}");
    tally
}

async fn away_mid_job() -> Tally {
    let (world, gate) = gated().await;
    let witness = Witness::of(&world).await;
    let worker = world.worker_with(&[("ACETATE__WORKER__FAILPOINT", "step:1=pause:2")]);
    let id = decompose(&world, "away").await;
    worker.until_said("stands still").await;
    gate.shut();
    let job = world.until(&id, &["succeeded", "failed"]).await;
    assert_eq!(job["state"], "succeeded", "what is in hand needs no broker: {job:#}");
    // Longer than the lease of two seconds.
    tokio::time::sleep(Duration::from_secs(3)).await;
    gate.open();
    // The worker reconnects to the broker by itself.
    let next = composite(&world, "next").await;
    let tally = witness.judge(&world, &[id, next]).await;
    assert_eq!((tally.succeeded, tally.attempts), (2, 2), "{tally:?}");
    tally
}

async fn away_while_submitting() -> Tally {
    let (world, gate) = gated().await;
    let witness = Witness::of(&world).await;
    let _worker = world.worker();
    gate.shut();
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        ids.push(composite(&world, name).await);
    }
    gate.open();
    let tally = witness.judge(&world, &ids).await;
    assert_eq!((tally.succeeded, tally.attempts), (2, 2), "{tally:?}");
    tally
}

/// The consumer timeout is shorter than a job: the broker closes the channel and delivers the message again, while the
/// first worker still works on it.
async fn taken_back() -> Tally {
    let (world, gate) = gated().await;
    let witness = Witness::of(&world).await;
    let worker = world.worker_with(&[("ACETATE__WORKER__FAILPOINT", "step:1=pause:4")]);
    let id = decompose(&world, "taken").await;
    worker.until_said("stands still").await;
    let _second = world.worker();
    for _ in 0..3 {
        gate.cut();
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    let tally = witness.judge(&world, &[id]).await;
    assert_eq!(
        (tally.succeeded, tally.attempts),
        (1, 1),
        "the lease, not the message, says whose job it is: {tally:?}"
    );
    tally
}

/// Two containers on the host's network have one host name, and neither sees the other's processes. Both workers have
/// the number 1 there.
async fn taken_back_between_namespaces() -> Tally {
    let what = "fault matrix, PID namespaces";
    let (world, gate) = gated().await;
    let witness = Witness::of(&world).await;
    let failpoint = [("ACETATE__WORKER__FAILPOINT", "step:1=pause:8")];
    let Some(worker) = world.worker_in_pid_namespace(&failpoint, what) else { return Tally::default() };
    let id = decompose(&world, "taken").await;
    worker.until_said("stands still").await;
    // Long enough that the second one could be told from the first by its start.
    tokio::time::sleep(Duration::from_millis(3500)).await;
    let Some(second) = world.worker_in_pid_namespace(&[], what) else { return Tally::default() };
    second.until_said("ready for jobs").await;
    for _ in 0..3 {
        gate.cut();
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    let tally = witness.judge(&world, &[id]).await;
    assert_eq!((tally.succeeded, tally.attempts), (1, 1), "its worker was alive: {tally:?}");
    assert!(!worker.log().contains("the lease was lost"), "{}", worker.log());
    tally
}

/// Long before jobs would be dispatched again because their messages may be lost, which takes ten minutes.
const SOON: Duration = Duration::from_secs(90);

async fn on(broker: Option<Broker>) -> Option<World> {
    if broker.is_none() {
        common::skipped("policies of the newest RabbitMQ", "scripts/services could not start it");
    }
    Some(World::service_on(broker?).await)
}

/// The messages are moved to the dead letters, and the rows are queued without one.
async fn expired(broker: Option<Broker>) -> Tally {
    let Some(world) = on(broker).await else { return Tally::default() };
    let witness = Witness::of(&world).await;
    let vhost = &world.service.as_ref().unwrap().vhost;
    tokio::task::block_in_place(|| vhost.policy("^acetate\\.(composite|decompose)$", json!({ "message-ttl": 1000 })));
    let mut ids = Vec::new();
    for name in ["one", "two", "three", "four", "five"] {
        ids.push(composite(&world, name).await);
    }
    vhost.until_left("acetate.dead-letters", 5).await;
    vhost.until_left("acetate.composite", 0).await;
    let start = Instant::now();
    let _worker = world.worker();
    let tally = witness.judge(&world, &ids).await;
    assert_eq!((tally.succeeded, tally.attempts), (5, 5), "{tally:?}");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    tally
}

async fn purged() -> Tally {
    let world = World::service().await;
    let witness = Witness::of(&world).await;
    let ids = vec![composite(&world, "one").await, composite(&world, "two").await];
    let vhost = &world.service.as_ref().unwrap().vhost;
    vhost.until_left("acetate.composite", 2).await;
    let path = format!("/queues/{}/acetate.composite/contents", vhost.name);
    tokio::task::block_in_place(|| vhost.delete(&path));
    vhost.until_left("acetate.composite", 0).await;
    let start = Instant::now();
    let _worker = world.worker();
    let tally = witness.judge(&world, &ids).await;
    assert_eq!((tally.succeeded, tally.attempts), (2, 2), "{tally:?}");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    tally
}

/// What the queue refuses waits in the database.
async fn full(broker: Option<Broker>) -> Tally {
    let Some(world) = on(broker).await else { return Tally::default() };
    let witness = Witness::of(&world).await;
    let vhost = &world.service.as_ref().unwrap().vhost;
    tokio::task::block_in_place(|| vhost.policy("^acetate\\.composite$", json!({ "max-length": 2 })));
    let mut ids = Vec::new();
    for name in ["one", "two", "three", "four", "five", "six", "seven", "eight"] {
        ids.push(composite(&world, name).await);
    }
    let start = Instant::now();
    let _worker = world.worker();
    let tally = witness.judge(&world, &ids).await;
    assert_eq!((tally.succeeded, tally.attempts), (8, 8), "{tally:?}");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    vhost.until_left("acetate.composite", 0).await;
    vhost.until_left("acetate.dead-letters", 0).await;
    tally
}

/// The rows of the messages that the queue has dropped are dispatched again.
async fn dropped(broker: Option<Broker>) -> Tally {
    let Some(world) = on(broker).await else { return Tally::default() };
    let witness = Witness::of(&world).await;
    let vhost = &world.service.as_ref().unwrap().vhost;
    let policy = json!({ "max-length": 2, "overflow": "drop-head" });
    tokio::task::block_in_place(|| vhost.policy("^acetate\\.composite$", policy));
    let mut ids = Vec::new();
    for name in ["one", "two", "three", "four", "five"] {
        ids.push(composite(&world, name).await);
    }
    vhost.until_left("acetate.composite", 2).await;
    let start = Instant::now();
    let _worker = world.worker();
    let tally = witness.judge(&world, &ids).await;
    assert_eq!((tally.succeeded, tally.attempts), (5, 5), "{tally:?}");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    tally
}

/// A message that its workers did not get to claim is moved to the dead letters after three deliveries.
async fn delivery_limit(broker: Option<Broker>) -> Tally {
    let Some(world) = on(broker).await else { return Tally::default() };
    let witness = Witness::of(&world).await;
    let vhost = &world.service.as_ref().unwrap().vhost;
    tokio::task::block_in_place(|| vhost.policy("^acetate\\.composite$", json!({ "delivery-limit": 3 })));
    let ids = vec![composite(&world, "poisoned").await];
    for _ in 0..4 {
        let mut worker = world.worker_with(&[("ACETATE__WORKER__FAILPOINT", "received=abort")]);
        worker.ended().await;
    }
    let start = Instant::now();
    let _worker = world.worker();
    let tally = witness.judge(&world, &ids).await;
    assert_eq!((tally.succeeded, tally.attempts), (1, 1), "no attempt was made before: {tally:?}");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    tally
}
