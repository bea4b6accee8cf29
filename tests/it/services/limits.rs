//! What the system does to a worker: it has no file descriptors left, or its terminal is closed.

use std::{
    fs,
    process::{Command, Stdio},
};

use crate::services::world::{Worker, World, in_both_worlds};

in_both_worlds! {
    a_lack_of_descriptors_costs_no_attempt,
    a_closed_terminal_drains,
}

/// The soft limit of a running process.
fn limit(worker: &Worker, files: usize) {
    let id = worker.child.id().to_string();
    let set = Command::new("prlimit").args(["--pid", &id, &format!("--nofile={files}:")]).status();
    assert!(set.expect("prlimit (util-linux) is needed").success());
}

async fn a_lack_of_descriptors_costs_no_attempt(world: World) {
    let worker = world.worker();
    worker.until_said("ready for jobs").await;
    let inputs = [1, 2, 3].map(|n| world.input(&format!("{n}.png"), [n, 0, 0, 255]));
    let output = world.output("few");
    let mut args = vec!["composite", "--output", &output];
    for input in &inputs {
        args.extend(["--input", input]);
    }
    // The job must open connections to its store, not use idle ones.
    if let Some(service) = &world.service {
        service.s3.hang_up();
    }
    // Below what it has open: what it has stays, and nothing new can be opened.
    limit(&worker, 3);
    let id = world.submit(&args).await;
    // Several times, more than a job has attempts.
    worker
        .until_log("a job is given back six times", |log| log.matches("no file descriptors left; giving").count() >= 6)
        .await;
    limit(&worker, 1024);
    let job = world.until(&id, &["succeeded", "failed"]).await;
    assert_eq!(
        (job["state"].as_str(), job["attempts"].as_u64()),
        (Some("succeeded"), Some(1)),
        "{job:#}\n{}",
        worker.log()
    );
    world.check_result(&id).await;
}

async fn a_closed_terminal_drains(world: World) {
    let input = world.input("scene.png", [9, 80, 200, 255]);
    let long = ["--resolution", "128", "--prompt", "a boat", "--layers", "3", "--steps", "1000"];
    let output = world.output("hup");
    let id = world.submit(&[&["decompose", "--input", &input, "--output", &output], &long[..]].concat()).await;
    let mut worker = world.worker_with(&[("ACETATE__WORKER__DRAIN_SECONDS", "1")]);
    world.once(&id, |row| row.progress.is_some()).await;
    worker.signal("-HUP");
    assert_eq!(worker.ended().await, Some(0), "{}", worker.log());
    assert!(worker.log().contains("draining"), "{}", worker.log());
    let job = world.show(&id).await;
    assert_eq!((job["state"].as_str(), job["attempts"].as_u64()), (Some("queued"), Some(0)), "{job:#}");

    // Under nohup it goes on.
    let mut command = world.command(&["worker"]);
    let program = command.get_program().to_owned();
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let mut nohup = Command::new("nohup");
    nohup.arg(program).args(arguments).env_clear().current_dir(world.place.folder.path());
    nohup.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    nohup.env("ACETATE__WORKER__DRAIN_SECONDS", "0").stdin(Stdio::null()).stdout(Stdio::null());
    let log = world.place.path("nohup.log");
    nohup.stderr(fs::File::create(&log).unwrap());
    let mut child = nohup.spawn().unwrap();
    command.env_clear();
    crate::common::until(|| async {
        let said = fs::read_to_string(&log).unwrap();
        if said.contains("ready for jobs") { Ok(()) } else { Err(said) }
    })
    .await;
    let signal =
        |name: &str| assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
    signal("-HUP");
    let next = world.submit(&["composite", "--input", &input, "--output", &world.output("nohup")]).await;
    assert_eq!(world.until(&next, &["succeeded", "failed"]).await["state"], "succeeded");
    assert!(!fs::read_to_string(&log).unwrap().contains("draining"));
    signal("-TERM");
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert!(status.success(), "{status}: {}", fs::read_to_string(&log).unwrap());
}
