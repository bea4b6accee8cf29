//! Batches as people work with them: the audit log of pauses, the question before a batch is cancelled, the call at its
//! end, and estimates.

use std::{fs, io::Write, process::Stdio};

use acetate::job::JobId;
use serde_json::{Value, json};

use crate::{
    common::{TIMEOUT, skipped},
    http::webhooks::{SECRET, receiver},
    services::world::{World, in_both_worlds},
};

in_both_worlds! {
    pauses_are_in_the_audit_log,
    the_end_of_a_batch_is_called_once,
    an_estimate_comes_from_finished_jobs,
    cancelling_a_batch_asks_on_a_terminal,
}

/// Submits composites of so many pictures, from the first one on.
async fn submit(world: &World, batch: &str, rows: u8, more: &[&str]) -> Value {
    let line = |n| format!("{}\n", json!({ "image": world.input(&format!("{n}.png"), [n, 1, 2, 255]) }));
    fs::write(world.place.path("m.jsonl"), (0..rows).map(line).collect::<String>()).unwrap();
    let output = world.output(batch);
    let args = ["submit", "composite", "--from", "m.jsonl", "--batch", batch, "--output", &output, "--json"];
    world.json(&[&args[..], more].concat()).await
}

async fn pauses_are_in_the_audit_log(world: World) {
    submit(&world, "posters", 1, &[]).await;
    for args in [
        ["queue", "pause", "--batch", "posters"].as_slice(),
        &["queue", "pause", "--batch", "posters"],
        &["queue", "resume", "--batch", "posters"],
        &["queue", "resume", "--batch", "posters"],
        &["queue", "pause", "decompose"],
        &["queue", "pause"],
        &["queue", "resume"],
    ] {
        assert_eq!(world.run(args).await.code, Some(0), "{args:?}");
    }
    let listed = world.json(&["audit", "list", "--json"]).await;
    let entries: Vec<_> = listed["actions"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["action"] == "paused" || entry["action"] == "resumed")
        .map(|entry| (entry["action"].as_str().unwrap(), entry["detail"]["scope"].as_str().unwrap(), &entry["batch"]))
        .collect();
    let batch = json!("posters");
    // What changed nothing is no entry.
    let wanted = [
        ("resumed", "all", &Value::Null),
        ("paused", "all", &Value::Null),
        ("paused", "kind", &Value::Null),
        ("resumed", "batch", &batch),
        ("paused", "batch", &batch),
    ];
    assert_eq!(entries, wanted);
    assert!(listed["actions"][0]["actor"].as_str().unwrap().starts_with("cli:"), "{listed:#}");
    let text = world.run(&["audit", "list", "--action", "paused"]).await.stdout;
    for wanted in ["batch posters", "decompose", "all kinds"] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    // They are part of what happened to the jobs of the batch.
    let id = world.json(&["jobs", "list", "--json"]).await["jobs"][0]["id"].as_str().unwrap().to_owned();
    let history = world.run(&["jobs", "history", &id]).await.stdout;
    assert!(history.contains("paused by cli:") && history.contains("resumed by cli:"), "{history}");
}

async fn the_end_of_a_batch_is_called_once(mut world: World) {
    let (port, calls) = receiver(&["500 Internal Server Error"]);
    let origin = format!("http://127.0.0.1:{port}");
    let hook = format!("{origin}/end?key=s3cret");
    let refused = world.run(&["submit", "composite", "--from", "x", "--batch-webhook", &hook]).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    for (name, value) in [("SECRET", SECRET), ("ALLOW", &origin), ("RETRY_SECONDS", "0.05")] {
        world.set(&format!("ACETATE__HTTP__WEBHOOK_{name}"), value);
    }
    let bad = world.bytes("1.png", b"no picture");
    let line = |url: &str| format!("{}\n", json!({ "image": url }));
    let good = [world.input("0.png", [1, 1, 1, 255]), world.input("2.png", [2, 1, 1, 255])];
    fs::write(world.place.path("m.jsonl"), line(&good[0]) + &line(&bad) + &line(&good[1])).unwrap();
    let output = world.output("told");
    let args = ["submit", "composite", "--from", "m.jsonl", "--batch", "told", "--output", &output];
    let with = [&args[..], &["--batch-webhook", &hook]].concat();
    assert_eq!(world.run(&with).await.code, Some(0));
    let server = world.start(&["serve"], &[]);
    server.http().await;
    // In a service, the front runs no jobs.
    let _worker = world.service.as_ref().map(|_| world.worker());
    let call = || tokio::task::block_in_place(|| calls.recv_timeout(TIMEOUT).unwrap());
    let (first, second) = (call(), call());
    assert_eq!(first.header("webhook-id"), second.header("webhook-id"), "it is tried again");
    assert!(second.is_signed(), "{second:?}");
    let told = second.json();
    let counts =
        ["event", "batch", "jobs", "succeeded", "failed", "cancelled", "errors"].map(|name| told[name].clone());
    let wanted =
        [json!("batch.ended"), json!("told"), json!(3), json!(2), json!(1), json!(0), json!({ "invalid_image": 1 })];
    assert_eq!(counts, wanted);
    assert!(!server.log().contains("s3cret"));

    // The same command changes nothing. New jobs are a new end.
    assert_eq!(world.run(&with).await.code, Some(0));
    fs::write(world.place.path("m.jsonl"), line(&world.input("3.png", [3, 1, 1, 255]))).unwrap();
    assert_eq!(world.run(&with).await.code, Some(0));
    assert_eq!(call().json()["jobs"], 4);
    assert!(calls.try_recv().is_err());
}

