//! Workers that die, stand still, or take a job that kills them.

use super::ledger::{Case, Tally, Witness, case};
use crate::services::world::World;

/// Where a worker is killed, and how many denoise steps its job has.
const POINTS: [&str; 12] = [
    "received",
    "claimed",
    "fetched",
    "step:1",
    "step:2",
    "step:3",
    "put:1",
    "put:2",
    "put:3",
    "put:4",
    "manifest",
    "committed",
];

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> =
        POINTS.iter().map(|point| case(format!("kill -9 at {point}"), killed_at(point))).collect();
    cases.push(case("stopped past its lease, and woken", stopped_and_woken()));
    cases.push(case("a picture that kills its worker, and its neighbors", poison()));
    cases.push(case("two workers, the same message twice", twice()));
    cases
}

/// A decompose job of three steps: four pictures.
pub async fn decompose(world: &World, name: &str) -> String {
    let (input, output) = (world.input(&format!("{name}.png"), [9, 80, 200, 255]), world.output(name));
    let args = ["decompose", "--input", &input, "--output", &output, "--resolution", "128", "--prompt", "a boat"];
    world.submit(&[&args[..], &["--layers", "3", "--steps", "3"]].concat()).await
}

pub async fn composite(world: &World, name: &str) -> String {
    let (input, output) = (world.input(&format!("{name}.png"), [9, 80, 200, 255]), world.output(name));
    world.submit(&["composite", "--input", &input, "--output", &output]).await
}

async fn killed_at(point: &'static str) -> Tally {
    let world = World::service().await;
    let witness = Witness::of(&world).await;
    let id = decompose(&world, "killed").await;
    let mut worker = world.worker_with(&[("ACETATE__WORKER__FAILPOINT", &format!("{point}=pause:600"))]);
    worker.until_said("stands still").await;
    worker.signal("-KILL");
    worker.ended().await;
    let _next = world.worker();
    let tally = witness.judge(&world, &[id]).await;
    assert_eq!((tally.succeeded, tally.attempts <= 2), (1, true), "{tally:?}");
    tally
}

async fn stopped_and_woken() -> Tally {
    let world = World::service().await;
    let witness = Witness::of(&world).await;
    let id = decompose(&world, "stopped").await;
    let first = world.worker_with(&[("ACETATE__WORKER__FAILPOINT", "step:2=pause:1")]);
    first.until_said("stands still").await;
    first.signal("-STOP");
    let _second = world.worker();
    let job = world.until(&id, &["succeeded", "failed"]).await;
    assert_eq!((&job["state"], &job["epoch"]), (&"succeeded".into(), &2.into()), "{job:#}");
    first.signal("-CONT");
    first.until_said("the lease was lost").await;
    witness.judge(&world, &[id]).await
}

/// The job aborts every worker that reads its picture. It is given up after five attempts, and those beside it are done.
async fn poison() -> Tally {
    let world = World::service().await;
    let witness = Witness::of(&world).await;
    let poison = composite(&world, "poison").await;
    let mut ids = vec![poison.clone()];
    for neighbor in ["one", "two", "three", "four"] {
        ids.push(composite(&world, neighbor).await);
    }
    let failpoint = format!("fetched@{poison}=abort");
    for _ in 0..5 {
        let mut worker = world.worker_with(&[("ACETATE__WORKER__FAILPOINT", &failpoint)]);
        assert_eq!(worker.ended().await, None, "it was not aborted: {}", worker.log());
    }
    let mut last = world.worker_with(&[("ACETATE__WORKER__FAILPOINT", &failpoint)]);
    let job = world.until(&poison, &["failed"]).await;
    assert!(last.is_running(), "five deaths are enough: {}", last.log());
    assert_eq!(job["error"]["code"], "attempts_exhausted", "{job:#}");
    let tally = witness.judge(&world, &ids).await;
    assert_eq!((tally.succeeded, tally.failed), (4, 1), "{tally:?}");
    tally
}

async fn twice() -> Tally {
    let world = World::service().await;
    let witness = Witness::of(&world).await;
    let (one, two) = (world.worker(), world.worker());
    one.until_said("ready for jobs").await;
    two.until_said("ready for jobs").await;
    let id = acetate::job::JobId::new().to_string();
    let input = world.input("twice.png", [9, 80, 200, 255]);
    let message = serde_json::json!({
        "version": 1, "id": id, "kind": "decompose", "input": {"image": input},
        "output": {"prefix": world.output("twice")},
        "params": {"prompt": "a boat", "resolution": 128, "layers": 3, "steps": 3},
    });
    let (connection, channel) = world.service.as_ref().unwrap().vhost.foreign().await;
    for _ in 0..2 {
        let body = message.to_string();
        let (options, properties) = Default::default();
        channel
            .basic_publish("acetate.jobs".into(), "decompose".into(), options, body.as_bytes(), properties)
            .await
            .unwrap();
    }
    connection.close(0, "".into()).await.unwrap();
    let tally = witness.judge(&world, &[id]).await;
    assert_eq!((tally.succeeded, tally.attempts), (1, 1), "{tally:?}");
    tally
}
