//! Layers that are taken apart again.

use std::{
    fs,
    io::{Cursor, Read},
    path::Path,
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    common::{Ran, TestDir, checkpoint},
    http::server::{QUICK, Server, picture},
};

fn decompose(place: &TestDir, picture: &str, out: &str) -> Ran {
    let model = checkpoint("layered");
    let quick = ["--layers", "2", "--steps", "1", "--prompt", "x", "--seed", "7", "--resolution", "128", "--json"];
    place.run(&[&["run", "decompose", picture, "--out", out, "--model", &model], &quick[..]].concat())
}

#[track_caller]
fn id(ran: &Ran) -> String {
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let job: Value = serde_json::from_str(&ran.stdout).unwrap();
    job["id"].as_str().unwrap().to_owned()
}

fn entry(archive: &Path, name: &str) -> Vec<u8> {
    let mut archive = ::zip::ZipArchive::new(Cursor::new(fs::read(archive).unwrap())).unwrap();
    let mut bytes = Vec::new();
    archive.by_name(name).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn export(place: &TestDir, job: &str) -> (String, ::image::RgbaImage) {
    let ran = place.run(&["export", job, "--out", "all.ora", "--force"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let whole = ::image::load_from_memory(&entry(&place.path("all.ora"), "mergedimage.png")).unwrap().to_rgba8();
    (String::from_utf8(entry(&place.path("all.ora"), "stack.xml")).unwrap(), whole)
}

#[test]
fn a_layer_is_taken_apart_and_takes_its_place_in_exports() {
    let place = TestDir::new();
    let scene = format!("{}/examples/scene.png", env!("CARGO_MANIFEST_DIR"));
    let whole = id(&decompose(&place, &scene, "whole"));
    let (plain, before) = export(&place, &whole);
    assert!(!plain.contains("<stack name"), "{plain}");
    let part = id(&decompose(&place, &format!("job:{whole}:2"), "part"));
    let manifest = place.manifest("part");
    assert_eq!(manifest["from"], json!({ "job": whole, "layer": 2, "depth": 1 }));
    assert_eq!(manifest["fidelity"]["psnr"], Value::Null, "the layers compose to the layer: {manifest}");
    assert!(place.manifest("whole").get("from").is_none());
    let inner = id(&decompose(&place, &format!("job:{part}:layer-01.png"), "inner"));
    assert_eq!(place.manifest("inner")["from"], json!({ "job": part, "layer": 1, "file": "layer-01.png", "depth": 2 }));

    let (xml, after) = export(&place, &whole);
    assert_eq!(xml.matches("<stack name=").count(), 2, "{xml}");
    assert_eq!(xml.matches("<layer ").count(), 4, "{xml}");
    // Each layer is rounded to bytes once.
    let off = before.iter().zip(after.iter()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(before.dimensions() == after.dimensions() && off <= 3, "{off}");
    // A ZIP has the files of every manifest under the names that the manifest gives them.
    let ran = place.run(&["export", &whole, "--out", "all.zip"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for folder in ["", "layer-02/", "layer-02/layer-01/"] {
        let manifest: Value =
            serde_json::from_slice(&entry(&place.path("all.zip"), &format!("{folder}manifest.json"))).unwrap();
        for file in manifest["files"].as_array().unwrap() {
            let name = format!("{folder}{}", file["name"].as_str().unwrap());
            let found = hex::encode(Sha256::digest(entry(&place.path("all.zip"), &name)));
            assert_eq!(file["sha256"], found, "{name}");
        }
    }
    let (xml, _) = export(&place, &inner);
    assert!(!xml.contains("<stack name"), "{xml}");

    // Two more are possible, and no third.
    let mut last = inner;
    for depth in [3, 4] {
        last = id(&decompose(&place, &format!("job:{last}:2"), "deep"));
        assert_eq!(place.manifest("deep")["from"]["depth"], depth);
    }
    let ran = decompose(&place, &format!("job:{last}:2"), "deeper");
    let wanted = format!("IMAGE: layer 2 of job {last} is the result of 4 decomposes of layers, which is the most");
    assert!(ran.code == Some(2) && ran.stderr.contains(&wanted), "{ran:?}");

    let ran = place.run(&["jobs", "delete", &whole]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let ran = decompose(&place, &format!("job:{whole}:2"), "gone");
    let wanted = format!("layer 2 of job {whole}: there is no such job, or it was deleted");
    assert!(ran.code == Some(2) && ran.stderr.contains(&wanted), "{ran:?}");
}

#[test]
fn the_api_takes_a_layer_apart() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let id = server.submit(&QUICK, &picture(64, 48, [200, 80, 40, 255]));
    server.succeeded(&id);
    let params = json!({ "prompt": "x", "layers": 2, "steps": 1, "seed": 1 });
    let body = |from: Value| json!({ "kind": "decompose", "input": { "from": from }, "params": params });
    let before = server.get(&format!("/v1/jobs/{id}/export.psd")).ok(200).body;
    let part = server.post("/v1/jobs", &body(json!({ "job": id, "layer": 2 }))).ok(202).json();
    let part = server.succeeded(part["id"].as_str().unwrap());
    assert_eq!(part["input"], json!([{ "job": id, "layer": 2 }]));
    let after = server.get(&format!("/v1/jobs/{id}/export.psd")).ok(200).body;
    let groups = |psd: &[u8]| psd.windows(8).filter(|bytes| bytes == b"8BIMlsct").count();
    assert_eq!((groups(&before), groups(&after)), (0, 2));
    // They are found as the page finds them.
    let found = server.get(&format!("/v1/jobs?kind=decompose&label=layer-of={id}")).ok(200).json();
    assert_eq!(found["jobs"][0]["id"], part["id"], "{found}");
    for (from, field) in [
        (json!({ "job": id, "layer": 0 }), "input.from"),
        (json!({ "job": id, "layer": 9 }), "input"),
        (json!("s3://in/a.png"), "input.from"),
    ] {
        let refused = server.post("/v1/jobs", &body(from.clone())).ok(422).json();
        assert_eq!(refused["field"], field, "{from}: {refused}");
    }
    let mut lifting = body(json!({ "job": id, "layer": 1 }));
    lifting["params"]["layers"] = json!(0);
    let refused = server.post("/v1/jobs", &lifting).ok(422).json();
    assert_eq!(refused["field"], "params.layers");
    assert!(refused["detail"].as_str().unwrap().contains("use a Layered-Control checkpoint"), "{refused}");
    let gone = uuid::Uuid::now_v7().to_string();
    let refused = server.post("/v1/jobs", &body(json!({ "job": gone, "layer": 1 }))).ok(422).json();
    assert_eq!(refused["code"], "input_not_found", "{refused}");
}
