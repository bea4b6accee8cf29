//! Jobs that take the result of an equal one.

use std::fs;

use acetate::job::JobId;
use serde_json::{Value, json};

use crate::services::world::{World, in_both_worlds};

in_both_worlds! {
    an_equal_job_takes_the_result_and_keeps_it,
    another_picture_seed_or_tenant_is_computed,
    what_is_gone_is_computed_again,
}

/// A decompose with this seed; more flags come after it.
async fn decompose(world: &World, input: &str, output: &str, seed: &str, more: &[&str]) -> Value {
    let output = world.output(output);
    let quick = ["--resolution", "128", "--prompt", "a boat", "--layers", "2", "--steps", "1", "--seed", seed];
    let id = world.submit(&[&["decompose", "--input", input, "--output", &output], &quick[..], more].concat()).await;
    let job = world.until(&id, &["succeeded", "failed"]).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    world.check_result(&id).await;
    job
}

fn digests(job: &Value) -> Vec<&Value> {
    job["outputs"].as_array().unwrap().iter().map(|file| &file["sha256"]).collect()
}

fn manifest(world: &World, job: &Value) -> Value {
    serde_json::from_slice(&fs::read(world.path(job["manifest"].as_str().unwrap())).unwrap()).unwrap()
}

async fn an_equal_job_takes_the_result_and_keeps_it(world: World) {
    let worker = world.worker();
    let base = worker.http().await;
    let input = world.input("boat.png", [9, 80, 200, 255]);
    // The same picture under another name.
    let same = world.bytes("copy of a boat.png", &fs::read(world.path(&input)).unwrap());
    let first = decompose(&world, &input, "one", "7", &["--label", "run=1"]).await;
    let second = decompose(&world, &same, "two", "7", &["--reuse", "--batch", "again", "--priority", "3"]).await;
    assert_eq!((&first["reused_from"], &second["reused_from"]), (&Value::Null, &first["id"]));
    assert_eq!(digests(&first), digests(&second));
    assert!(second["manifest"].as_str().unwrap().contains("/two/"), "{second:#}");
    assert_eq!((&second["attempts"], &second["history"][0]["outcome"]), (&json!(1), &json!("reused")));
    let (made, taken) = (manifest(&world, &first), manifest(&world, &second));
    assert_eq!((&taken["reused_from"], &taken["content_key"]), (&first["id"], &made["content_key"]));
    assert_eq!((&made["sampling"][0]["passes"], &taken["sampling"][0]["passes"]), (&json!(2), &json!(0)));
    assert_eq!((&taken["models"], &taken["files"], &taken["seed"]), (&made["models"], &made["files"], &json!(7)));
    let stages: Vec<_> = taken["timings"].as_array().unwrap().iter().map(|timing| &timing["stage"]).collect();
    assert_eq!(stages, ["fetch", "store"]);

    // Everything that tells of jobs tells it.
    let shown = world.run(&["jobs", "show", second["id"].as_str().unwrap()]).await.stdout;
    let line = format!("reused     the result of job {}", first["id"].as_str().unwrap());
    assert!(shown.contains(&line) && shown.contains("attempt 1  reused"), "{shown}");
    let results = world.run(&["jobs", "results", "--batch", "again"]).await.stdout;
    assert_eq!(serde_json::from_str::<Value>(&results).unwrap()["reused_from"], first["id"]);
    let metrics = tokio::task::spawn_blocking(move || {
        ureq::get(format!("{base}/metrics")).call().unwrap().body_mut().read_to_string().unwrap()
    });
    let metrics = metrics.await.unwrap();
    assert!(metrics.contains("acetate_jobs_reused_total{kind=\"decompose\"} 1"), "{metrics}");

    // It does not need the other job any more, and can itself be reused.
    let deleted = world.run(&["jobs", "delete", first["id"].as_str().unwrap()]).await;
    assert_eq!(deleted.code, Some(0), "{deleted:?}");
    world.check_result(second["id"].as_str().unwrap()).await;
    let third = decompose(&world, &input, "three", "7", &["--reuse"]).await;
    assert_eq!(third["reused_from"], second["id"]);
    // Without the flag, it is computed.
    let fourth = decompose(&world, &input, "four", "7", &[]).await;
    assert_eq!((&fourth["reused_from"], digests(&fourth)), (&Value::Null, digests(&third)));
}

