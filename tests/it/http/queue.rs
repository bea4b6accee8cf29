//! `/v1/queue`, and jobs with a time.

use serde_json::json;

use crate::{
    common::TestDir,
    http::client::{get, upload},
    http::server::{Server, picture},
};

#[test]
fn the_queue_is_paused_shown_and_resumed() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let paused = server.post("/v1/queue/pause", &json!({"kind": "composite"})).ok(200).json();
    assert_eq!((&paused["paused"][0]["scope"], &paused["paused"][0]["name"]), (&json!("kind"), &json!("composite")));
    let typo = server.post("/v1/queue/pause", &json!({"batch": "b1"})).ok(200).json();
    let remarks: Vec<_> = typo["paused"].as_array().unwrap().iter().map(|pause| &pause["remark"]).collect();
    assert_eq!(remarks, [&json!("no job is in this batch yet"), &json!(null)], "{typo}");
    let id = server.submit(&[("kind", "composite")], &picture(4, 4, [1, 2, 3, 255]));
    // A job that came later has run by then.
    let later = [("kind", "decompose"), ("layers", "2"), ("steps", "1"), ("prompt", "x")];
    server.succeeded(&server.submit(&later, &picture(64, 64, [9; 4])));
    assert_eq!(server.job(&id)["state"], "queued");
    let shown = server.get("/v1/queue").ok(200).json();
    assert_eq!((&shown["workers"], shown["paused"].as_array().unwrap().len()), (&json!(1), 2), "{shown}");
    let kind = shown["kinds"].as_array().unwrap().iter().find(|kind| kind["kind"] == "composite").unwrap();
    assert_eq!((&kind["paused"], &kind["waiting"], &kind["running"]), (&json!(true), &json!(1), &json!(0)));
    server.post("/v1/queue/resume", &json!({"kind": "composite"})).ok(200);
    server.succeeded(&id);
    let all = server.post("/v1/queue/pause", &json!({})).ok(200).json();
    assert!(all["kinds"].as_array().unwrap().iter().all(|kind| kind["paused"] == true), "{all}");
    server.post("/v1/queue/pause", &json!({"kind": "composite", "batch": "b1"})).problem(400, "bad_request");
    let wrong = server.post("/v1/queue/pause", &json!({"batch": "a b"})).problem(422, "invalid_request").to_string();
    assert!(wrong.contains("batch: `a b` is not the name of a batch") && !wrong.contains("batch: batch:"), "{wrong}");
    server.get("/v1/audit?action=pause").problem(400, "bad_request");
    server.get("/v1/audit?action=paused").ok(200);
    let wrong = server.get("/v1/audit?batch=a%20b").problem(400, "bad_request").to_string();
    assert!(wrong.contains("`a b` is not the name of a batch") && !wrong.contains("batch: batch:"), "{wrong}");
    server.post("/v1/queue/pause", &json!({"kinds": "composite"})).problem(422, "invalid_request");
}

#[test]
fn a_paused_kind_shows_in_the_metrics() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    server.post("/v1/queue/pause", &json!({"kind": "edit"})).ok(200);
    crate::common::blocking_until(|| {
        let text = String::from_utf8(get(&server.url("/metrics")).body).unwrap();
        let is = |kind: &str, value: u8| text.contains(&format!("acetate_queue_paused{{kind=\"{kind}\"}} {value}"));
        if is("edit", 1) && is("composite", 0) { Ok(()) } else { Err(text) }
    });
}

#[test]
fn a_job_may_have_a_time() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let pixel = picture(4, 4, [1, 2, 3, 255]);
    let in_a_month = jiff::Timestamp::now().as_second() + 30 * 24 * 3600;
    let at = &jiff::Timestamp::from_second(in_a_month).unwrap().to_string();
    let id = server.submit(&[("kind", "composite"), ("not_before", at)], &pixel);
    let name = server.job(&id)["input"][0]["upload"].clone();
    let body = |at: serde_json::Value| json!({"kind": "composite", "input": {"image": {"upload": name}}, "labels": {"n": "2"}, "not_before": at});
    let second = server.post("/v1/jobs", &body(json!(at))).ok(202).json();
    assert_eq!(second["not_before"], *at);
    let now = server.post("/v1/jobs", &body(json!(null))).ok(202).json();
    server.succeeded(now["id"].as_str().unwrap());
    assert_eq!(server.job(&id)["state"], "queued");
    assert_eq!(server.act(&id, "cancel").ok(200).json()["state"], "cancelled");
    server.act(&id, "retry").ok(200);
    server.succeeded(&id);
    for wrong in [json!("tomorrow"), json!("+2h"), json!(17)] {
        let problem = server.post("/v1/jobs", &body(wrong)).problem(422, "invalid_request");
        assert!(problem["detail"].as_str().unwrap().contains("2026-12-01T18:00:00Z"), "{problem}");
    }
    let wrong =
        upload(&server.url("/v1/jobs"), &[("kind", "composite"), ("not_before", "soon")], &[("image", "x", &pixel)]);
    wrong.problem(422, "invalid_request");
}
