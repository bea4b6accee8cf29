//! The broker's own process: killed, stopped for a while, frozen, and set up with a consumer timeout that is too short.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use super::{
    killed::{composite, decompose},
    ledger::{Case, Tally, Witness, case},
};
use crate::{
    common,
    services::{broker::Node, rabbit::Broker, world::World},
};

/// One node for the cases that only stop it; they take turns.
type Shared = Arc<OnceCell<Option<Mutex<Node>>>>;

pub fn cases() -> Vec<Case> {
    let node = Shared::default();
    vec![
        case("the broker is killed with jobs queued and in hand, and comes back", killed(node.clone())),
        case("the broker is stopped for longer than a lease, and comes back", stopped(node.clone())),
        case("the broker freezes for longer than its heartbeats", frozen(node)),
        case("a consumer timeout shorter than the job", too_short()),
        case("a consumer timeout by policy on the newest broker", too_short_by_policy()),
    ]
}

/// Starts a node, not on the runtime's threads. None, with a message, if RabbitMQ is not installed.
async fn start(settings: &'static str) -> Option<Node> {
    let node = tokio::task::spawn_blocking(move || Node::start(settings)).await.unwrap();
    if node.is_none() {
        common::skipped("a broker that is restarted", "RabbitMQ's server is not installed on this machine");
    }
    node
}

async fn turn(shared: &Shared) -> Option<MutexGuard<'_, Node>> {
    let node = shared.get_or_init(async || start("").await.map(Mutex::new)).await;
    Some(node.as_ref()?.lock().await)
}

async fn killed(shared: Shared) -> Tally {
    let Some(mut node) = turn(&shared).await else { return Tally::default() };
    let world = World::service_on(node.broker()).await;
    let witness = Witness::of(&world).await.that_may_miss();
    let worker = world.worker_with(&[("ACETATE__WORKER__FAILPOINT", "step:1=pause:2")]);
    let mut ids = vec![decompose(&world, "in-hand").await];
    worker.until_said("stands still").await;
    for name in ["one", "two", "three", "four", "five"] {
        ids.push(composite(&world, name).await);
    }
    tokio::task::block_in_place(|| {
        node.kill();
        node.again();
    });
    let tally = witness.judge(&world, &ids).await;
    assert_eq!((tally.succeeded, tally.attempts), (6, 6), "nothing is begun anew: {tally:?}");
    tally
}

async fn stopped(shared: Shared) -> Tally {
    let Some(mut node) = turn(&shared).await else { return Tally::default() };
    let world = World::service_on(node.broker()).await;
    let witness = Witness::of(&world).await.that_may_miss();
    let worker = world.worker_with(&[("ACETATE__WORKER__FAILPOINT", "step:1=pause:2")]);
    let mut ids = vec![decompose(&world, "in-hand").await];
    worker.until_said("stands still").await;
    tokio::task::block_in_place(|| node.stop());
    // Running jobs are finished, and jobs submitted in the meantime are kept.
    let job = world.until(&ids[0], &["succeeded", "failed"]).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    ids.push(composite(&world, "meanwhile").await);
    tokio::task::block_in_place(|| node.again());
    let tally = witness.judge(&world, &ids).await;
    assert_eq!((tally.succeeded, tally.attempts), (2, 2), "{tally:?}");
    tally
}

async fn frozen(shared: Shared) -> Tally {
    let Some(node) = turn(&shared).await else { return Tally::default() };
    let world = World::service_on(node.broker()).await;
    let witness = Witness::of(&world).await.that_may_miss();
    let worker = world.worker_with(&[("ACETATE__WORKER__FAILPOINT", "step:1=pause:2")]);
    let mut ids = vec![decompose(&world, "in-hand").await, composite(&world, "queued").await];
    worker.until_said("stands still").await;
    node.freeze();
    ids.push(composite(&world, "meanwhile").await);
    // The workers' heartbeats are due every few seconds.
    tokio::time::sleep(Duration::from_secs(8)).await;
    node.thaw();
    let tally = witness.judge(&world, &ids).await;
    assert_eq!((tally.succeeded, tally.attempts), (3, 3), "{tally:?}");
    tally
}

/// Since 4.3 the queue cancels the consumer, as often as a delivery is not acknowledged in time.
async fn too_short_by_policy() -> Tally {
    let Some(broker) = Broker::newest() else {
        common::skipped("consumer timeouts of the newest RabbitMQ", "scripts/services could not start it");
        return Tally::default();
    };
    let world = World::service_on(broker).await;
    let witness = Witness::of(&world).await;
    let vhost = &world.service.as_ref().unwrap().vhost;
    tokio::task::block_in_place(|| vhost.policy("^acetate", json!({ "consumer-timeout": 1000 })));
    let worker = world.worker_with(&[("ACETATE__WORKER__FAILPOINT", "step:1=pause:6")]);
    let mut ids = vec![decompose(&world, "long").await];
    worker.until_said("stands still").await;
    let _second = world.worker();
    ids.push(composite(&world, "beside").await);
    let tally = witness.judge(&world, &ids).await;
    assert_eq!((tally.succeeded, tally.attempts), (2, 2), "the row says whose job it is: {tally:?}");
    if tokio::task::block_in_place(|| vhost.version()) >= (4, 3) {
        assert!(worker.log().contains("consumer timeout"), "nothing was taken back: {}", worker.log());
    }
    // And the consumer is there again.
    let next = composite(&world, "next").await;
    assert_eq!(world.until(&next, &["succeeded", "failed"]).await["state"], "succeeded");
    tally
}

/// The broker closes the channel and delivers the message to the other worker, which finds its row taken.
async fn too_short() -> Tally {
    let Some(node) = start("{consumer_timeout, 1500}, {channel_tick_interval, 500}").await else {
        return Tally::default();
    };
    let world = World::service_on(node.broker()).await;
    let witness = Witness::of(&world).await.that_may_miss();
    let worker = world.worker_with(&[("ACETATE__WORKER__FAILPOINT", "step:1=pause:6")]);
    let id = decompose(&world, "long").await;
    worker.until_said("stands still").await;
    let _second = world.worker();
    let tally = witness.judge(&world, &[id]).await;
    assert_eq!((tally.succeeded, tally.attempts), (1, 1), "the row says whose job it is: {tally:?}");
    // Since 3.12, the queues' own timeout applies, which acetate declares.
    let vhost = &world.service.as_ref().unwrap().vhost;
    if tokio::task::block_in_place(|| vhost.version()) < (3, 12) {
        assert!(worker.log().contains("timeout"), "the broker took nothing back: {}", worker.log());
    }
    tally
}