async fn another_picture_seed_or_tenant_is_computed(world: World) {
    let _worker = world.worker();
    let (boat, other) = (world.input("boat.png", [9, 80, 200, 255]), world.input("other.png", [9, 80, 201, 255]));
    let first = decompose(&world, &boat, "out", "7", &[]).await;
    for (input, seed, more) in [
        (&other, "7", &[][..]),
        (&boat, "8", &[]),
        (&boat, "7", &["--label", "tenant=other"]),
        (&boat, "7", &["--trim"]),
    ] {
        let job = decompose(&world, input, "out", seed, &[&["--reuse"], more].concat()).await;
        assert_eq!(job["reused_from"], Value::Null, "{input} {seed} {more:?}");
    }
    let again = decompose(&world, &boat, "out", "7", &["--reuse"]).await;
    assert_eq!(again["reused_from"], first["id"]);

    let output = world.output("out");
    let args = ["submit", "decompose", "--input", &boat, "--output", &output, "--reuse"];
    let refused = world.run(&args).await;
    assert!(refused.code == Some(2) && refused.stderr.contains("reuse: needs a seed"), "{refused:?}");
    assert!(refused.stderr.contains("params.seed"), "{refused:?}");
    fs::write(world.place.path("m.jsonl"), format!("{}\n", json!({ "image": boat }))).unwrap();
    let args = ["submit", "decompose", "--from", "m.jsonl", "--output", &output, "--reuse", "--dry-run"];
    let refused = world.run(&args).await;
    assert!(refused.code == Some(2) && refused.stderr.contains("(row 1): reuse: needs a seed"), "{refused:?}");
    let seeded = world.json(&[&args[..], &["--seed", "7", "--json"]].concat()).await;
    assert_eq!(seeded["rows"], 1, "{seeded:#}");

    // A composite has no seed.
    for reused in [false, true] {
        let id =
            world.submit(&["composite", "--input", &boat, "--input", &other, "--output", &output, "--reuse"]).await;
        let job = world.until(&id, &["succeeded", "failed"]).await;
        assert_eq!(job["reused_from"].is_string(), reused, "{job:#}");
    }
}

async fn what_is_gone_is_computed_again(world: World) {
    let _worker = world.worker();
    let input = world.input("boat.png", [9, 80, 200, 255]);
    let first = decompose(&world, &input, "out", "7", &[]).await;
    let layer = world.path(first["outputs"][1]["url"].as_str().unwrap());
    let bytes = fs::read(&layer).unwrap();
    fs::remove_file(&layer).unwrap();
    let second = decompose(&world, &input, "out", "7", &["--reuse"]).await;
    assert_eq!((&second["reused_from"], digests(&second)), (&Value::Null, digests(&first)));
    // With two results, the whole one is taken, not the damaged one. S3 checks by itself what it copies.
    if world.service.is_some() {
        return;
    }
    fs::write(&layer, bytes).unwrap();
    let damaged = world.path(second["outputs"][2]["url"].as_str().unwrap());
    let mut bytes = fs::read(&damaged).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&damaged, bytes).unwrap();
    let third = decompose(&world, &input, "out", "7", &["--reuse"]).await;
    assert_eq!((&third["reused_from"], digests(&third)), (&first["id"], digests(&first)));
}

/// A message of another client says it beside the request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_may_ask_for_it() {
    let world = World::service().await;
    let worker = world.worker();
    worker.until_said("ready for jobs").await;
    let input = world.input("one.png", [1, 2, 3, 255]);
    let (connection, channel) = world.service.as_ref().unwrap().vhost.foreign().await;
    let publish = async |kind: &str, reuse: Value| {
        let id = JobId::new().to_string();
        let body = json!({
            "version": 1, "id": id, "kind": kind, "input": {"image": input},
            "output": {"prefix": world.output("raw")}, "reuse": reuse,
        });
        let (options, properties) = Default::default();
        let body = body.to_string();
        let sent = channel.basic_publish("acetate.jobs".into(), kind.into(), options, body.as_bytes(), properties);
        sent.await.unwrap();
        world.until(&id, &["succeeded", "failed"]).await
    };
    let first = publish("composite", json!(false)).await;
    let second = publish("composite", json!(true)).await;
    assert_eq!((&first["reused_from"], &second["reused_from"]), (&Value::Null, &first["id"]), "{second:#}");
    for (kind, reuse, told) in [
        ("decompose", json!(true), "reuse: needs a seed"),
        ("composite", json!("yes"), "reuse: \"yes\" is not true or false"),
    ] {
        let job = publish(kind, reuse).await;
        assert!(job["error"]["message"].as_str().unwrap().contains(told), "{job:#}");
    }
    connection.close(0, "".into()).await.unwrap();
}
