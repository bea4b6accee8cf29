//! Faults while only a window of the jobs is in the broker, while the queue is paused, and before a scheduled time.

use std::time::Duration;

use super::{
    killed::composite,
    ledger::{Case, Tally, Witness, case},
};
use crate::services::world::World;

pub fn cases() -> Vec<Case> {
    vec![
        case("a batch is paused, its worker is killed, and it is resumed", paused_and_killed()),
        case("the queue is purged and deleted while most jobs wait behind the window", lost_window()),
        case("the relay of a scheduled job is killed", scheduled_and_killed()),
    ]
}

async fn many(world: &World, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for number in 0..count {
        ids.push(composite(world, &format!("many-{number}")).await);
    }
    ids
}

async fn paused_and_killed() -> Tally {
    let mut world = World::service().await;
    world.set("ACETATE__QUEUE__WINDOW", "4");
    let witness = Witness::of(&world).await;
    let ids = many(&world, 12).await;
    // One slot, so that no other job goes on beside the one that stands still.
    let one_stands = [("ACETATE__WORKER__FAILPOINT", "fetched=pause:600"), ("ACETATE__WORKER__SLOTS", "1")];
    let mut worker = world.worker_with(&one_stands);
    worker.until_said("stands still").await;
    assert_eq!(world.run(&["queue", "pause"]).await.code, Some(0));
    worker.signal("-KILL");
    worker.ended().await;
    let next = world.worker();
    next.until_said("ready for jobs").await;
    // Longer than the lease of the dead worker.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(world.count("SELECT count(*) FROM jobs WHERE state = 'succeeded'").await, 0, "it is paused");
    assert_eq!(world.run(&["queue", "resume"]).await.code, Some(0));
    let tally = witness.judge(&world, &ids).await;
    assert_eq!((tally.succeeded, tally.attempts <= 12 + 1), (12, true), "a pause costs no attempt: {tally:?}");
    tally
}

async fn lost_window() -> Tally {
    let mut world = World::service().await;
    world.set("ACETATE__QUEUE__WINDOW", "3");
    let witness = Witness::of(&world).await;
    let ids = many(&world, 12).await;
    let vhost = &world.service.as_ref().unwrap().vhost;
    vhost.until_left("acetate.composite", 3).await;
    let queue = format!("/queues/{}/acetate.composite", vhost.name);
    tokio::task::block_in_place(|| vhost.delete(&format!("{queue}/contents")));
    let _worker = world.worker();
    // The window is full of lost messages, and yet something starts.
    world.once(&ids[0], |row| row.state.is_terminal()).await;
    tokio::task::block_in_place(|| vhost.delete(&queue));
    let tally = witness.judge(&world, &ids).await;
    assert_eq!((tally.succeeded, tally.attempts), (12, 12), "{tally:?}");
    tally
}

async fn scheduled_and_killed() -> Tally {
    let world = World::service().await;
    let witness = Witness::of(&world).await;
    let mut relay = world.worker();
    relay.until_said("ready for jobs").await;
    let (input, output) = (world.input("later.png", [9, 80, 200, 255]), world.output("later"));
    let id = world.submit(&["composite", "--input", &input, "--output", &output, "--at", "+4s"]).await;
    relay.signal("-KILL");
    relay.ended().await;
    let _next = world.worker();
    let tally = witness.judge(&world, std::slice::from_ref(&id)).await;
    let early = "SELECT count(*) FROM jobs WHERE started_at < created_at + 3500";
    assert_eq!(world.count(early).await, 0, "it started before its time");
    assert_eq!((tally.succeeded, tally.attempts), (1, 1), "{tally:?}");
    tally
}
