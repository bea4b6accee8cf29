//! What happens when the process is stopped in the middle: by kill -9, by Ctrl-C, by a cancel from outside.

pub mod service;

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::common::{Ran, TestDir, blocking_until, checkpoint, golden, in_pid_namespace, names, ran};

/// Long enough to be stopped in the middle.
fn long_run(steps: &str) -> Vec<String> {
    let model = checkpoint("layered");
    let picture = golden("pictures/boat.png");
    let args = [
        "run",
        "decompose",
        &picture,
        "--model",
        &model,
        "--out",
        "out",
        "--layers",
        "3",
        "--resolution",
        "128",
        "--prompt",
        "a boat",
        "--seed",
        "7",
        "--steps",
        steps,
    ];
    args.map(str::to_owned).to_vec()
}

fn as_strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

/// Waits until the only job is some steps into the denoise loop; gives its id.
fn wait_for_denoise(place: &TestDir, child: &mut Child) -> String {
    blocking_until(|| {
        let listed = place.json(&["jobs", "list", "--json"]);
        let job = &listed["jobs"][0];
        if job["progress"]["stage"] == "denoise" && job["progress"]["step"].as_u64() >= Some(2) {
            assert_eq!(job["state"], "running");
            return Ok(job["id"].as_str().unwrap().to_owned());
        }
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be stopped: {listed}");
        Err(listed)
    })
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn a_killed_run_is_taken_up_again_by_the_same_command() {
    let place = TestDir::new();
    let args = long_run("150");
    let mut child = place.start(&as_strs(&args));
    let id = wait_for_denoise(&place, &mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(names(&place.path("out")).is_empty(), "nothing half-written: {:?}", names(&place.path("out")));
    assert_eq!(place.json(&["jobs", "show", &id, "--json"])["state"], "running");

    // The same command, no id: the job goes on at once, without waiting for the lease of the dead.
    let again = place.run(&as_strs(&args));
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.stderr.contains(&format!("resuming job {id}")), "{}", again.stderr);
    let job = place.json(&["jobs", "show", &id, "--json"]);
    assert_eq!((&job["state"], &job["attempts"], &job["epoch"]), (&"succeeded".into(), &2.into(), &2.into()));
    let outcomes: Vec<_> = job["history"].as_array().unwrap().iter().map(|attempt| &attempt["outcome"]).collect();
    assert_eq!(outcomes, ["lost", "succeeded"]);
    assert_eq!(place.json(&["jobs", "list", "--json"])["jobs"].as_array().unwrap().len(), 1);
    assert_eq!(names(&place.path("out")).len(), 5);
    let manifest: Value = serde_json::from_slice(&fs::read(place.path("out/manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["attempt"], 2);
}

#[test]
fn ctrl_c_cancels_within_a_step_and_leaves_nothing() {
    let place = TestDir::new();
    let mut child = place.start(&as_strs(&long_run("1000")));
    let id = wait_for_denoise(&place, &mut child);
    let start = Instant::now();
    signal(&child, "-INT");
    let Ran { code, stderr, .. } = ran(child.wait_with_output().unwrap());
    assert!(start.elapsed() < Duration::from_secs(10), "took {:?}", start.elapsed());
    assert_eq!(code, Some(130), "{stderr}");
    assert!(stderr.contains("was cancelled; nothing was written"), "{stderr}");
    assert!(names(&place.path("out")).is_empty(), "{:?}", names(&place.path("out")));
    let job = place.json(&["jobs", "show", &id, "--json"]);
    assert_eq!((&job["state"], &job["error"]["code"]), (&"cancelled".into(), &"cancelled".into()));
    assert_eq!(job["outputs"], Value::Array(Vec::new()));
}

#[test]
fn a_job_that_runs_is_not_run_twice_and_can_be_cancelled_from_outside() {
    let place = TestDir::new();
    let args = long_run("1000");
    let mut child = place.start(&as_strs(&args));
    let id = wait_for_denoise(&place, &mut child);

    let second = place.run(&as_strs(&args));
    assert_eq!(second.code, Some(1), "{second:?}");
    let worker = format!("error: job {id} is being run by process {} on ", child.id());
    assert!(second.stderr.contains(&worker) && !second.stderr.contains("resuming"), "{}", second.stderr);

    let asked = place.run(&["jobs", "cancel", &id]);
    assert!(asked.code == Some(0) && asked.stdout.contains("asked to stop"), "{asked:?}");
    let Ran { code, stderr, .. } = ran(child.wait_with_output().unwrap());
    assert_eq!(code, Some(130), "{stderr}");
    assert_eq!(place.json(&["jobs", "show", &id, "--json"])["state"], "cancelled");
}

/// A host name and a process number say nothing across PID namespaces: there, nobody else has the number 1.
#[test]
fn a_job_that_runs_in_another_pid_namespace_is_left_alone() {
    let place = TestDir::new();
    let args = long_run("1000");
    let Some(mut command) = in_pid_namespace(&place.command(&as_strs(&args)), "a run in another PID namespace") else {
        return;
    };
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let id = wait_for_denoise(&place, &mut child);

    let second = place.run(&as_strs(&args));
    assert_eq!(second.code, Some(1), "{second:?}");
    let busy = format!("error: job {id} is being run by process 1 on ");
    assert!(second.stderr.contains(&busy) && !second.stderr.contains("resuming"), "{}", second.stderr);
    let asked = place.run(&["jobs", "cancel", &id]);
    assert!(asked.code == Some(0) && asked.stdout.contains("asked to stop"), "{asked:?}");
    child.wait_with_output().unwrap();
    let job = place.json(&["jobs", "show", &id, "--json"]);
    assert_eq!((&job["state"], &job["attempts"]), (&"cancelled".into(), &1.into()), "{job}");
}

#[test]
fn a_copy_that_was_cut_short_is_finished_without_new_work() {
    let place = TestDir::new();
    let picture = place.picture("in.png", [1, 2, 3, 255]);
    let args = ["run", "composite", &picture, "--out", "out", "--json"];
    let job = place.json(&args);
    // As a kill between the first file and the manifest leaves it.
    fs::remove_file(place.path("out/manifest.json")).unwrap();
    fs::write(place.path("out/.acetate-export"), job["id"].as_str().unwrap()).unwrap();

    assert_eq!(place.json(&args)["id"], job["id"]);
    assert_eq!(names(&place.path("out")), ["composite.png", "manifest.json"]);
    assert_eq!(place.json(&["jobs", "list", "--json"])["jobs"].as_array().unwrap().len(), 1);
}

#[test]
fn a_store_that_cannot_be_written_leaves_the_job_for_another_run() {
    let place = TestDir::new();
    let picture = place.picture("in.png", [1, 2, 3, 255]);
    let id = "018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21";
    // A file where the job's folder should be: found only when the result is stored.
    fs::create_dir_all(place.path("data/objects")).unwrap();
    fs::write(place.path("data/objects").join(id), "in the way").unwrap();
    let args = ["run", "composite", &picture, "--out", "out", "--id", id];
    let ran = place.run(&args);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("run the same command again to retry"), "{}", ran.stderr);
    assert_eq!(place.json(&["jobs", "show", id, "--json"])["state"], "queued");
    let again = place.run(&["run", "composite", &picture, "--out", "out"]);
    assert!(again.stderr.contains(&format!("resuming job {id}, which failed before: ")), "{}", again.stderr);

    fs::remove_file(place.path("data/objects").join(id)).unwrap();
    assert_eq!(place.run(&args).code, Some(0));
    assert_eq!(place.json(&["jobs", "show", id, "--json"])["attempts"], 3);
}

#[test]
fn a_result_that_cannot_be_copied_out_is_not_lost() {
    let place = TestDir::new();
    let picture = place.picture("in.png", [1, 2, 3, 255]);
    // A folder where the result's file should be: found only when it is copied.
    let id = "018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21";
    place.json(&["run", "composite", &picture, "--out", "out", "--json"]);
    fs::remove_file(place.path("out/composite.png")).unwrap();
    fs::create_dir(place.path("out/composite.png")).unwrap();
    let args = ["run", "composite", &picture, "--out", "out", "--id", id];
    let ran = place.run(&args);
    assert_eq!(ran.code, Some(1));
    let advice = format!("job {id} has succeeded and its files are in ");
    assert!(ran.stderr.contains(&advice) && ran.stderr.contains(&format!("with --id {id}")), "{}", ran.stderr);

    fs::remove_dir(place.path("out/composite.png")).unwrap();
    assert_eq!(place.run(&args).code, Some(0));
    assert_eq!(place.json(&["jobs", "show", id, "--json"])["attempts"], 1);
    assert_eq!(names(&place.path("out")), ["composite.png", "manifest.json"]);
}

#[test]
fn results_of_two_processes_in_one_folder_are_never_mixed() {
    let place = TestDir::new();
    let pictures = [10, 20, 30].map(|red| place.picture(&format!("{red}.png"), [red, 2, 3, 255]));
    for round in 0..8 {
        let runs = pictures.each_ref().map(|picture| {
            let label = format!("round={round}");
            place.start(&["run", "composite", picture, "--out", "out", "--label", &label, "--json"])
        });
        for child in runs {
            let ran = ran(child.wait_with_output().unwrap());
            assert_eq!(ran.code, Some(0), "{ran:?}");
        }
        assert_eq!(names(&place.path("out")), ["composite.png", "manifest.json"], "round {round}");
        let manifest: Value = serde_json::from_slice(&fs::read(place.path("out/manifest.json")).unwrap()).unwrap();
        let digest = crate::embedded::hex(&fs::read(place.path("out/composite.png")).unwrap());
        assert_eq!(manifest["files"][0]["sha256"], digest, "round {round}: the manifest of one, the file of another");
    }
}
