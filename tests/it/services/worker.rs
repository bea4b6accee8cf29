//! A worker process, embedded and as a service, without faults.

use std::time::{Duration, Instant};

use acetate::{
    database::{JobRow, SubmitOptions},
    job::{JobId, JobRequest, JobState, Progress, Stage},
};
use serde_json::{Value, json};

use crate::services::world::{World, in_both_worlds};

in_both_worlds! {
    a_composite_goes_all_the_way,
    a_picture_is_taken_apart_and_a_layer_is_edited,
    a_bad_picture_fails_at_once_and_says_why,
    what_is_not_allowed_is_not_read_or_written,
    a_cancelled_job_stops_within_a_step,
    a_worker_that_is_told_to_leave_gives_its_job_back,
    probes_and_numbers_are_answered,
}

const DECOMPOSE: [&str; 7] = ["--resolution", "128", "--prompt", "a boat", "--layers", "3", "--steps"];

async fn a_composite_goes_all_the_way(world: World) {
    let _worker = world.worker();
    let (back, front) = (world.input("back.png", [200, 0, 0, 255]), world.input("front.png", [0, 0, 200, 128]));
    let output = world.output("composites");
    let id = world.submit(&["composite", "--input", &back, "--input", &front, "--output", &output]).await;
    let job = world.until(&id, &["succeeded", "failed"]).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    world.check_result(&id).await;
    let manifest = job["manifest"].as_str().unwrap();
    assert!(manifest.starts_with(&format!("{output}{id}/1/")), "{manifest}");
    assert_eq!(job["outputs"][0]["name"], "composite.png");

    // The same id again is the same job, which does not run twice.
    let again = ["composite", "--input", &back, "--input", &front, "--output", &output, "--id", &id];
    assert_eq!(world.submit(&again).await, id);
    assert_eq!(world.show(&id).await["epoch"], 1);
    let other = world.run(&["submit", "composite", "--input", &back, "--output", &output, "--id", &id]).await;
    assert!(other.code == Some(2) && other.stderr.contains("is already a composite job"), "{other:?}");

    let fetched = world.run(&["jobs", "fetch", &id, "--out", "out"]).await;
    assert_eq!(fetched.code, Some(0), "{fetched:?}");
    let picture = image::open(world.place.path("out/composite.png")).unwrap().into_rgba8();
    assert_eq!(picture.get_pixel(0, 0).0, [100, 0, 100, 255]);
}

async fn a_picture_is_taken_apart_and_a_layer_is_edited(world: World) {
    let _worker = world.worker();
    let (input, output) = (world.input("boat.png", [9, 80, 200, 255]), world.output("layers"));
    let args = [&["decompose", "--input", &input, "--output", &output], &DECOMPOSE[..], &["2"]].concat();
    let id = world.submit(&args).await;
    let waited = world.run(&["jobs", "watch", &id]).await;
    assert!(waited.code == Some(0) && waited.stdout.contains("layer-03.png"), "{waited:?}");
    world.check_result(&id).await;

    let layer = format!("job:{id}:2");
    let edit =
        ["submit", "edit", "--input", &layer, "--instruction", "Make it red", "--steps", "2", "--output", &output];
    let edited = world.run(&[&edit[..], &["--wait", "--json"]].concat()).await;
    assert_eq!(edited.code, Some(0), "{edited:?}");
    let edited: Value = serde_json::from_str(&edited.stdout).unwrap();
    assert_eq!(edited["outputs"][0]["name"], "edited.png");
    world.check_result(edited["id"].as_str().unwrap()).await;
}

async fn a_bad_picture_fails_at_once_and_says_why(world: World) {
    let _worker = world.worker();
    let output = world.output("bad");
    let broken = world.bytes("broken.png", b"\x89PNG\r\n\x1a\nand nothing more");
    let missing = broken.replace("broken.png", "missing.png");
    for (input, code) in [(broken, "invalid_image"), (missing, "input_not_found")] {
        let id = world.submit(&["composite", "--input", &input, "--output", &output]).await;
        let job = world.until(&id, &["failed", "succeeded"]).await;
        assert_eq!((&job["error"]["code"], &job["attempts"]), (&json!(code), &json!(1)), "{job:#}");
        world.check_result(&id).await;
        let retried = world.run(&["jobs", "retry", &id]).await;
        assert_eq!(retried.code, Some(0), "{retried:?}");
        assert_eq!(world.until(&id, &["failed", "succeeded"]).await["error"]["code"], code);
        let watched = world.run(&["jobs", "watch", &id]).await;
        assert!(watched.code == Some(1) && watched.stderr.contains(code), "{watched:?}");
    }
}

