//! Postgres: away before the claim, away mid-job, and a commit whose reply is lost.

use std::{future::ready, time::Duration};

use super::{
    gate::Gate,
    killed::{composite, decompose},
    ledger::{Case, Tally, Witness, case},
};
use crate::{common::until, services::world::World};

pub fn cases() -> Vec<Case> {
    vec![
        case("Postgres is away before the claim", before_the_claim()),
        case("Postgres is away mid-job, for longer than the lease", mid_job()),
        case("Postgres commits a job's end, and the reply is lost", lost_reply()),
    ]
}

/// A world, and the addition to its worker's environment by which only that one reaches Postgres through the gate.
async fn gated() -> (World, Gate, String) {
    let world = World::service().await;
    let url = &world.service.as_ref().unwrap().schema.url;
    let (before, rest) = url.rsplit_once('@').unwrap();
    let (host, database) = rest.split_once('/').unwrap();
    let gate = Gate::before(host).await;
    // What is said must be heard here.
    let url = format!("{before}@{}/{database}&sslmode=disable", gate.address);
    (world, gate, url)
}

async fn before_the_claim() -> Tally {
    let (world, gate, url) = gated().await;
    let witness = Witness::of(&world).await;
    let worker = world.worker_with(&[("ACETATE__STATUS__URL", &url)]);
    worker.until_said("ready for jobs").await;
    gate.shut();
    let ids = [composite(&world, "one").await, composite(&world, "two").await];
    worker.until_said("retrying").await;
    gate.open();
    let tally = witness.judge(&world, &ids).await;
    assert_eq!((tally.succeeded, tally.attempts), (2, 2), "{tally:?}");
    tally
}

async fn mid_job() -> Tally {
    let (world, gate, url) = gated().await;
    let witness = Witness::of(&world).await;
    let environment = [("ACETATE__STATUS__URL", url.as_str()), ("ACETATE__WORKER__FAILPOINT", "step:1=pause:1")];
    let worker = world.worker_with(&environment);
    let id = decompose(&world, "away").await;
    worker.until_said("stands still").await;
    gate.shut();
    // Longer than the lease of two seconds.
    tokio::time::sleep(Duration::from_secs(4)).await;
    gate.open();
    let tally = witness.judge(&world, &[id]).await;
    assert_eq!((tally.succeeded, tally.attempts <= 2), (1, true), "{tally:?}");
    tally
}

async fn lost_reply() -> Tally {
    let (world, gate, url) = gated().await;
    let witness = Witness::of(&world).await;
    let worker = world.worker_with(&[("ACETATE__STATUS__URL", url.as_str())]);
    worker.until_said("ready for jobs").await;
    gate.lose_reply_to(b"job.succeeded");
    let id = composite(&world, "lost").await;
    let heard = || ready(if gate.has_lost_it() { Ok(()) } else { Err("the end of the job was not heard") });
    until(heard).await;
    let next = composite(&world, "next").await;
    let tally = witness.judge(&world, &[id, next]).await;
    assert_eq!((tally.succeeded, tally.attempts), (2, 2), "{tally:?}");
    assert!(!worker.log().contains("the lease was lost"), "{}", worker.log());
    tally
}
