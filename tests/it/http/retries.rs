//! What is left when the jobs of a batch are retried.

use serde_json::json;

use crate::{
    common::TestDir,
    http::{
        client::{post, send},
        server::{LONG, Server, picture},
    },
};

#[test]
fn what_was_not_retried_is_counted_and_unknown_codes_are_refused() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let id = server.submit(&[&LONG[..], &[("batch", "b1")]].concat(), &picture(64, 48, [9, 8, 7, 255]));
    send("POST", &server.url("/v1/batches/b1/cancel"), &[], &[]).ok(200);
    server.wait(&id, |job| job["state"] == "cancelled");
    let retry = server.url("/v1/batches/b1/retry");
    for body in [json!({}), json!({"state": ["cancelled"], "code": ["storage"]})] {
        let answer = post(&retry, &body).ok(200).json();
        assert_eq!((&answer["retried"], &answer["left"]), (&json!(0), &json!({"cancelled": 1})), "{body}");
    }
    let wrong = post(&retry, &json!({"code": ["nosuch"]})).problem(422, "invalid_request");
    assert!(wrong["field"] == "code" && wrong["detail"].as_str().unwrap().contains("no code of an error"), "{wrong}");
    assert_eq!(post(&retry, &json!({"state": ["cancelled"]})).ok(200).json()["retried"], 1);
}