async fn what_is_not_allowed_is_not_read_or_written(world: World) {
    let _worker = world.worker();
    let (input, output) = (world.input("a.png", [1, 2, 3, 255]), world.output("x"));
    let elsewhere = if world.service.is_some() { "s3://secrets/a.png" } else { "file:///etc/passwd" };
    let outside = if world.service.is_some() { "s3://pictures/x/" } else { "file:///tmp/acetate-outside/" };
    let rows = world.rows().await;
    for (input, output, setting) in [(elsewhere, output.as_str(), "store.inputs"), (&input, outside, "store.outputs")] {
        // As another client submits it: `acetate submit` would refuse it, or answer for its user.
        let id = JobId::new();
        let message = json!({
            "version": 1, "id": id, "kind": "composite", "input": {"image": input}, "output": {"prefix": output},
        });
        let request = JobRequest::from_json(message.to_string().as_bytes()).unwrap();
        rows.submit(&request, &SubmitOptions::default()).await.unwrap();
        let job = world.until(&id.to_string(), &["failed", "succeeded"]).await;
        assert_eq!(job["error"]["code"], "input_forbidden", "{job:#}");
        assert!(job["error"]["message"].as_str().unwrap().contains(setting), "{job:#}");
    }
}

async fn a_cancelled_job_stops_within_a_step(world: World) {
    let _worker = world.worker();
    let (input, output) = (world.input("boat.png", [9, 80, 200, 255]), world.output("cancelled"));
    let args = [&["decompose", "--input", &input, "--output", &output], &DECOMPOSE[..], &["1000"]].concat();
    let id = world.submit(&args).await;
    until_denoising(&world, &id).await;
    let start = Instant::now();
    let asked = world.run(&["jobs", "cancel", &id]).await;
    assert!(asked.stdout.contains("asked to stop"), "{asked:?}");
    let job = world.until(&id, &["cancelled", "succeeded", "failed"]).await;
    assert_eq!((&job["state"], &job["manifest"]), (&json!("cancelled"), &Value::Null), "{job:#}");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

async fn a_worker_that_is_told_to_leave_gives_its_job_back(world: World) {
    let mut worker = world.worker_with(&[("ACETATE__WORKER__DRAIN_SECONDS", "0.2")]);
    let (input, output) = (world.input("boat.png", [9, 80, 200, 255]), world.output("left"));
    let args = [&["decompose", "--input", &input, "--output", &output], &DECOMPOSE[..], &["60"]].concat();
    let id = world.submit(&args).await;
    until_denoising(&world, &id).await;
    worker.signal("-TERM");
    assert_eq!(worker.ended().await, Some(0), "{}", worker.log());
    let job = world.show(&id).await;
    assert_eq!((&job["state"], &job["attempts"]), (&json!("queued"), &json!(0)), "{job:#}");

    let _next = world.worker();
    let job = world.until(&id, &["succeeded", "failed"]).await;
    assert_eq!(
        (&job["state"], &job["attempts"], &job["epoch"]),
        (&json!("succeeded"), &json!(1), &json!(2)),
        "{job:#}"
    );
    world.check_result(&id).await;
}

/// Each name fits, and the path does not. Trying again would not make it shorter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_is_too_long_fails_at_once() {
    let world = World::embedded();
    let _worker = world.worker();
    let (input, output) = (world.input("a.png", [9, 80, 200, 255]), world.output(&vec!["n".repeat(200); 22].join("/")));
    let id = world.submit(&["composite", "--input", &input, "--output", &output]).await;
    let job = world.until(&id, &["succeeded", "failed"]).await;
    assert_eq!((&job["state"], &job["attempts"]), (&json!("failed"), &json!(1)), "{job:#}");
    assert_eq!(job["error"]["code"], "invalid_request", "{job:#}");
    assert!(job["error"]["message"].as_str().unwrap().contains("too long for the file system"), "{job:#}");
}

