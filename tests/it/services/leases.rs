//! Workers whose claim is no longer what the database says, because it went back in time.

use std::time::Duration;

use crate::services::world::World;

/// A decompose job of three steps.
async fn decompose(world: &World) -> String {
    let (input, output) = (world.input("a.png", [9, 80, 200, 255]), world.output("layers"));
    let args = ["decompose", "--input", &input, "--output", &output, "--resolution", "128", "--prompt", "a boat"];
    world.submit(&[&args[..], &["--layers", "2", "--steps", "3"]].concat()).await
}

/// The row as it was before the claim, as on a replica that was behind when it took over.
async fn unclaimed(world: &World, id: &str) {
    world
        .sql(&format!(
            "DELETE FROM attempts WHERE job = '{id}';
             UPDATE jobs SET state = 'queued', epoch = 0, claim = NULL, attempts = 0, worker = NULL, lease_until = NULL,
                    started_at = NULL WHERE id = '{id}';
             INSERT INTO outbox (job, topic, kind, priority, tenant, batch, available_at, created_at)
             SELECT id, 'dispatch', kind, priority, '', '', acetate_now(), acetate_now() FROM jobs WHERE id = '{id}'"
        ))
        .await;
}

/// The second claim has the number of the first one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_claim_was_lost_in_a_failover_does_not_end_the_job_of_another() {
    let world = World::service().await;
    let id = decompose(&world).await;
    let first = world.worker_with(&[("ACETATE__WORKER__FAILPOINT", "step:1=pause:5"), ("ACETATE__WORKER__SLOTS", "1")]);
    first.until_said("stands still").await;
    unclaimed(&world, &id).await;
    // Its heartbeats, two in this time, find that out while it computes; it says so only later.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let second = world.worker_with(&[("ACETATE__WORKER__FAILPOINT", "step:1=pause:8")]);
    second.until_said("stands still").await;
    first.until_said("the lease was lost; another worker has the job").await;
    assert_eq!(world.show(&id).await["state"], "running");
    let job = world.until(&id, &["succeeded", "failed", "cancelled"]).await;
    assert_eq!((&job["state"], &job["epoch"]), (&"succeeded".into(), &1.into()), "{job:#}\n{}", first.log());
    assert!(!first.log().contains("cancelled"), "{}", first.log());
    world.check_result(&id).await;
}

/// Its heartbeats cannot tell, because the other worker has the same epoch; the same epoch is not the same claim.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_wakes_beside_another_at_the_same_epoch_writes_nothing() {
    let world = World::service().await;
    let id = decompose(&world).await;
    let first = world.worker_with(&[("ACETATE__WORKER__FAILPOINT", "step:1=pause:1")]);
    first.until_said("stands still").await;
    first.signal("-STOP");
    unclaimed(&world, &id).await;
    let second = world.worker_with(&[("ACETATE__WORKER__FAILPOINT", "step:1=pause:6")]);
    second.until_said("stands still").await;
    let claimed = world.show(&id).await;
    assert_eq!((&claimed["state"], &claimed["epoch"]), (&"running".into(), &1.into()), "{claimed:#}");
    first.signal("-CONT");
    first.until_said("the lease was lost; another worker has the job").await;
    let files = world.path(&format!("{}{id}", world.output("layers")));
    assert!(!files.exists(), "it has written files: {}", first.log());
    let job = world.until(&id, &["succeeded", "failed", "cancelled"]).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    second.until_said("succeeded").await;
    world.check_result(&id).await;
}

/// The worker that made the result had a wrong clock, which is all that its manifest's `created_at` says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whether_a_result_is_of_this_job_does_not_depend_on_the_workers_clock() {
    let world = World::service().await;
    let worker = world.worker();
    let (input, output) = (world.input("a.png", [9, 80, 200, 255]), world.output("composites"));
    let id = acetate::job::JobId::new().to_string();
    let args = ["composite", "--input", &input, "--output", &output, "--id", &id];
    world.submit(&args).await;
    let job = world.until(&id, &["succeeded", "failed"]).await;
    let manifest = world.path(job["manifest"].as_str().unwrap());
    let made_in = |year: &str| {
        let mut content: serde_json::Value = serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
        assert_eq!(content["submitted_at"], job["created_at"], "{content:#}");
        content["created_at"] = format!("{year}-11-30T10:00:00Z").into();
        std::fs::write(&manifest, content.to_string()).unwrap();
        // The checksums that the test's store keeps.
        for entry in std::fs::read_dir(world.path("s3://")).unwrap() {
            let path = entry.unwrap().path();
            if path.to_string_lossy().ends_with(".internal.json") {
                std::fs::remove_file(path).unwrap();
            }
        }
    };

    // The row is as it was before the end, as in a restored database: it is this job's result.
    made_in("2001");
    world
        .sql(&format!(
            "UPDATE jobs SET state = 'running', worker = 'gone', lease_until = 1000, quiet_until = 1000,
                    manifest = NULL, outputs = NULL, result_root = NULL, finished_at = NULL WHERE id = '{id}'"
        ))
        .await;
    world.until(&id, &["succeeded", "failed"]).await;
    worker.until_said("not run again").await;
    assert_eq!(world.show(&id).await["epoch"], 1);

    // The job is deleted and submitted again: it is not.
    made_in("2101");
    let pruned = world.run(&["jobs", "prune", "--older-than", "0s", "--keep-files"]).await;
    assert_eq!(pruned.code, Some(0), "{pruned:?}");
    world.submit(&args).await;
    let again = world.until(&id, &["succeeded", "failed"]).await;
    assert_eq!(worker.log().matches("not run again").count(), 1, "{}", worker.log());
    assert_eq!(again["epoch"], 3, "{again:#}");
    world.check_result(&id).await;
}
