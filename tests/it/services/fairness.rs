//! Turns, pauses and schedules, with worker processes.

use std::{fmt::Write, time::Duration};

use acetate::{
    database::{DatabaseUrl, JobStore, OutboxMode},
    job::JobId,
};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    common::until,
    services::world::{World, in_both_worlds},
};

in_both_worlds! {
    one_job_behind_a_batch_of_5000_starts_within_two_jobs_per_slot,
    a_paused_queue_starts_nothing_until_it_is_resumed,
    draining_waits_for_running_jobs_and_stays_paused,
    draining_tells_of_jobs_whose_workers_died,
    a_job_starts_not_before_its_time,
    times_that_make_no_sense_are_refused,
    a_tenant_runs_one_job_at_a_time,
}

const SLOTS: u32 = 2;

async fn rows(world: &World) -> JobStore {
    let place = match &world.service {
        Some(service) => DatabaseUrl::parse("test", &service.schema.url).unwrap(),
        None => DatabaseUrl::Sqlite(world.place.path("data/acetate.db")),
    };
    let mode = if world.service.is_some() { OutboxMode::Service } else { OutboxMode::Embedded };
    JobStore::open(&place, mode).await.unwrap()
}

/// A manifest of different jobs with the same picture.
fn manifest(world: &World, name: &str, rows: usize) -> String {
    let input = world.input("one.png", [200, 0, 0, 255]);
    let mut text = String::new();
    for number in 0..rows {
        let row = json!({ "image": input, "labels": { "number": number.to_string() } });
        writeln!(text, "{row}").unwrap();
    }
    let path = world.place.path(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

async fn submit_batch(world: &World, batch: &str, rows: usize) {
    let source = manifest(world, &format!("{batch}.jsonl"), rows);
    let output = world.output(batch);
    let ran = world.run(&["submit", "composite", "--from", &source, "--output", &output, "--batch", batch]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

async fn composite(world: &World, more: &[&str]) -> String {
    let (input, output) = (world.input("one.png", [200, 0, 0, 255]), world.output("single"));
    world.submit(&[&["composite", "--input", &input, "--output", &output], more].concat()).await
}

async fn one_job_behind_a_batch_of_5000_starts_within_two_jobs_per_slot(world: World) {
    let slots = [("ACETATE__WORKER__SLOTS", "2")];
    // Without a broker, there is one worker.
    let workers: Vec<_> = (0..if world.service.is_some() { 2 } else { 1 }).map(|_| world.worker_with(&slots)).collect();
    for worker in &workers {
        worker.until_said("ready for jobs").await;
    }
    submit_batch(&world, "big", 5000).await;
    let id = composite(&world, &[]).await;
    world.until(&id, &["succeeded", "failed"]).await;
    let jobs = rows(&world).await;
    let single = jobs.get(id.parse().unwrap()).await.unwrap().unwrap();
    let (from, to) = (single.created_at, single.started_at.unwrap());
    let big = "big".parse().unwrap();
    let (mut before, mut after, mut last) = (0, 0, None);
    loop {
        let page = jobs.batch_rows(&big, last, 1000).await.unwrap();
        let Some(row) = page.last() else { break };
        last = Some(row.id());
        before += page.iter().filter(|row| row.started_at.is_some_and(|at| at >= from && at < to)).count();
        after += page.iter().filter(|row| row.started_at.is_none()).count();
    }
    let most = 2 * SLOTS as usize * workers.len();
    println!("{before} of 5000 jobs started before the single one, of at most {most}; {after} were still waiting");
    assert!(after > 1000, "the batch was done before: {after}");
    // One more may start while the job is being accepted.
    assert!(before <= most + 1, "{before} jobs came before it");
    assert_eq!(jobs.cancel_batch(&big).await.unwrap() > 0, after > 0);
}

async fn a_paused_queue_starts_nothing_until_it_is_resumed(world: World) {
    let worker = world.worker();
    worker.until_said("ready for jobs").await;
    let paused = world.run(&["queue", "pause", "composite"]).await;
    assert!(paused.code == Some(0) && paused.stdout.contains("composite: paused"), "{paused:?}");
    let again = world.run(&["queue", "pause", "composite"]).await;
    assert!(again.stdout.contains("already paused; resume with: acetate queue resume composite"), "{again:?}");
    let id = composite(&world, &[]).await;
    let listed = world.run(&["jobs", "list"]).await;
    assert!(listed.stdout.contains("paused"), "{listed:?}");
    let doctor = world.run(&["doctor"]).await;
    assert!(doctor.stdout.contains("paused: composite"), "{doctor:?}");
    let http = worker.http().await;
    let answer = tokio::task::spawn_blocking(move || crate::http::client::get(&format!("{http}/readyz")).status);
    assert_eq!(answer.await.unwrap(), 200, "a paused worker is a healthy one");
    // A job that came later has run by then.
    let (input, output) = (world.input("one.png", [200, 0, 0, 255]), world.output("later"));
    let tiny = ["--resolution", "128", "--prompt", "a boat", "--layers", "2", "--steps", "1"];
    let later = world.submit(&[&["decompose", "--input", &input, "--output", &output], &tiny[..]].concat()).await;
    assert_eq!(world.until(&later, &["succeeded", "failed"]).await["state"], "succeeded");
    let job = world.show(&id).await;
    assert_eq!((&job["state"], &job["attempts"]), (&json!("queued"), &json!(0)), "{job:#}");
    let status = world.json(&["queue", "status", "--json"]).await;
    assert_eq!(status["paused"][0]["name"], "composite", "{status:#}");
    let kind = status["kinds"].as_array().unwrap().iter().find(|kind| kind["kind"] == "composite").unwrap();
    assert_eq!((&kind["paused"], &kind["waiting"]), (&json!(true), &json!(1)), "{status:#}");
    let text = world.run(&["queue", "status"]).await.stdout;
    assert!(text.contains("1 worker with 3 slots") && text.contains("paused: kind composite"), "{text}");
    let typo = world.run(&["queue", "pause", "--batch", "other"]).await;
    assert!(typo.stdout.contains("batch other: paused (no job is in this batch yet); resume"), "{typo:?}");
    let resumed = world.run(&["queue", "resume", "composite"]).await;
    assert!(resumed.stderr.contains("still paused: batch other (acetate queue resume --batch other)"), "{resumed:?}");
    assert_eq!(world.until(&id, &["succeeded", "failed"]).await["attempts"], 1);
}

async fn draining_tells_of_jobs_whose_workers_died(world: World) {
    let mut worker = world.worker_with(&[("ACETATE__WORKER__FAILPOINT", "fetched=pause:60")]);
    let id = composite(&world, &[]).await;
    worker.until_said("stands still").await;
    worker.signal("-KILL");
    worker.ended().await;
    // Until its lease of two seconds ends, it may be alive.
    let typo = world.run(&["queue", "drain", "--batch", "other"]).await;
    assert!(typo.code == Some(2) && typo.stderr.contains("there is no batch `other`"), "{typo:?}");
    assert_eq!(world.json(&["queue", "status", "--json"]).await["paused"], json!([]), "no pause is left");
    let drained = world.run(&["queue", "drain"]).await;
    assert_eq!(drained.code, Some(0), "{drained:?}");
    let text = "all kinds: drained, no live worker runs a job; 1 job of workers that died will run again; acetate queue resume";
    assert!(drained.stdout.contains(text), "{drained:?}");
    let drained = world.json(&["queue", "drain", "--json"]).await;
    assert_eq!((&drained["running"], &drained["abandoned"]), (&json!(0), &json!(1)), "{drained:#}");
    let worker = world.worker();
    worker.until_said("ready for jobs").await;
    assert_eq!(world.run(&["queue", "resume"]).await.code, Some(0));
    assert_eq!(world.until(&id, &["succeeded", "failed"]).await["attempts"], 2);
}

async fn draining_waits_for_running_jobs_and_stays_paused(world: World) {
    let worker = world.worker_with(&[("ACETATE__WORKER__FAILPOINT", "fetched=pause:2")]);
    let first = composite(&world, &[]).await;
    worker.until_said("stands still").await;
    let drained = world.run(&["queue", "drain"]).await;
    assert_eq!(drained.code, Some(0), "{drained:?}");
    assert!(drained.stderr.contains("waiting for 1 running job to end"), "{drained:?}");
    assert!(drained.stdout.contains("drained, no job is running; acetate queue resume"), "{drained:?}");
    assert_eq!(world.show(&first).await["state"], "succeeded");
    let second = composite(&world, &["--label", "n=2"]).await;
    // All kinds are paused, so no other job can show that the worker has looked. It does twice a second.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.show(&second).await["state"], "queued");
    assert_eq!(world.run(&["queue", "resume"]).await.stdout, "all kinds: resumed\n");
    assert_eq!(world.until(&second, &["succeeded", "failed"]).await["state"], "succeeded");
}

async fn a_job_starts_not_before_its_time(world: World) {
    let _worker = world.worker();
    let id = composite(&world, &["--at", "+3s"]).await;
    let job = world.show(&id).await;
    let at: Timestamp = job["not_before"].as_str().unwrap().parse().unwrap();
    assert_eq!(job["state"], "queued");
    assert!(world.run(&["jobs", "list"]).await.stdout.contains("not before "));
    // In the past: at once.
    let past = composite(&world, &["--label", "n=2", "--at", "2020-01-01T00:00:00Z"]).await;
    assert_eq!(world.until(&past, &["succeeded", "failed"]).await["state"], "succeeded");
    world.until(&id, &["succeeded", "failed"]).await;
    let row = rows(&world).await.get(id.parse().unwrap()).await.unwrap().unwrap();
    assert!(row.started_at.unwrap() >= at, "{row:?}");
    assert_eq!(row.attempts, 1);

    // Cancelled before its time.
    let far = composite(&world, &["--label", "n=3", "--at", "+2h"]).await;
    assert_eq!(world.run(&["jobs", "cancel", &far]).await.code, Some(0));
    assert_eq!(world.show(&far).await["state"], "cancelled");
}

async fn times_that_make_no_sense_are_refused(world: World) {
    let (input, output) = (world.input("one.png", [200, 0, 0, 255]), world.output("single"));
    for (at, reason) in [
        ("tomorrow", "`tomorrow` is not a time; give RFC 3339"),
        ("2026-12-01T18:00:00", "has no offset from UTC"),
        ("+2", "has no unit"),
        ("+9999999d", "more than ten years"),
    ] {
        let ran = world.run(&["submit", "composite", "--input", &input, "--output", &output, "--at", at]).await;
        assert!(ran.code == Some(2) && ran.stderr.contains(reason), "{at}: {ran:?}");
    }
}

async fn a_tenant_runs_one_job_at_a_time(world: World) {
    let settings = [("ACETATE__QUEUE__TENANT_LIMITS", "acme=1"), ("ACETATE__WORKER__SLOTS", "4")];
    let _worker = world.worker_with(&settings);
    let mut ids = Vec::new();
    for number in 0..6 {
        ids.push(composite(&world, &["--label", "tenant=acme", "--label", &format!("n={number}")]).await);
    }
    for id in &ids {
        assert_eq!(world.until(id, &["succeeded", "failed"]).await["state"], "succeeded");
    }
    let jobs = rows(&world).await;
    let mut times = Vec::new();
    for id in &ids {
        let row = jobs.get(id.parse().unwrap()).await.unwrap().unwrap();
        times.push((row.started_at.unwrap(), row.finished_at.unwrap()));
    }
    times.sort();
    for pair in times.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "two ran at a time: {times:?}");
    }
}

/// A message of another client with a time gets a row, and is dispatched then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_may_say_not_before() {
    let world = World::service().await;
    let worker = world.worker();
    worker.until_said("ready for jobs").await;
    let (id, input) = (JobId::new().to_string(), world.input("one.png", [1, 2, 3, 255]));
    let at = Timestamp::now() + Duration::from_secs(3);
    let message = |id: &str, at: Value| {
        json!({
            "version": 1, "id": id, "kind": "composite", "input": {"image": input},
            "output": {"prefix": world.output("raw")}, "not_before": at,
        })
    };
    let vhost = &world.service.as_ref().unwrap().vhost;
    let (connection, channel) = vhost.foreign().await;
    let publish = async |body: Value| {
        let (options, properties) = Default::default();
        let body = body.to_string();
        let sent =
            channel.basic_publish("acetate.jobs".into(), "composite".into(), options, body.as_bytes(), properties);
        sent.await.unwrap();
    };
    publish(message(&id, json!(at.to_string()))).await;
    world.once(&id, |row| row.not_before().is_some()).await;
    vhost.until_left("acetate.composite", 0).await;
    until(|| async {
        let acked = world.count("SELECT count(*) FROM outbox WHERE topic = 'dispatch' AND taken_until IS NULL").await;
        if acked == 1 { Ok(()) } else { Err("its dispatch does not wait in the database") }
    })
    .await;
    world.until(&id, &["succeeded", "failed"]).await;
    let row = rows(&world).await.get(id.parse().unwrap()).await.unwrap().unwrap();
    assert!(row.started_at.unwrap() >= at && row.attempts == 1, "{row:?}");

    let wrong = JobId::new().to_string();
    publish(message(&wrong, json!("+2h"))).await;
    let job = world.until(&wrong, &["failed"]).await;
    assert!(job["error"]["message"].as_str().unwrap().contains("not_before: `+2h` is not a time"), "{job:#}");
    connection.close(0, "".into()).await.unwrap();
}

/// What is in the broker when the queue is paused goes back to the database, and does not go round in circles.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_paused_batch_go_back_to_the_database() {
    let world = World::service().await;
    submit_batch(&world, "held", 10).await;
    let vhost = &world.service.as_ref().unwrap().vhost;
    vhost.until_left("acetate.composite", 10).await;
    assert_eq!(world.run(&["queue", "pause", "--batch", "held"]).await.code, Some(0));
    let worker = world.worker();
    let alone = composite(&world, &[]).await;
    assert_eq!(world.until(&alone, &["succeeded", "failed"]).await["state"], "succeeded");
    vhost.until_left("acetate.composite", 0).await;
    let waiting = "SELECT count(*) FROM outbox WHERE topic = 'dispatch' AND taken_until IS NULL";
    until(|| async {
        let count = world.count(waiting).await;
        if count == 10 { Ok(()) } else { Err(format!("{count} dispatches wait")) }
    })
    .await;
    let ids = "SELECT MAX(id) FROM outbox WHERE topic = 'dispatch' AND batch = 'held'";
    let before = world.count(ids).await;
    let another = composite(&world, &["--label", "n=2"]).await;
    assert_eq!(world.until(&another, &["succeeded", "failed"]).await["state"], "succeeded");
    assert_eq!(world.count(ids).await, before, "they are written again and again: {}", worker.log());
    assert_eq!(world.count("SELECT count(*) FROM jobs WHERE attempts > 0").await, 2);
    assert_eq!(world.run(&["queue", "resume", "--batch", "held"]).await.code, Some(0));
    until(|| async {
        let left = world.count("SELECT count(*) FROM jobs WHERE state <> 'succeeded'").await;
        if left == 0 { Ok(()) } else { Err(format!("{left} jobs are left")) }
    })
    .await;
    assert_eq!(world.count("SELECT SUM(attempts)::BIGINT FROM jobs").await, 12);
}