async fn an_estimate_comes_from_finished_jobs(world: World) {
    let rows: String = (0..4u8)
        .map(|n| format!("{}\n", json!({ "image": world.input(&format!("{n}.png"), [n, 9, 9, 255]) })))
        .collect();
    fs::write(world.place.path("m.jsonl"), rows).unwrap();
    let output = world.output("estimated");
    let args = ["submit", "decompose", "--from", "m.jsonl", "--batch", "e", "--output", &output];
    let settings = ["--layers", "2", "--prompt", "x", "--resolution", "128", "--cfg-scale", "1"];
    let submit = |more: &[&'static str]| [&args[..], &settings, more].concat().into_iter().map(str::to_owned).collect();
    let run = async |more: &[&'static str]| {
        let args: Vec<String> = submit(more);
        world.run(&args.iter().map(String::as_str).collect::<Vec<_>>()).await
    };
    let none = run(&["--steps", "1", "--estimate"]).await;
    assert!(none.code == Some(0) && none.stdout.contains("4 jobs; there is no measurement"), "{none:?}");
    assert_eq!(run(&["--steps", "1", "--limit", "2"]).await.code, Some(0));
    let worker = world.worker();
    assert_eq!(world.run(&["jobs", "watch", "--batch", "e"]).await.code, Some(0));
    drop(worker);
    let same = run(&["--steps", "1", "--estimate", "--json"]).await;
    let same: Value = serde_json::from_str(&same.stdout).unwrap_or_else(|error| panic!("{error}: {same:?}"));
    // Two of the four are done.
    assert_eq!((&same["jobs"], &same["measured"]["from_jobs"]), (&json!(2), &json!(2)), "{same:#}");
    assert_eq!(same["measured"]["same_settings"], true);
    let each = same["measured"]["seconds_per_job"].as_f64().unwrap();
    assert!(each > 0.0 && same["seconds"].as_f64().unwrap() > 0.0, "{same:#}");
    assert!(same["measured"]["passes_per_second"].as_f64().unwrap() > 0.0, "{same:#}");
    // Ten times the steps take longer than once.
    let other = run(&["--steps", "10", "--estimate", "--json"]).await;
    let other: Value = serde_json::from_str(&other.stdout).unwrap();
    assert_eq!((&other["jobs"], &other["measured"]["same_settings"]), (&json!(4), &json!(false)), "{other:#}");
    let text = run(&["--steps", "10", "--estimate"]).await.stdout;
    assert!(text.contains("measured on 2 finished jobs of this size with other settings"), "{text}");
    assert_eq!(world.json(&["jobs", "list", "--json"]).await["jobs"].as_array().unwrap().len(), 2, "nothing new");
}

async fn cancelling_a_batch_asks_on_a_terminal(world: World) {
    submit(&world, "asked", 3, &[]).await;
    if std::process::Command::new("script").arg("--version").output().is_err() {
        skipped("the question before a batch is cancelled", "there is no `script`, which makes a terminal");
        return;
    }
    let answer = async |text: &'static str| {
        let direct = world.command(&["jobs", "cancel", "--batch", "asked"]);
        let mut command = std::process::Command::new("script");
        let program = direct.get_program().to_str().unwrap().to_owned();
        command.args(["-qec", &format!("{program} jobs cancel --batch asked"), "/dev/null"]).env_clear();
        command.envs(direct.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("PATH", "/usr/bin:/bin").current_dir(direct.get_current_dir().unwrap());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = answer("n\n").await;
    assert!(said.contains("cancel 3 jobs of batch asked? [y/N]") && said.contains("nothing was cancelled"), "{said}");
    assert!(said.contains("acetate queue pause --batch asked"), "{said}");
    assert_eq!(world.json(&["jobs", "list", "--state", "cancelled", "--json"]).await["jobs"], json!([]));
    let said = answer("y\n").await;
    assert!(said.contains("3 jobs cancelled or asked to stop"), "{said}");
    let undo =
        said.lines().find_map(|line| line.trim().strip_suffix(" takes it back")).unwrap_or_else(|| panic!("{said}"));
    let undo: Vec<_> = undo.split(' ').skip(1).collect();
    assert_eq!(undo[..5], ["jobs", "retry", "--batch", "asked", "--undo"], "{said}");
    let other = world.run(&["jobs", "retry", "--batch", "asked", "--undo", &JobId::new().to_string()]).await;
    assert!(other.stdout.contains("0 jobs queued again"), "{other:?}");
    let back = world.run(&undo).await;
    assert!(back.stdout.contains("3 jobs queued again"), "{back:?}");
    // Without a terminal, nobody is there to ask.
    let yes = world.json(&["jobs", "cancel", "--batch", "asked", "--yes", "--json"]).await;
    assert_eq!((&yes["cancelled"], yes["undo"].is_string()), (&json!(3), true));
}
