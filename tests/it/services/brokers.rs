//! RabbitMQ of other versions than this machine's: the tests of the queue on the newest, and what differs by version.

use std::{
    env,
    future::ready,
    process::Command,
    time::{Duration, Instant},
};

use acetate::{
    job::JobKind,
    queue::{Dispatch, Queue},
};
use serde_json::json;

use crate::{
    common,
    services::{
        broker::{Node, other_programs},
        rabbit::{Broker, Vhost, consume, dispatch, next},
    },
};

fn newest(what: &str) -> Option<Broker> {
    let broker = Broker::newest();
    if broker.is_none() {
        common::skipped(what, "scripts/services could not start the newest RabbitMQ");
    }
    broker
}

/// This program again, with the newest broker in the place of this machine's.
#[test]
fn the_newest_broker_passes_the_tests_of_the_queue() {
    let Some(broker) = newest("the queue on the newest RabbitMQ") else { return };
    let run = Command::new(env::current_exe().unwrap())
        .args(["services::queue::", "services::queue_faults::", "--test-threads=2"])
        .env("ACETATE_TEST_AMQP_URL", &broker.amqp)
        .env("ACETATE_TEST_RABBITMQ_API", &broker.api)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && said.contains(" passed") && !said.contains(" 0 passed"), "{said}");
}

/// Before 4.3 the broker closes the channel; since then the queue cancels the consumer.
#[tokio::test]
async fn a_consumer_timeout_renews_the_consumer_and_says_so() {
    let mut brokers: Vec<_> = newest("consumer timeouts of the newest RabbitMQ").into_iter().collect();
    let programs = other_programs();
    let older = programs.first().filter(|_| programs.len() > 1).cloned();
    let node = older
        .map(|program| Node::of(program, "{channel_tick_interval, 500}", "rabbitmq_management", |_| String::new()));
    brokers.extend(node.as_ref().map(Node::broker));
    for broker in brokers {
        let vhost = Vhost::on(&broker);
        vhost.policy("^acetate\\.edit$", json!({ "consumer-timeout": 1500 }));
        let queue = vhost.ready().await;
        let consumer = consume(&queue, &[JobKind::Edit], 2);
        let [long, waiting] = [JobKind::Edit; 2].map(dispatch);
        for sent in [&long, &waiting] {
            queue.publish_dispatch(sent).await.unwrap();
        }
        let begun = next(&consumer).await;
        assert_eq!(begun.job(), Some(long.id));
        let said = || queue.health().last_error.filter(|error| error.contains("consumer timeout"));
        common::until(|| ready(said().ok_or("no consumer timeout"))).await;
        let error = said().unwrap();
        for words in ["acetate.edit", "The job goes on", "queue.consumer_timeout_seconds", "policy"] {
            assert!(error.contains(words), "{words} is not in {error}");
        }

        // Both come again, to the same worker, while the first is still at work; its end is not heard any more.
        let mut again = [next(&consumer).await, next(&consumer).await];
        again.sort_by_key(|delivery| delivery.job() != Some(long.id));
        assert_eq!(again.each_ref().map(|delivery| delivery.job()), [Some(long.id), Some(waiting.id)]);
        begun.ack().await;
        for delivery in again {
            delivery.ack().await;
        }
        // And it goes on from there.
        let last = dispatch(JobKind::Edit);
        queue.publish_dispatch(&last).await.unwrap();
        let delivery = next(&consumer).await;
        assert_eq!(delivery.job(), Some(last.id));
        delivery.ack().await;
        vhost.until_left("acetate.edit", 0).await;
        consumer.close().await;
        vhost.until_left("acetate.edit", 0).await;
    }
}

/// What docs/messages.md says of each version.
#[tokio::test]
async fn priorities_are_as_documented() {
    let Some(broker) = newest("priorities of the newest RabbitMQ") else { return };
    let vhost = Vhost::on(&broker);
    let strict = vhost.version() >= (4, 3);
    let queue = vhost.ready().await;
    let priorities = [0, 3, 4, 5, 9];
    let jobs: Vec<_> = (0..60)
        .map(|index| Dispatch { priority: priorities[index % priorities.len()], ..dispatch(JobKind::Composite) })
        .collect();
    queue.publish_many(jobs.clone()).await;
    vhost.until_left("acetate.composite", 60).await;
    let order = drained(&queue, &jobs).await;
    if strict {
        assert!(order.is_sorted_by(|one, next| one >= next), "every level waits for those above it: {order:?}");
    } else {
        let among_first = order[..24].iter().filter(|priority| **priority >= 5).count();
        assert!((14..=20).contains(&among_first), "two urgent ones for each other: {order:?}");
    }
}

/// The priorities in the order of delivery.
async fn drained(queue: &Queue, jobs: &[Dispatch]) -> Vec<u8> {
    let consumer = consume(queue, &[JobKind::Composite], 1);
    let mut order = Vec::new();
    let start = Instant::now();
    while order.len() < jobs.len() {
        assert!(start.elapsed() < Duration::from_secs(60), "{order:?}");
        let delivery = next(&consumer).await;
        order.push(jobs.iter().find(|job| Some(job.id) == delivery.job()).unwrap().priority);
        delivery.ack().await;
    }
    consumer.close().await;
    order
}
