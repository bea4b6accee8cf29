//! Deletions of jobs that are retried, or submitted again, before the deletion is over.

use std::{process::Output, sync::Arc, time::Duration};

use acetate::{
    database::{EndedJob, JobRow},
    job::{Epoch, JobId},
    store::{S3Settings, Stores, Trust},
};
use serde_json::Value;
use tokio::sync::Notify;

use crate::{
    common::until,
    services::{
        proxy::{Fault, Proxy},
        s3_server::{settings, stores_with},
        world::{World, in_both_worlds},
    },
};

in_both_worlds! {
    a_retry_after_a_deletion_began_makes_its_own_result,
    a_deletion_leaves_the_files_of_a_result_that_was_taken,
    a_worker_that_clears_up_late_deletes_nothing_of_the_next_job,
}

const ONE_ATTEMPT: (&str, &str) = ("ACETATE__WORKER__MAX_ATTEMPTS", "1");

async fn composite(world: &World, more: &[&str]) -> String {
    let input = world.input("a.png", [1, 2, 3, 255]);
    let output = world.output("made");
    world.submit(&[&["composite", "--input", &input, "--output", &output], more].concat()).await
}

/// A job that has failed although its result is in the store: its worker died before it could say so.
async fn failed_with_a_result(world: &World) -> String {
    let id = composite(world, &[]).await;
    let mut first = world.worker_with(&[("ACETATE__WORKER__FAILPOINT", "manifest=abort"), ONE_ATTEMPT]);
    first.ended().await;
    let mut second = world.worker_with(&[ONE_ATTEMPT]);
    world.until(&id, &["failed"]).await;
    second.signal("-TERM");
    second.ended().await;
    id
}

async fn row(world: &World, id: &str) -> JobRow {
    world.rows().await.get(id.parse().unwrap()).await.unwrap().unwrap()
}

fn stores(world: &World) -> Stores {
    match &world.service {
        Some(service) => stores_with(settings(&service.s3.endpoint()), "s3://results/own", &[], Trust::Local),
        None => {
            let own = format!("file://{}", world.place.text("results/own"));
            stores_with(S3Settings::default(), &own, &[], Trust::Local)
        }
    }
}

async fn succeeds(world: &World, id: &str) -> Value {
    let job = world.until(id, &["succeeded", "failed"]).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    job
}

async fn a_retry_after_a_deletion_began_makes_its_own_result(world: World) {
    let id = failed_with_a_result(&world).await;
    let (job_store, read) = (world.rows().await, row(&world, &id).await);
    let ended = EndedJob::from(&read);
    assert_eq!(job_store.retire_results(&[ended]).await.unwrap(), [read.id()]);
    assert!(world.run(&["jobs", "retry", &id]).await.code == Some(0));
    let _worker = world.worker();
    let job = succeeds(&world, &id).await;
    assert_eq!(job["epoch"], 2, "the first result is being deleted: {job:#}");
    let deletion = stores(&world).delete_results(&[read.objects()]).await;
    assert!(deletion.failed.is_empty(), "{deletion:?}");
    let forgotten = job_store.forget(&[ended]).await.unwrap();
    assert_eq!((forgotten.deleted, forgotten.left), (0, 1));
    world.check_result(&id).await;
}

async fn a_deletion_leaves_the_files_of_a_result_that_was_taken(world: World) {
    let id = failed_with_a_result(&world).await;
    let (job_store, read) = (world.rows().await, row(&world, &id).await);
    assert!(world.run(&["jobs", "retry", &id]).await.code == Some(0));
    let _worker = world.worker();
    let job = succeeds(&world, &id).await;
    assert_eq!(job["epoch"], 1, "it was in the store: {job:#}");
    // The epoch is what it was.
    let ended = EndedJob::from(&read);
    assert_eq!(job_store.retire_results(&[ended]).await.unwrap(), []);
    let forgotten = job_store.forget(&[ended]).await.unwrap();
    assert_eq!((forgotten.deleted, forgotten.left), (0, 1));
    assert_eq!(row(&world, &id).await.retired, Epoch(0));
    world.check_result(&id).await;
}

/// It stands still between the end of its job and the deletion of what the first attempt left.
async fn a_worker_that_clears_up_late_deletes_nothing_of_the_next_job(world: World) {
    let id = JobId::new().to_string();
    composite(&world, &["--id", &id]).await;
    let mut first = world.worker_with(&[("ACETATE__WORKER__FAILPOINT", "claimed=abort")]);
    first.ended().await;
    let mut late = world.worker_with(&[("ACETATE__WORKER__FAILPOINT", "committed=pause:6")]);
    let job = succeeds(&world, &id).await;
    assert_eq!(job["epoch"], 2, "{job:#}");
    assert_eq!(world.run(&["jobs", "delete", &id]).await.code, Some(0));
    composite(&world, &["--id", &id]).await;
    let _next = world.worker();
    let job = succeeds(&world, &id).await;
    assert_eq!(job["epoch"], 3, "{job:#}");
    assert!(late.log().contains("stands still"), "{}", late.log());
    late.signal("-TERM");
    late.ended().await;
    world.check_result(&id).await;
}

/// The whole command: while it looks for the files of a job, that job is retried.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_job_that_is_retried_during_a_prune_keeps_its_result() {
    let world = World::service().await;
    let id = failed_with_a_result(&world).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let proxy = Proxy::before(world.service.as_ref().unwrap().s3.address).await;
    let go_on = Arc::new(Notify::new());
    proxy.next("GET", Fault::Hold(go_on.clone()));
    let mut prune = world.command(&["jobs", "prune", "--older-than", "1s", "--json"]);
    prune.env("ACETATE__STORE__ENDPOINT", proxy.endpoint());
    let pruning = tokio::task::spawn_blocking(move || prune.output().unwrap());
    until(async || if proxy.is_spent() { Ok(()) } else { Err("nothing is looked for") }).await;
    assert_eq!(world.run(&["jobs", "retry", &id]).await.code, Some(0));
    let _worker = world.worker();
    succeeds(&world, &id).await;
    go_on.notify_one();
    let Output { stdout, stderr, .. } = pruning.await.unwrap();
    let report: Value = serde_json::from_slice(&stdout).unwrap_or_else(|error| panic!("{error}: {stderr:?}"));
    assert_eq!((&report["jobs"], &report["changed"]), (&Value::from(0), &Value::from(1)), "{report:#}");
    world.check_result(&id).await;
}
