//! Postgres: unreachable before the claim, unreachable during a job, and a commit whose reply is lost.

use std::{future::ready, time::Duration};

use super::{
    gate::Gate,
    killed::{composite, decompose},
    ledger::{Case, Tally, Witness, case},
};
use crate::{
    common::until,
    services::{
        database::{
            servers::{POOLERS, Pooler, free_port, tool},
            support::admin,
        },
        world::World,
    },
};

pub fn cases() -> Vec<Case> {
    vec![
        case("Postgres is away before the claim", before_the_claim()),
        case("Postgres is away mid-job, for longer than the lease", mid_job()),
        case("Postgres commits a job's end, and the reply is lost", lost_reply()),
        case("Postgres ends all sessions again and again", sessions_ended()),
        case("PgBouncer in transaction mode, restarted mid-job", pooler_restarted()),
    ]
}

/// A world, and the environment variable that makes only its worker connect to Postgres through the gate.
async fn gated() -> (World, Gate, String) {
    let world = World::service().await;
    let url = &world.service.as_ref().unwrap().schema.url;
    let (before, rest) = url.rsplit_once('@').unwrap();
    let (host, database) = rest.split_once('/').unwrap();
    let gate = Gate::before(host).await;
    // Without TLS, so that the gate can read the connection.
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
    let ended = "SELECT count(*) FROM jobs WHERE state = 'running' AND lease_until < acetate_now()";
    until(async || if world.count(ended).await == 1 { Ok(()) } else { Err("its lease has not ended") }).await;
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

async fn sessions_ended() -> Tally {
    let world = World::service().await;
    let witness = Witness::of(&world).await;
    let url = world.service.as_ref().unwrap().schema.url.clone();
    let name = format!("ended-{}", acetate::job::JobId::new());
    let own = format!("{url}&application_name={name}");
    let workers = [(); 2].map(|()| world.worker_with(&[("ACETATE__STATUS__URL", own.as_str())]));
    let mut ids = Vec::new();
    for number in 0..4 {
        ids.push(decompose(&world, &format!("{number}")).await);
        let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{name}'");
        admin(&url, &end).await;
    }
    let tally = witness.judge(&world, &ids).await;
    assert_eq!((tally.succeeded, tally.attempts <= 8), (4, true), "{tally:?}");
    drop(workers);
    tally
}

async fn pooler_restarted() -> Tally {
    let Some(program) = POOLERS.into_iter().find_map(tool) else { return Tally::default() };
    let world = World::service().await;
    let witness = Witness::of(&world).await;
    let (direct, port) = (world.service.as_ref().unwrap().schema.url.clone(), free_port());
    let start = |port| Pooler::at(port, &program, "transaction", "default_pool_size = 2");
    let pooler = start(port);
    let worker = world.worker_with(&[("ACETATE__STATUS__URL", &pooler.url(&direct))]);
    worker.until_said("ready for jobs").await;
    let first = decompose(&world, "first").await;
    world.once(&first, |row| row.attempts > 0).await;
    drop(pooler);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let _pooler = start(port);
    let next = composite(&world, "next").await;
    let tally = witness.judge(&world, &[first, next]).await;
    assert_eq!((tally.succeeded, tally.attempts <= 4), (2, true), "{tally:?}");
    tally
}
