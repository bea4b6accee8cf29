//! Submissions: raw messages from other clients, and many jobs at once.

use std::fs;

use lapin::{
    BasicProperties,
    options::{BasicGetOptions, BasicPublishOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::{
    common::{TIMEOUT, until},
    services::world::{World, in_both_worlds},
};

in_both_worlds! {
    a_manifest_is_submitted_once_however_often,
    a_folder_is_submitted_with_a_template,
    wrong_rows_are_all_named_and_nothing_is_submitted,
    old_jobs_go_with_their_files,
    a_dry_run_counts_exactly_and_deletes_nothing,
    a_batch_is_taken_back_and_says_what_it_left,
}

async fn a_manifest_is_submitted_once_however_often(world: World) {
    let inputs: Vec<_> = (0..3).map(|n| world.input(&format!("{n}.png"), [n, 0, 0, 255])).collect();
    let rows = [
        json!({ "image": inputs[0], "label.split": "train" }),
        json!({ "images": [inputs[1], inputs[2]] }),
        json!({ "images": [inputs[1], inputs[2]] }),
    ];
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(world.place.path("m.jsonl"), text).unwrap();
    let output = format!("{}{{stem}}/", world.output("bulk"));
    let args = ["submit", "composite", "--from", "m.jsonl", "--output", &output, "--batch", "b1", "--json"];
    let report = world.json(&args).await;
    assert_eq!(
        report,
        json!({"batch": "b1", "rows": 3, "submitted": 2, "known": 0, "duplicates": 1, "rejected": 0,
        "skipped": 0, "skipped_by_reason": {}})
    );
    let report = world.json(&args).await;
    assert_eq!((&report["submitted"], &report["known"]), (&json!(0), &json!(2)));

    let _worker = world.worker();
    let watched = world.run(&["jobs", "watch", "--batch", "b1"]).await;
    assert!(watched.code == Some(0) && watched.stdout.contains("2 succeeded"), "{watched:?}");
    let wrote = world.run(&["jobs", "results", "--batch", "b1", "--out", "results.jsonl"]).await;
    assert_eq!(wrote.code, Some(0), "{wrote:?}");
    let lines = fs::read_to_string(world.place.path("results.jsonl")).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let rows: Vec<_> = lines.iter().map(|line| line["row"].as_u64()).collect();
    assert_eq!(rows, [Some(1), Some(2), Some(3)]);
    assert_eq!(lines[1]["id"], lines[2]["id"], "rows with the same content are one job");
    let first = lines.iter().find(|line| line["labels"]["split"] == "train").unwrap();
    assert_eq!((&first["status"], &first["input"][0]), (&json!("succeeded"), &json!(inputs[0])));
    assert!(first["composite"].as_str().unwrap().starts_with(&world.output("bulk/0")), "{first:#}");
}

async fn a_folder_is_submitted_with_a_template(world: World) {
    let folder = world.place.path("local/deep");
    fs::create_dir_all(&folder).unwrap();
    world.place.picture("local/a.png", [1, 1, 1, 255]);
    world.place.picture("local/deep/b.PNG", [2, 2, 2, 255]);
    fs::write(folder.join("notes.txt"), "no picture").unwrap();
    let output = format!("{}{{path}}", world.output("tree"));
    let args = ["submit", "composite", "--from", "local", "--upload", "--output", &output, "--json"];
    let report = world.json(&args).await;
    assert_eq!(report["submitted"], 2, "{report}");
    let batch = report["batch"].as_str().unwrap().to_owned();
    assert_eq!(world.json(&args).await["known"], 2, "the same command is the same batch");
    let _worker = world.worker();
    let watched = world.run(&["jobs", "watch", "--batch", &batch, "--json"]).await;
    assert_eq!(watched.code, Some(0), "{watched:?}");
    let results = world.run(&["jobs", "results", "--batch", &batch]).await.stdout;
    assert!(results.contains(&world.output("tree/deep/b")) && results.contains(&world.output("tree/a")), "{results}");
}

async fn wrong_rows_are_all_named_and_nothing_is_submitted(world: World) {
    let good = world.input("a.png", [1, 2, 3, 255]);
    let output = world.output("x");
    let text = format!("image,layers,output\n{good},99,{output}\nnowhere.png,,{output}\n{good},3,\n");
    fs::write(world.place.path("m.csv"), text).unwrap();
    let ran = world.run(&["submit", "decompose", "--from", "m.csv", "--batch", "b1"]).await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    for wanted in
        ["m.csv:2 (row 1): params.layers", "m.csv:3 (row 2): ", "nowhere.png: not found", "m.csv:4 (row 3): output"]
    {
        assert!(ran.stderr.contains(wanted), "{wanted}: {}", ran.stderr);
    }
    assert_eq!(world.json(&["jobs", "list", "--json"]).await["jobs"], json!([]));
}

async fn old_jobs_go_with_their_files(world: World) {
    let _worker = world.worker();
    let (input, output) = (world.input("a.png", [1, 2, 3, 255]), world.output("old"));
    let id = world.submit(&["composite", "--input", &input, "--output", &output]).await;
    let job = world.until(&id, &["succeeded"]).await;
    let manifest = world.path(job["manifest"].as_str().unwrap());
    assert!(manifest.is_file());
    let kept = world.json(&["jobs", "prune", "--older-than", "1h", "--json"]).await;
    assert_eq!(kept["jobs"], 0);
    let gone = until(|| async {
        let gone = world.json(&["jobs", "prune", "--older-than", "1s", "--json"]).await;
        if gone["jobs"] == 1 { Ok(gone) } else { Err(gone) }
    });
    assert_eq!(gone.await["files"], 2);
    assert!(!manifest.exists());
    assert_eq!(world.run(&["jobs", "show", &id]).await.code, Some(2));
}

/// Jobs of one batch, which no worker takes.
async fn waiting(world: &World, batch: &str, count: usize) {
    let input = world.input("a.png", [1, 2, 3, 255]);
    let rows: String =
        (0..count).map(|n| format!("{}\n", json!({ "image": input, "label.n": n.to_string() }))).collect();
    fs::write(world.place.path("many.jsonl"), rows).unwrap();
    let output = world.output("many");
    let args = ["submit", "composite", "--from", "many.jsonl", "--batch", batch, "--output", &output, "--json"];
    assert_eq!(world.json(&args).await["submitted"], count);
}

async fn a_dry_run_counts_exactly_and_deletes_nothing(world: World) {
    waiting(&world, "many", 1234).await;
    assert_eq!(world.json(&["jobs", "cancel", "--batch", "many", "--json"]).await["cancelled"], 1234);
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    let prune = async |more: &[&str]| world.run(&[&["jobs", "prune", "--older-than", "0s"], more].concat()).await;
    let ran = prune(&["--dry-run"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "1234 jobs would be deleted\n"), "{ran:?}");
    let none = prune(&["--dry-run", "--state", "failed"]).await;
    assert_eq!(none.stdout, "0 jobs would be deleted\n");
    assert!(none.stderr.contains("no failed job ended before "), "{none:?}");
    let typo = prune(&["--batch", "mny"]).await;
    assert!(typo.code == Some(0) && typo.stderr.contains("no job is in the batch `mny`"), "{typo:?}");
    assert_eq!(world.json(&["jobs", "prune", "--older-than", "1h", "--dry-run", "--json"]).await["jobs"], 0);
    let wrong = prune(&["--state", "running"]).await;
    assert!(wrong.code == Some(2) && wrong.stderr.contains("--state: running jobs are not pruned"), "{wrong:?}");
    let far = world.run(&["jobs", "prune", "--older-than", "99999999999999d"]).await;
    assert!(far.code == Some(2) && far.stderr.contains("--older-than"), "{far:?}");
    let ran = prune(&[]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "deleted 1234 jobs and 0 files\n"), "{ran:?}");
    assert_eq!(world.json(&["jobs", "list", "--json"]).await["jobs"], json!([]));
}

async fn a_batch_is_taken_back_and_says_what_it_left(world: World) {
    waiting(&world, "big", 1100).await;
    let retry = async |more: &[&str]| world.run(&[&["jobs", "retry", "--batch", "big"], more].concat()).await;
    assert_eq!(retry(&[]).await.stdout, "0 jobs queued again; 1100 are queued already\n");
    assert_eq!(world.run(&["jobs", "cancel", "--batch", "big"]).await.stdout, "1100 jobs cancelled or asked to stop\n");
    let again = world.run(&["jobs", "cancel", "--batch", "big"]).await.stdout;
    assert_eq!(again, "nothing to cancel in batch big: all 1100 jobs have ended\n");
    let nothing = retry(&[]).await;
    let why = "0 jobs queued again; 1100 are cancelled (add --state cancelled)\n";
    assert_eq!((nothing.code, nothing.stdout.as_str()), (Some(0), why), "{nothing:?}");
    let codes = retry(&["--state", "cancelled", "--code", "storage"]).await.stdout;
    assert_eq!(codes, "0 jobs queued again; 1100 are cancelled (1100 with --code cancelled)\n");
    for (args, wanted) in [
        (&["--state", "succeeded"] as &[&str], "--state: succeeded jobs are not retried"),
        (&["--state", "lost"], "is not a job state"),
        (&["--code", "storage", "--code", "nosuch"], "--code: `nosuch` is no code of an error; the codes are "),
    ] {
        let wrong = retry(args).await;
        assert!(wrong.code == Some(2) && wrong.stderr.contains(wanted), "{wrong:?}");
    }
    let alone = world.run(&["jobs", "retry", "018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21", "--state", "cancelled"]).await;
    assert!(alone.code == Some(2) && alone.stderr.contains("--batch"), "{alone:?}");
    let unknown = world.run(&["jobs", "retry", "--batch", "none"]).await;
    assert!(unknown.code == Some(2) && unknown.stderr.contains("there is no batch `none`"), "{unknown:?}");

    let again = world.json(&["jobs", "retry", "--batch", "big", "--state", "cancelled", "--json"]).await;
    assert_eq!(again["queued"].as_array().unwrap().len(), 1100);
    let listed =
        world.json(&["jobs", "list", "--batch", "big", "--state", "queued", "--limit", "1000", "--json"]).await;
    assert_eq!(listed["jobs"].as_array().unwrap().len(), 1000);
}

/// A laptop whose clock is a day ahead of the server's.
#[tokio::test(flavor = "multi_thread")]
async fn the_clock_of_this_machine_does_not_decide_what_is_old() {
    let world = World::service().await;
    world.json(&["migrate", "--json"]).await;
    let mut rows = PgConnection::connect(&world.service.as_ref().unwrap().schema.url).await.unwrap();
    sqlx::raw_sql(
        "CREATE OR REPLACE FUNCTION acetate_now() RETURNS BIGINT LANGUAGE SQL STABLE PARALLEL SAFE
             AS 'SELECT (EXTRACT(EPOCH FROM statement_timestamp()) * 1000)::BIGINT - 86400000'",
    )
    .execute(&mut rows)
    .await
    .unwrap();
    rows.close().await.unwrap();
    waiting(&world, "fresh", 3).await;
    assert_eq!(world.json(&["jobs", "cancel", "--batch", "fresh", "--json"]).await["cancelled"], 3);
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    let prune = async |age: &str| world.json(&["jobs", "prune", "--dry-run", "--json", "--older-than", age]).await;
    assert_eq!(prune("12h").await["jobs"], 0, "they ended just now");
    assert_eq!(prune("0s").await["jobs"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_message_is_a_submission_and_a_bad_one_is_put_aside() {
    let world = World::service().await;
    let queue = world.service.as_ref().unwrap().vhost.ready().await;
    let mut failures = queue.events("job.failed").await.unwrap();
    let worker = world.worker();
    worker.until_said("ready for jobs").await;
    let (connection, channel) = world.service.as_ref().unwrap().vhost.foreign().await;
    let (input, output) = (world.input("a.png", [1, 2, 3, 255]), world.output("raw"));
    let id = acetate::job::JobId::new().to_string();
    let message = json!({
        "version": 1, "id": id, "kind": "composite", "input": {"image": input}, "output": {"prefix": output}
    });
    let mut headers = FieldTable::default();
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    headers.insert("traceparent".into(), AMQPValue::LongString(parent.into()));
    let properties = BasicProperties::default().with_headers(headers);
    let publish = |body: String| {
        let (channel, properties) = (channel.clone(), properties.clone());
        async move {
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            channel
                .basic_publish("acetate.jobs".into(), "composite".into(), options, body.as_bytes(), properties)
                .await
                .unwrap();
        }
    };
    publish(message.to_string()).await;
    world.until(&id, &["succeeded"]).await;
    world.check_result(&id).await;
    assert!(worker.log().contains(trace), "the trace goes from the message into the log: {}", worker.log());

    // The same id with another body, a version that never was, and a body that is not JSON.
    let bad = acetate::job::JobId::new().to_string();
    let other = json!({ "version": 1, "id": id, "kind": "composite", "input": {"images": [input, input]}, "output": {"prefix": output} });
    let version = json!({ "version": 0, "id": bad, "kind": "composite", "input": {"image": input}, "output": {"prefix": output} });
    for body in
        [other.to_string(), version.to_string(), "{nonsense".to_owned(), format!("\"{}\"", "x".repeat(10 << 20))]
    {
        publish(body).await;
    }
    let mut reasons = Vec::new();
    for _ in 0..4 {
        let letter = until(|| async {
            let taken = channel.basic_get("acetate.dead-letters".into(), BasicGetOptions { no_ack: true }).await;
            taken.unwrap().ok_or_else(|| worker.log())
        });
        let headers = letter.await.delivery.properties.headers().clone().unwrap();
        let Some(AMQPValue::LongString(reason)) = headers.inner().get("x-acetate-reason") else {
            panic!("{headers:?}")
        };
        reasons.push(reason.to_string());
    }
    let reasons = reasons.join("\n");
    for wanted in ["is already a composite job", "0 is not known", "key must be a string", "at most 262144 are allowed"]
    {
        assert!(reasons.contains(wanted), "{wanted}: {reasons}");
    }
    let shown = world.json(&["jobs", "show", &bad, "--json"]).await;
    assert_eq!((&shown["state"], &shown["error"]["code"]), (&json!("failed"), &json!("invalid_request")), "{shown:#}");
    for args in [["jobs", "watch", &bad], ["jobs", "cancel", &bad], ["jobs", "retry", &bad], ["jobs", "history", &bad]]
    {
        let ran = world.run(&args).await;
        assert_eq!(ran.code, Some(2), "{args:?}: {ran:?}");
        for wanted in ["its message was refused at", "0 is not known", "acetate dead-letters list"] {
            assert!(ran.stderr.contains(wanted), "{args:?}: {ran:?}");
        }
    }
    let told = tokio::time::timeout(TIMEOUT, failures.next()).await.expect("whoever sent it hears of it").unwrap();
    let told: Value = serde_json::from_slice(&told.body).unwrap();
    assert_eq!((&told["id"], &told["error"]["code"]), (&json!(bad), &json!("invalid_request")), "{told:#}");
    assert_eq!(world.show(&id).await["state"], "succeeded", "the row of the first is left alone");
    connection.close(0, "".into()).await.unwrap();
}
