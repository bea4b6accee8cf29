//! The Qwen-Image web server's endpoints.

use std::{io::Write, net::TcpStream};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::{
    common::{TestDir, blocking_until},
    http::client::{post, send},
    http::server::{Server, picture, pixels},
};

fn data_url(png: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(png))
}

fn decoded(url: &serde_json::Value) -> image::RgbaImage {
    pixels(&STANDARD.decode(url.as_str().unwrap().strip_prefix("data:image/png;base64,").unwrap()).unwrap())
}

#[test]
fn pictures_are_taken_apart_and_edited_while_somebody_waits() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let scene = data_url(&picture(64, 48, [200, 80, 40, 255]));
    let body = json!({"image": scene, "prompt": "a house", "num_layers": 2, "steps": 2, "seed": 1});
    let apart = server.post("/api/qwen-image/decompose", &body).ok(200).json();
    let layers = apart["layers"].as_array().unwrap();
    assert_eq!(layers.iter().map(|layer| layer["layer"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    let layer = decoded(&layers[1]["image"]);
    assert_eq!(server.job(apart["job"].as_str().unwrap())["priority"], 5);
    let headers = [("content-type", "application/json"), ("accept", "application/zip")];
    let zip = send("POST", &server.url("/api/qwen-image/decompose"), &headers, body.to_string().as_bytes()).ok(200);
    assert_eq!(&zip.body[..2], b"PK");

    let body = json!({"layer_image": layers[1]["image"], "instruction": "make it blue", "steps": 2, "seed": 1});
    let png = server.post("/api/qwen-image/edit-layer", &body).ok(200);
    assert_eq!(png.header("content-type"), "image/png");
    let edited = pixels(&png.body);
    assert!(edited.pixels().zip(layer.pixels()).all(|(edited, layer)| edited[3] == layer[3]), "alpha has changed");
    let headers = [("content-type", "application/json"), ("accept", "application/json")];
    let json =
        send("POST", &server.url("/api/qwen-image/edit-layer"), &headers, body.to_string().as_bytes()).ok(200).json();
    assert_eq!(decoded(&json["image"]), edited);

    let config = server.get("/api/qwen-image/config").ok(200).json();
    assert_eq!((&config["layer_num"], &config["steps"]), (&json!(4), &json!(50)));
    assert_eq!(server.get("/api/qwen-image/status").ok(200).json()["loaded"], true);
    assert_eq!(server.get("/api/qwen-image/edit-status").ok(200).json()["edit_model_loaded"], true);
}

#[test]
fn what_cannot_be_done_is_said_and_a_failed_job_is_named() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let ask = |body: serde_json::Value| post(&server.url("/api/qwen-image/edit-layer"), &body);
    let scene = data_url(&picture(8, 8, [9; 4]));
    ask(json!({"image": "data:text/plain,hello", "instruction": "x"})).problem(422, "invalid_request");
    ask(json!({"image": "%%%", "instruction": "x"})).problem(422, "invalid_request");
    ask(json!({"image": data_url(b"not a picture"), "instruction": "x"})).problem(422, "invalid_image");
    ask(json!({"image": scene, "instruction": " "})).problem(422, "invalid_request");
    ask(json!({"image": scene})).problem(422, "invalid_request");
    ask(json!({"image": scene, "instruction": "x", "steps": 0})).problem(422, "invalid_request");

    // It starts like a picture but is not one: it is accepted, and its job fails.
    let mut broken = picture(64, 64, [9, 8, 7, 255]);
    let inside = broken.len() - 24;
    broken[inside] ^= 0xff;
    let problem = ask(json!({"image": data_url(&broken), "instruction": "x"})).problem(422, "invalid_image");
    let job = server.job(problem["job"].as_str().unwrap());
    assert_eq!(job["state"], "failed");
}

#[test]
fn whoever_hangs_up_cancels() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let body = json!({"image": data_url(&picture(64, 48, [9, 8, 7, 255])), "prompt": "x", "layers": 2, "steps": 1000})
        .to_string();
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let head = format!(
        "POST /api/qwen-image/decompose HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let id = blocking_until(|| {
        let jobs = server.get("/v1/jobs").json();
        jobs["jobs"][0]["id"].as_str().map(str::to_owned).ok_or_else(|| server.log())
    });
    server.wait(&id, |job| job["progress"]["stage"] == "denoise");
    drop(stream);
    assert_eq!(server.ended(&id)["state"], "cancelled");
    assert!(server.log().contains("the client does not wait for it"), "{}", server.log());
}
