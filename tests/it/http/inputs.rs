//! Pictures that are uploaded once, references to them, and forms that have both.

use serde_json::{Value, json};

use crate::{
    common::{TestDir, blocking_until},
    http::client::{form, post, send, upload},
    http::server::{QUICK, Server, picture, pixels},
};

fn put(server: &Server, kind: &str, bytes: &[u8]) -> crate::http::client::Answer {
    send("POST", &server.url("/v1/inputs"), &[("content-type", kind)], bytes)
}

#[test]
fn a_picture_is_uploaded_once_for_many_jobs() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let scene = picture(64, 48, [200, 80, 40, 255]);
    let first = put(&server, "application/octet-stream", &scene).ok(200).json();
    assert_eq!((&first["width"], &first["height"], &first["size"]), (&json!(64), &json!(48), &json!(scene.len())));
    // The same bytes are the same upload, whatever they are sent as.
    assert_eq!(put(&server, "image/png", &scene).ok(200).json(), first);
    assert_eq!(upload(&server.url("/v1/inputs"), &[], &[("image", "x.png", &scene)]).ok(200).json(), first);
    for kind in ["composite", "decompose"] {
        let params = if kind == "decompose" { json!({"layers": 2, "steps": 1, "prompt": "x"}) } else { json!({}) };
        let input = json!({"image": {"upload": first["upload"]}});
        let job =
            post(&server.url("/v1/jobs"), &json!({"kind": kind, "input": input, "params": params})).ok(202).json();
        let job = server.succeeded(job["id"].as_str().unwrap());
        assert_eq!(job["input"][0]["upload"], first["upload"]);
    }

    // What is not there is refused when a job names it, not when the job runs.
    let absent = json!({"upload": format!("{}.png", "0".repeat(64))});
    let body = json!({"kind": "composite", "input": {"image": absent}});
    let refused = post(&server.url("/v1/jobs"), &body).problem(422, "input_not_found");
    assert!(refused["field"] == "input" && refused["detail"].as_str().unwrap().contains("/v1/inputs"), "{refused}");

    put(&server, "text/plain", &scene).problem(415, "unsupported_media_type");
    put(&server, "image/png", b"<html>").problem(422, "invalid_image");
    put(&server, "image/png", b"").problem(422, "invalid_image");
    for (texts, files, field) in [
        (&[("kind", "edit")][..], &[("image", "x.png", &scene[..])][..], "kind"),
        (&[], &[("image", "x.png", &scene), ("image", "y.png", &scene)], "image"),
        (&[], &[], "image"),
    ] {
        let refused = upload(&server.url("/v1/inputs"), texts, files).problem(422, "invalid_request");
        assert_eq!(refused["field"], field, "{refused}");
    }
}

/// The order of a composite is that of the form, whatever its pictures are.
#[test]
fn a_form_mixes_uploads_and_references() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let [red, green, blue] = [[255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255]].map(|pixel| picture(8, 6, pixel));
    let id = server.submit(&[("kind", "composite")], &green);
    server.succeeded(&id);
    let name = put(&server, "image/png", &blue).ok(200).json()["upload"].as_str().unwrap().to_owned();
    let job = json!({"job": id, "file": "composite.png"}).to_string();
    let uploaded = json!({"upload": name}).to_string();

    // The helper sends texts first, so the upload is on top.
    let texts = [("kind", "composite"), ("reference", job.as_str()), ("reference", uploaded.as_str())];
    let made = upload(&server.url("/v1/jobs"), &texts, &[("image", "red.png", &red)]).ok(202).json();
    let made = server.succeeded(made["id"].as_str().unwrap());
    let inputs = made["input"].as_array().unwrap();
    assert_eq!((&inputs[0]["job"], &inputs[1]["upload"]), (&json!(id), &json!(name)), "{inputs:?}");
    let shown = |job: &Value| pixels(&server.get(job["outputs"][0]["url"].as_str().unwrap()).ok(200).body);
    assert_eq!(shown(&made).get_pixel(0, 0).0, [255, 0, 0, 255]);

    // In another order, another picture is on top.
    let (kind, mut body) = form(&[("kind", "composite")], &[("image", "red.png", &red)]);
    let end = b"--acetate-test-boundary--\r\n";
    body.truncate(body.len() - end.len());
    let (_, rest) = form(&[("reference", uploaded.as_str())], &[]);
    body.extend(rest);
    let made = send("POST", &server.url("/v1/jobs"), &[("content-type", &kind)], &body).ok(202).json();
    assert_eq!(shown(&server.succeeded(made["id"].as_str().unwrap())).get_pixel(0, 0).0, [0, 0, 255, 255]);

    for wrong in ["{\"job\": 1}", "{", "file:///etc/passwd", "{\"upload\": \"../x\"}"] {
        let refused = upload(&server.url("/v1/jobs"), &[("kind", "composite"), ("reference", wrong)], &[]);
        assert!((400..500).contains(&refused.status), "{wrong}: {}", refused.status);
    }
}

