//! The OpenAI API's image edits. tests/clients/generated.sh uses OpenAI's own client.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::{
    common::TestDir,
    http::client::{Answer, form, send, upload},
    http::server::{Server, picture, pixels},
};

const QUICK: [(&str, &str); 2] = [("prompt", "Make it green"), ("steps", "1")];

/// The error, which must have OpenAI's form.
#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str, param: Option<&str>) -> String {
    let body = answer.json();
    let error = &body["error"];
    assert_eq!((answer.status, &error["code"]), (status, &json!(code)), "{body}");
    assert_eq!(error["param"], json!(param), "{body}");
    assert_eq!(answer.header("content-type"), "application/json");
    error["message"].as_str().unwrap().to_owned()
}

#[test]
fn edits_are_made_while_the_client_waits() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let url = server.url("/v1/images/edits");
    let scene = picture(64, 48, [200, 80, 40, 128]);
    let answer = upload(
        &url,
        &[&QUICK[..], &[("n", "2"), ("user", "ann"), ("quality", "low")]].concat(),
        &[("image[]", "x.png", &scene)],
    );
    let answer = answer.ok(200).json();
    assert_eq!((&answer["size"], &answer["output_format"]), (&json!("64x48"), &json!("png")));
    let made: Vec<_> = answer["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| pixels(&STANDARD.decode(item["b64_json"].as_str().unwrap()).unwrap()))
        .collect();
    assert_eq!(made.len(), 2);
    assert!(made.iter().all(|image| image.dimensions() == (64, 48) && image.get_pixel(3, 3)[3] == 128));
    let job = server.job(answer["data"][0]["job"].as_str().unwrap());
    assert_eq!(
        (&job["priority"], &job["labels"]["user"], &job["params"]["preset"]),
        (&json!(5), &json!("ann"), &json!("fast"))
    );
    assert_eq!(job["params"]["steps"], 1, "a parameter wins over the preset");

    // By address, and larger.
    let texts = [&QUICK[..], &[("size", "128x96"), ("response_format", "url"), ("background", "opaque")]].concat();
    let answer = upload(&url, &texts, &[("image", "x.png", &scene)]).ok(200).json();
    let address = answer["data"][0]["url"].as_str().unwrap();
    let image = pixels(&crate::http::client::get(address).ok(200).body);
    assert_eq!((image.dimensions(), image.get_pixel(0, 0)[3]), ((128, 96), 255));
    assert_eq!(answer["background"], "opaque");

    // The same key is the same job.
    let (kind, body) = form(&QUICK, &[("image", "x.png", &scene)]);
    let keyed = || send("POST", &url, &[("content-type", &kind), ("idempotency-key", "k")], &body).ok(200).json();
    let first = keyed();
    let start = std::time::Instant::now();
    assert_eq!((0..3).map(|_| keyed()["data"][0].clone()).collect::<Vec<_>>(), vec![first["data"][0].clone(); 3]);
    // A job that has ended does not change any more, so there is nothing to wait for.
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

#[test]
fn transparent_pixels_of_the_mask_change() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let scene = picture(64, 48, [200, 80, 40, 255]);
    let mut mask = pixels(&scene);
    (0..48).flat_map(|y| (0..32).map(move |x| (x, y))).for_each(|(x, y)| mask.put_pixel(x, y, image::Rgba([0; 4])));
    let mut png = std::io::Cursor::new(Vec::new());
    mask.write_to(&mut png, image::ImageFormat::Png).unwrap();
    let files: [(&str, &str, &[u8]); 2] = [("image", "x.png", &scene), ("mask", "m.png", png.get_ref())];
    let answer = upload(&server.url("/v1/images/edits"), &QUICK, &files).ok(200).json();
    let made = pixels(&STANDARD.decode(answer["data"][0]["b64_json"].as_str().unwrap()).unwrap());
    let changed = |x: u32| (0..48).filter(|y| made.get_pixel(x, *y).0 != [200, 80, 40, 255]).count();
    assert!(changed(5) > 20, "{}", changed(5));
    assert_eq!((32..64).map(changed).sum::<usize>(), 0);
}

