//! A server that stops in the middle of a job.

use serde_json::json;

use crate::{
    common::{TestDir, blocking_until, checkpoint, golden, names},
    http::client::Events,
    http::server::{Server, picture},
};

const STEPS: [(&str, &str); 4] = [("prompt", "a house"), ("layers", "2"), ("steps", "60"), ("seed", "1")];

#[test]
fn a_job_goes_on_after_a_restart_and_its_watcher_sees_the_end() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let id = server.submit(&STEPS, &picture(64, 48, [200, 80, 40, 255]));
    let path = format!("/v1/jobs/{id}/events");
    let mut stream = Events::open(&server.address, &path, &[]);
    let seen = std::iter::from_fn(|| stream.next()).find(|event| event.data["progress"]["stage"] == "denoise").unwrap();
    // On SIGTERM, the job is given back, and the attempt does not count.
    server.stop();
    stream.rest();
    let server = Server::start(&place, &[]);
    let mut stream = Events::open(&server.address, &path, &[("Last-Event-ID", &seen.id.to_string())]);
    let rest = stream.rest();
    assert!(rest.first().unwrap().id > seen.id);
    assert_eq!(rest.last().unwrap().data["state"], "succeeded");
    assert_eq!(server.job(&id)["attempts"], 1);
}

#[test]
fn a_killed_server_loses_no_job() {
    let place = TestDir::new();
    // The next process knows that this one is dead, and does not wait for the lease to end.
    let long = [("ACETATE__WORKER__LEASE_SECONDS", "900")];
    let server = Server::start(&place, &long);
    let running = server.submit(&STEPS, &picture(64, 48, [200, 80, 40, 255]));
    let waiting = server.submit(&[("kind", "composite")], &picture(4, 4, [9; 4]));
    server.wait(&running, |job| job["progress"]["stage"] == "denoise");
    server.kill();
    let server = Server::start(&place, &long);
    server.succeeded(&waiting);
    let job = server.succeeded(&running);
    assert_eq!((&job["attempts"], &job["history"][0]["outcome"]), (&json!(2), &json!("lost")));
}

/// What it would accept is in a file that nobody can open.
#[test]
fn a_server_ends_when_its_database_file_is_removed() {
    let place = TestDir::new();
    let file = place.text("rows.db");
    let server = Server::start(&place, &[("ACETATE__STATUS__URL", &format!("sqlite://{file}"))]);
    std::fs::remove_file(&file).unwrap();
    server.fails("rows.db: the database file was removed while this process used it");
}

#[test]
fn a_model_that_is_missing_fails_its_job_and_the_server_lives() {
    let place = TestDir::new();
    let missing = place.text("no-model");
    let server = Server::start(&place, &[("ACETATE__QWEN_IMAGE__MODEL_PATH", &missing)]);
    let id = server.submit(&STEPS, &picture(64, 48, [200, 80, 40, 255]));
    let job = server.ended(&id);
    assert_eq!((&job["state"], &job["error"]["code"]), (&json!("failed"), &json!("model_not_found")));
    let id = server.submit(&[("kind", "composite")], &picture(4, 4, [9; 4]));
    server.succeeded(&id);
}

#[test]
fn a_killed_run_is_finished_by_a_server_and_copied_by_the_same_command() {
    let place = TestDir::new();
    let (model, picture) = (checkpoint("layered"), golden("pictures/boat.png"));
    let args = ["run", "decompose", &picture, "--model", &model, "--out", "out", "--layers", "2", "--steps", "150"];
    let args = [&args[..], &["--resolution", "128", "--prompt", "a boat", "--seed", "7"]].concat();
    let mut child = place.start(&args);
    let id = blocking_until(|| {
        let listed = place.json(&["jobs", "list", "--json"]);
        let job = &listed["jobs"][0];
        let is_there = job["progress"]["stage"] == "denoise";
        if is_there { Ok(job["id"].as_str().unwrap().to_owned()) } else { Err(listed) }
    });
    child.kill().unwrap();
    child.wait().unwrap();

    let server = Server::start(&place, &[("ACETATE__QWEN_IMAGE__MODEL_PATH", &model)]);
    assert_eq!(server.succeeded(&id)["attempts"], 2);
    server.stop();
    let again = place.run(&args);
    assert_eq!(again.code, Some(0), "{again:?}");
    let told = format!("job {id} has already succeeded; returning its results");
    assert!(again.stderr.contains(&told), "{}", again.stderr);
    assert_eq!(place.manifest("out")["job"], id.as_str());
    let files = names(&place.path("out"));
    assert!(files.contains(&id) && files.contains(&"layer-02.png".to_owned()), "{files:?}");
    // A result is there now: the next run is another job.
    let next = place.run(&[&args[..], &["--json"]].concat());
    assert!(next.code == Some(0) && !next.stdout.contains(&id), "{next:?}");
}