async fn probes_and_numbers_are_answered(world: World) {
    let worker = world.worker();
    let base = worker.http().await;
    worker.until_said("ready for jobs").await;
    let (input, output) = (world.input("a.png", [1, 2, 3, 255]), world.output("x"));
    let id = world.submit(&["composite", "--input", &input, "--output", &output]).await;
    world.until(&id, &["succeeded"]).await;
    let get = |path: &'static str| {
        let url = format!("{base}{path}");
        async move {
            let answer =
                tokio::task::spawn_blocking(move || ureq::get(&url).call().unwrap().body_mut().read_to_string());
            answer.await.unwrap().unwrap()
        }
    };
    assert_eq!(get("/healthz").await, "ok\n");
    let ready: Value = serde_json::from_str(&get("/readyz").await).unwrap();
    assert_eq!(ready["ready"], true, "{ready:#}");
    let metrics = get("/metrics").await;
    for line in [
        "acetate_jobs_total{kind=\"composite\",result=\"succeeded\"} 1",
        "acetate_queue_wait_seconds_bucket{kind=\"composite\",le=\"+Inf\"} 1",
        "acetate_stage_seconds_count{stage=\"encode_png\",kind=\"composite\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}

pub async fn until_denoising(world: &World, id: &str) {
    let denoises = |progress: &Progress| progress.stage == Stage::Denoise && progress.step >= 1;
    world.once(id, |row| row.progress.as_ref().is_some_and(denoises)).await;
}

/// The folder may be on a disk that is mounted later. Other workers may have it, and other kinds need none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_without_a_model_leaves_its_kind_to_others_and_looks_again() {
    let mut world = World::service().await;
    let folder = world.place.path("mounted later");
    world.set("ACETATE__QWEN_IMAGE__MODEL_PATH", &folder.display().to_string());
    world.set("ACETATE__WORKER__RETRY_LONGEST_SECONDS", "2");
    let worker = world.worker();
    worker.until_said("ready for jobs").await;
    let input = world.input("a.png", [1, 2, 3, 255]);
    let (taken_apart, output) = (world.output("layers"), world.output("composites"));
    let decompose = ["decompose", "--input", &input, "--output", &taken_apart];
    let waits = world.submit(&[&decompose[..], &DECOMPOSE[..], &["2"]].concat()).await;
    worker.until_said("this worker takes no decompose jobs").await;
    let composite = world.submit(&["composite", "--input", &input, "--output", &output]).await;
    world.until(&composite, &["succeeded"]).await;

    let address = format!("{}/readyz", worker.http().await);
    let asked = tokio::task::spawn_blocking(move || {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        agent.get(&address).call().unwrap().body_mut().read_to_string().unwrap()
    });
    let ready: Value = serde_json::from_str(&asked.await.unwrap()).unwrap();
    let models = ready["checks"]["models"].as_str().unwrap();
    assert!(ready["ready"] == false && models.contains("takes no decompose jobs"), "{ready:#}");
    assert_eq!(ready["checks"]["queue"], "ok", "{ready:#}");
    // Looked for again, and said once.
    let back = |row: &JobRow| row.epoch.0 >= 3 && row.state == JobState::Queued && row.attempts == 0;
    world.once(&waits, back).await;
    assert_eq!(worker.log().matches("this worker takes no decompose jobs").count(), 1, "{}", worker.log());
    std::os::unix::fs::symlink(crate::common::checkpoint("layered"), &folder).unwrap();
    let job = world.until(&waits, &["succeeded", "failed"]).await;
    assert_eq!((&job["state"], &job["attempts"]), (&json!("succeeded"), &json!(1)), "{job:#}");
    worker.until_said("this worker takes decompose jobs again").await;
}

/// Its worker may be gone, and whoever cancels should know when the job ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_worker_is_silent_says_when_it_is_cancelled() {
    let mut world = World::service().await;
    world.set("ACETATE__WORKER__LEASE_SECONDS", "60");
    let (input, output) = (world.input("a.png", [1, 2, 3, 255]), world.output("a"));
    let id = world.submit(&["composite", "--input", &input, "--output", &output]).await;
    let silent = "UPDATE jobs SET state = 'running', worker = 'gone:1:2', attempts = 1, epoch = 1, \
                  lease_until = acetate_now() + 30000";
    world.sql(silent).await;
    let cancelled = world.run(&["jobs", "cancel", &id]).await;
    let wanted = "its worker was last heard from 3";
    assert!(cancelled.stdout.contains(wanted) && cancelled.stdout.contains("when its lease ends at"), "{cancelled:?}");
    let shown = world.run(&["jobs", "show", &id]).await;
    let line = shown.stdout.lines().find(|line| line.starts_with("cancelling")).unwrap();
    assert!(line.contains(wanted), "{shown:?}");
    world.sql("UPDATE jobs SET lease_until = acetate_now() + 60000").await;
    let shown = world.run(&["jobs", "show", &id]).await;
    assert!(shown.stdout.contains("its worker was asked, and stops within one denoise step"), "{shown:?}");
}

/// A person waits for a command, and should know for what; SQL says nothing to them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_waits_for_a_lock_says_so() {
    let world = World::service().await;
    assert_eq!(world.run(&["migrate"]).await.code, Some(0));
    let (listed, ()) = tokio::join!(
        async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            world.run(&["jobs", "list"]).await
        },
        world.sql("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(8)")
    );
    assert!(listed.stderr.contains("waiting for the database for more than 5 seconds"), "{listed:?}");
    assert!(!listed.stderr.contains("SELECT"), "{listed:?}");
}
