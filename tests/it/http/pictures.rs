//! Layers, files, thumbnails, exports.

use std::io::{Cursor, Read};

use serde_json::json;

use crate::{
    common::TestDir,
    http::client::{post, send},
    http::server::{QUICK, Server, edit, picture, pixels},
};

#[test]
fn a_result_is_taken_away_in_every_form() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let id = server.submit(&QUICK, &picture(600, 300, [200, 80, 40, 255]));
    for path in ["layers/0.png", "files/layer-00.png", "export.zip"] {
        if server.job(&id)["state"] != "succeeded" {
            server.get(&format!("/v1/jobs/{id}/{path}")).problem(404, "not_found");
        }
    }
    let job = server.succeeded(&id);
    let at = |path: &str| server.get(&format!("/v1/jobs/{id}/{path}"));

    let layer = at("layers/1.png").ok(200);
    assert_eq!(layer.header("content-type"), "image/png");
    assert!(layer.header("cache-control").contains("immutable"));
    assert_eq!(layer.header("etag"), format!("\"{}\"", job["outputs"][1]["sha256"].as_str().unwrap()));
    assert_eq!(layer.body, at("files/layer-01.png").body);
    let again = send(
        "GET",
        &server.url(&format!("/v1/jobs/{id}/layers/1.png")),
        &[("if-none-match", layer.header("etag"))],
        &[],
    );
    assert_eq!(again.status, 304);
    at("layers/3.png").problem(404, "not_found");
    let manifest = at("files/manifest.json").ok(200).json();
    assert_eq!(manifest["job"], id.as_str());

    let wide = at("thumbnails/layer-01.png").ok(200);
    let (width, height) = pixels(&wide.body).dimensions();
    assert!(width.max(height) <= 256);
    assert_eq!(pixels(&at("thumbnails/input-0.png?size=96").ok(200).body).dimensions(), (96, 48));
    at("thumbnails/input-1.png").problem(404, "not_found");
    assert_eq!(at("thumbnails/layer-01.png").body, wide.body);

    let zip = at("export.zip").ok(200);
    assert_eq!(zip.header("content-type"), "application/zip");
    assert_eq!(zip.header("content-disposition"), format!("attachment; filename=\"acetate-{id}.zip\""));
    let mut archive = zip::ZipArchive::new(Cursor::new(zip.body)).unwrap();
    let mut bytes = Vec::new();
    archive.by_name("layer-01.png").unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, layer.body);
    assert!(at("export.ora").ok(200).body.windows(16).any(|part| part == b"image/openraster"));
    assert_eq!(&at("export.psd").ok(200).body[..4], b"8BPS");
    let slide = at("export.pptx").ok(200);
    assert!(slide.header("content-type").ends_with("presentationml.presentation"));
    assert!(zip::ZipArchive::new(Cursor::new(slide.body)).unwrap().by_name("ppt/media/image1.png").is_ok());
    for (file, kind) in [("export.webp", "image/webp"), ("export.jpg", "image/jpeg")] {
        let whole = at(file).ok(200);
        assert_eq!(whole.header("content-type"), kind);
        assert_eq!(pixels(&whole.body).dimensions(), pixels(&layer.body).dimensions(), "{file}");
    }

    // A stack as arranged in the web UI: pictures of two jobs, one of them faint.
    let edited = server.post("/v1/jobs", &edit(json!({"job": id, "layer": 2}))).ok(202).json()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    server.succeeded(&edited);
    let mut body = json!({"format": "ora", "layers": [
        {"job": id, "file": "layer-01.png", "name": "Sky", "opacity": 0.5},
        {"job": edited, "file": "edited.png", "name": "Boat", "visible": false}]});
    let stack = post(&server.url("/v1/export"), &body).ok(200);
    for (format, start) in [("pptx", b"PK\x03\x04"), ("webp", b"RIFF"), ("jpg", b"\xff\xd8\xff\xe0")] {
        body["format"] = format.into();
        let made = post(&server.url("/v1/export"), &body).ok(200);
        assert_eq!(&made.body[..4], start, "{format}");
        assert_eq!(made.header("content-disposition"), format!("attachment; filename=\"acetate.{format}\""));
    }
    let mut archive = zip::ZipArchive::new(Cursor::new(stack.body)).unwrap();
    let mut text = String::new();
    archive.by_name("stack.xml").unwrap().read_to_string(&mut text).unwrap();
    assert!(text.contains("Sky") && text.contains("Boat") && text.contains("0.5") && text.contains("hidden"), "{text}");
    for (layers, code) in [
        (json!([]), "invalid_request"),
        (json!([{"job": id, "file": "none.png"}]), "invalid_request"),
        (json!([{"job": "018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e29", "file": "x.png"}]), "input_not_found"),
        (json!([{"job": id, "file": "layer-01.png", "opacity": 7}]), "invalid_request"),
    ] {
        post(&server.url("/v1/export"), &json!({"format": "psd", "layers": layers})).problem(422, code);
    }

    std::fs::remove_file(std::fs::canonicalize(place.path("data/objects").join(&id).join("1/layer-02.png")).unwrap())
        .unwrap();
    at("layers/2.png").problem(410, "gone");
}
