//! Names of layers: from the caption, or from the text encoder, and wherever layers are listed.

use std::fs;

use serde_json::{Value, json};

use crate::common::{TestDir, checkpoint, ran};

fn example(name: &str) -> String {
    format!("{}/examples/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn names(manifest: &Value) -> Vec<(String, Value)> {
    let name = |file: &Value| (file["name"].as_str().unwrap().to_owned(), file["layer_name"].clone());
    manifest["files"].as_array().unwrap().iter().map(name).collect()
}

#[test]
fn layers_are_named_after_the_words_of_the_caption() {
    let place = TestDir::new();
    let small = |name: &str| format!("{}/models/{name}", env!("CARGO_MANIFEST_DIR"));
    let args = ["run", "workflow", &example("scene.png"), "--out", "out", "--seed", "7", "--preset", "lightning"];
    let models = ["--model", &small("layered-nano"), "--edit-model", &small("edit-nano")];
    let ran = place.run(&[&args[..], &models, &["--edit", "3=Make it green"]].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.contains("kB  Purple house\n"), "{}", ran.stdout);
    let wanted = [
        ("layer-00.png", Value::Null),
        ("layer-01.png", json!("Background")),
        ("layer-02.png", json!("Cyan star")),
        ("layer-03.png", json!("Purple house")),
        ("layer-04.png", json!("White tree")),
        ("edited-layer-03.png", json!("Purple house")),
        ("composite.png", Value::Null),
    ];
    assert_eq!(names(&place.manifest("out")), wanted.map(|(file, name)| (file.to_owned(), name)));
    let told = place.json(&["export", "out", "--out", "scene.psd", "--json"]);
    let layers: Vec<_> = told["layers"].as_array().unwrap().iter().map(|layer| layer["name"].clone()).collect();
    assert_eq!(layers, ["Background", "Cyan star", "Purple house", "White tree"]);
    let psd = fs::read(place.path("scene.psd")).unwrap();
    assert!(psd.windows(9).any(|bytes| bytes == b"Cyan star"));
    let shown = place.json(&["jobs", "show", "last", "--json"]);
    assert_eq!(shown["outputs"][1]["layer_name"], "Background", "{shown}");
}

#[test]
fn what_the_caption_does_not_say_is_asked_if_that_is_set() {
    let place = TestDir::new();
    let model = checkpoint("layered");
    let args = ["run", "decompose", &example("scene.png"), "--model", &model, "--resolution", "128", "--layers", "2"];
    let args = [&args[..], &["--steps", "1", "--prompt", "x", "--seed", "7", "--json", "--out"]].concat();
    let asks = |out: &str, setting: &str| {
        let mut command = place.command(&[&args[..], &[out]].concat());
        let done = ran(command.env("ACETATE__QWEN_IMAGE__NAME_LAYERS", setting).output().unwrap());
        assert_eq!(done.code, Some(0), "{done:?}");
        let manifest = place.manifest(out);
        assert!(names(&manifest)[1..].iter().all(|(_, name)| name.is_string()), "{manifest}");
        manifest["timings"].as_array().unwrap().iter().any(|timing| timing["stage"] == "caption")
    };
    assert!(asks("asked", "true") && !asks("plain", "false"));
    assert_eq!(names(&place.manifest("plain"))[2].1, "Layer 2");
}
