//! The API server of a service: rows in Postgres, messages through RabbitMQ, pictures in S3, separate workers.

use serde_json::json;

use crate::{
    common::TIMEOUT,
    http::client::{Events, upload},
    http::server::{Server, picture, pixels},
    http::webhooks::{SECRET, receiver},
    services::world::World,
};

const QUICK: [(&str, &str); 4] = [("prompt", "a house"), ("layers", "2"), ("steps", "2"), ("seed", "1")];

fn front(world: &World, flags: &[&str], settings: &[(&str, &str)]) -> Server {
    let mut command = world.command(&[&["serve"], flags].concat());
    command.envs(settings.iter().copied());
    Server::of(command)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_job_goes_through_the_service() {
    let world = World::service().await;
    let worker = world.worker();
    let (port, calls) = receiver(&[]);
    let (allow, hook) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{port}/hook"));
    let settings = [("ACETATE__HTTP__WEBHOOK_SECRET", SECRET), ("ACETATE__HTTP__WEBHOOK_ALLOW", allow.as_str())];
    tokio::task::block_in_place(|| {
        let server = front(&world, &[], &settings);
        let config = server.get("/v1/config").json();
        assert_eq!((&config["mode"], &config["works"]), (&json!("service"), &json!(false)));
        assert!(server.get("/v1/models").json()["decompose"]["loaded"].is_null());
        let scene = picture(64, 48, [200, 80, 40, 255]);
        let id = server.submit(&[&QUICK[..], &[("webhook", hook.as_str())]].concat(), &scene);
        let mut stream = Events::open(&server.address, &format!("/v1/jobs/{id}/events"), &[]);
        assert_eq!(stream.rest().last().unwrap().data["state"], "succeeded", "{}", worker.log());
        let layer = pixels(&server.get(&format!("/v1/jobs/{id}/layers/1.png")).ok(200).body);
        let edit = crate::http::server::edit(json!({"job": id, "layer": 1}));
        let edit = server.post("/v1/jobs", &edit).ok(202).json()["id"].as_str().unwrap().to_owned();
        server.succeeded(&edit);
        let edited = pixels(&server.get(&format!("/v1/jobs/{edit}/files/edited.png")).ok(200).body);
        assert_eq!(edited.dimensions(), layer.dimensions());
        server.get(&format!("/v1/jobs/{id}/export.ora")).ok(200);
        server.get(&format!("/v1/jobs/{id}/thumbnails/input-0.png")).ok(200);
        let call = calls.recv_timeout(TIMEOUT).unwrap();
        assert!(call.is_signed() && call.json()["id"] == json!(id));
        assert_eq!(server.get("/v1/jobs?q=house&label=a%3Db").json()["jobs"].as_array().unwrap().len(), 0);
        assert_eq!(server.get("/v1/jobs?q=HOUSE&state=succeeded").json()["jobs"].as_array().unwrap().len(), 1);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_front_without_workers_accepts_and_one_that_works_needs_none() {
    let world = World::service().await;
    tokio::task::block_in_place(|| {
        let pixel = picture(4, 4, [9, 8, 7, 255]);
        let server = front(&world, &[], &[]);
        assert!(server.get("/readyz").ok(200).json()["ready"] == true);
        let texts = [("kind", "composite"), ("batch", "b1"), ("label", "set=one")];
        let id = server.submit(&texts, &pixel);
        let cancelled =
            upload(&server.url("/v1/jobs"), &[("kind", "composite"), ("label", "n=2")], &[("image", "x", &pixel)]);
        let cancelled = cancelled.ok(202).json()["id"].as_str().unwrap().to_owned();
        assert_eq!(server.act(&cancelled, "cancel").ok(200).json()["state"], "cancelled");
        assert_eq!(server.get("/v1/batches").json()["batches"][0]["batch"], "b1");
        server.stop();
        let server = front(&world, &["--work", "true"], &[]);
        server.succeeded(&id);
        assert_eq!(server.job(&cancelled)["state"], "cancelled");
        let found = server.get("/v1/jobs?label=set%3Done").json();
        assert_eq!(found["jobs"][0]["id"], json!(id));
        assert_eq!(crate::http::client::send("DELETE", &server.url(&format!("/v1/jobs/{id}")), &[], &[]).status, 204);
    });
}