#[test]
fn errors_have_the_form_of_the_openai_api() {
    let place = TestDir::new();
    let token = "a-token-that-is-long-enough";
    let settings = [("ACETATE__HTTP__TOKEN", token), ("ACETATE__HTTP__MAX_UPLOAD_BYTES", "100000")];
    let server = Server::start(&place, &settings);
    let url = server.url("/v1/images/edits");
    let scene = picture(64, 48, [200, 80, 40, 255]);
    let ask = |texts: &[(&str, &str)], files: &[(&str, &str, &[u8])]| {
        let (kind, body) = form(texts, files);
        let bearer = format!("Bearer {token}");
        send("POST", &url, &[("content-type", &kind), ("authorization", &bearer)], &body)
    };
    let one: &[(&str, &str, &[u8])] = &[("image", "x.png", &scene)];
    let with = |name: &str, value: &str| ask(&[&QUICK[..], &[(name, value)]].concat(), one);
    let told = refused(&ask(&QUICK, &[one[0], ("mask", "m.png", &scene)]), 400, "invalid_request", Some("mask"));
    assert!(told.contains("has no transparent pixels"), "{told}");
    let hole = picture(64, 48, [0; 4]);
    let two = [one[0], ("mask", "m.png", &hole), ("mask", "m.png", &hole)];
    refused(&ask(&QUICK, &two), 400, "invalid_request", Some("mask"));
    for (name, value, code) in [
        ("stream", "true", "unsupported_parameter"),
        ("partial_images", "2", "unsupported_parameter"),
        ("output_format", "jpeg", "unsupported_parameter"),
        ("output_compression", "50", "unsupported_parameter"),
        ("svg[model]", "x", "unsupported_parameter"),
        ("paint", "x", "unknown_parameter"),
        ("n", "0", "invalid_request"),
        ("size", "0x0", "invalid_request"),
        ("size", "1024x1024", "invalid_request"),
        ("background", "transparent", "invalid_request"),
        ("quality", "best", "invalid_request"),
        ("response_format", "png", "invalid_request"),
        ("steps", "-1", "invalid_request"),
        ("cfg_scale", "1000", "invalid_request"),
        ("cfg_scale", "nan", "invalid_request"),
    ] {
        refused(&with(name, value), 400, code, Some(name));
    }
    refused(&ask(&[("prompt", "x")], &[]), 400, "invalid_request", Some("image"));
    refused(&ask(&[], one), 400, "invalid_request", Some("prompt"));
    refused(&ask(&[("prompt", " ")], one), 400, "invalid_request", Some("prompt"));
    refused(&ask(&QUICK, &[one[0]; 4]), 400, "invalid_request", Some("image"));
    refused(&ask(&QUICK, &[("image", "x.png", b"<html>")]), 400, "invalid_image", Some("image"));
    let told = refused(&ask(&QUICK, &[one[0], ("mask", "upload", b"<html>")]), 400, "invalid_image", Some("mask"));
    assert!(told.starts_with("mask: "), "{told}");
    // From every part of the server.
    refused(&upload(&url, &QUICK, one), 401, "invalid_api_key", None);
    refused(&ask(&QUICK, &[("image", "x.png", &[0; 200_000])]), 413, "too_large", None);
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    refused(
        &send("POST", &url, &[headers[0], ("content-type", "text/plain")], b"x"),
        415,
        "unsupported_media_type",
        Some("Content-Type"),
    );
    refused(&send("GET", &url, &headers, &[]), 405, "method_not_allowed", None);
    refused(&send("GET", &server.url("/v1/images/variations"), &headers, &[]), 404, "not_found", None);
    assert_eq!(server_jobs(&server, &headers), 0, "nothing was submitted");
}

fn server_jobs(server: &Server, headers: &[(&str, &str)]) -> usize {
    send("GET", &server.url("/v1/jobs"), headers, &[]).ok(200).json()["jobs"].as_array().unwrap().len()
}

#[test]
fn a_client_waits_for_a_limited_time() {
    let place = TestDir::new();
    let server = Server::start_with(&place, &["--work", "false"], &[("ACETATE__HTTP__WAIT_SECONDS", "0.3")]);
    let answer = upload(&server.url("/v1/images/edits"), &QUICK, &[("image", "x.png", &picture(8, 8, [9; 4]))]);
    let told = refused(&answer, 504, "too_slow", None);
    assert_eq!(answer.header("x-should-retry"), "false");
    let jobs = server.get("/v1/jobs").ok(200).json();
    let id = jobs["jobs"][0]["id"].as_str().unwrap();
    assert!(told.contains(&format!("/v1/jobs/{id}")), "{told}");
    assert_eq!(jobs["jobs"][0]["state"], "queued", "the work goes on");
}