#[test]
fn an_export_takes_any_picture_and_a_manifest_has_boxes() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let id = server.submit(&QUICK, &picture(64, 48, [200, 80, 40, 255]));
    let job = server.succeeded(&id);
    let manifest = server.get(&format!("/v1/jobs/{id}/files/manifest.json")).ok(200).json();
    for (file, output) in manifest["files"].as_array().unwrap().iter().zip(job["outputs"].as_array().unwrap()) {
        assert_eq!(file["bounding_box"], output["bounding_box"]);
        let shown = pixels(&server.get(output["url"].as_str().unwrap()).ok(200).body);
        let visible = |x: u32, y: u32| shown.get_pixel(x, y)[3] >= 8;
        let (mut xs, mut ys) = (Vec::new(), Vec::new());
        for (x, y) in (0..shown.width()).flat_map(|x| (0..shown.height()).map(move |y| (x, y))) {
            if visible(x, y) {
                xs.push(x);
                ys.push(y);
            }
        }
        let side = |all: &[u32]| match (all.iter().min(), all.iter().max()) {
            (Some(least), Some(most)) => (*least, most - least + 1),
            _ => (0, 0),
        };
        let ((x, width), (y, height)) = (side(&xs), side(&ys));
        assert_eq!(file["bounding_box"], json!({"x": x, "y": y, "width": width, "height": height}));
    }

    // An upload of another format, a layer by its number, and a file. All layers have one size.
    let (width, height) = pixels(&server.get(job["outputs"][1]["url"].as_str().unwrap()).ok(200).body).dimensions();
    let mut bmp = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_pixel(width, height, image::Rgb([0, 0, 255]))
        .write_to(&mut bmp, image::ImageFormat::Bmp)
        .unwrap();
    let back = put(&server, "image/bmp", bmp.get_ref()).ok(200).json()["upload"].clone();
    let layers =
        json!([{"upload": back, "name": "Back"}, {"job": id, "layer": 1}, {"job": id, "file": "layer-02.png"}]);
    let export = |layers: Value| post(&server.url("/v1/export"), &json!({"format": "ora", "layers": layers}));
    let ora = export(layers).ok(200).body;
    let text = String::from_utf8_lossy(&ora);
    assert!(text.contains("name=\"Back\"") && text.contains("name=\"layer-01.png\""), "{}", text.len());
    for wrong in [
        json!({}),
        json!({"job": id}),
        json!({"job": id, "file": "x", "layer": 1}),
        json!({"upload": back, "url": "x"}),
    ] {
        let refused = export(json!([{"upload": back}, wrong])).problem(422, "invalid_request");
        assert_eq!(refused["field"], "layers[1]", "{refused}");
    }
    export(json!([{"upload": format!("{}.png", "0".repeat(64))}])).problem(422, "input_not_found");
    export(json!([{"url": "file:///etc/passwd"}])).problem(403, "input_forbidden");
}

#[test]
fn uploads_that_no_job_names_are_pruned() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let [used, unused] = [[1, 2, 3, 255], [4, 5, 6, 255]].map(|pixel| picture(4, 4, pixel));
    let id = server.submit(&[("kind", "composite")], &used);
    server.succeeded(&id);
    let name = |bytes: &[u8]| put(&server, "image/png", bytes).ok(200).json()["upload"].as_str().unwrap().to_owned();
    let (used, unused) = (name(&used), name(&unused));
    let there = |name: &str| place.path("data/objects/inputs").join(name).exists();
    assert!(there(&used) && there(&unused));
    let prune = |age: &str| place.json(&["jobs", "prune", "--older-than", age, "--state", "failed", "--json"]);
    assert_eq!(prune("1h")["uploads"], 0, "they are new");
    // Files have their time with the precision of the system's clock.
    let pruned = blocking_until(|| {
        let pruned = prune("0s");
        if pruned["uploads"] == 1 { Ok(pruned) } else { Err(pruned) }
    });
    assert_eq!((&pruned["jobs"], &pruned["files"]), (&json!(0), &json!(0)));
    assert!(there(&used) && !there(&unused), "a job names it");
    // Once its job is gone, so is the other.
    blocking_until(|| {
        let pruned = place.json(&["jobs", "prune", "--older-than", "0s", "--json"]);
        if there(&used) { Err(format!("{pruned}")) } else { Ok(()) }
    });
}
