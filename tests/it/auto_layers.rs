//! As many layers as the picture has, and the part that a Layered-Control checkpoint lifts out of it.

use std::{fs, path::Path};

use ::image::RgbaImage;
use serde_json::{Value, json};

use crate::common::{Ran, TestDir, checkpoint};

fn root(name: &str) -> String {
    format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn decompose(place: &TestDir, picture: &str, model: &str, more: &[&str]) -> Ran {
    place.run(&[&["run", "decompose", picture, "--out", "out", "--model", model, "--json"], more].concat())
}

#[track_caller]
fn layers(place: &TestDir, ran: &Ran) -> (Value, Vec<RgbaImage>) {
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let manifest = place.manifest("out");
    let files = manifest["files"].as_array().unwrap().iter().filter(|file| file["role"] == "layer");
    let open = |file: &Value| ::image::open(place.path("out").join(file["name"].as_str().unwrap())).unwrap().to_rgba8();
    let layers = files.map(open).collect();
    (manifest, layers)
}

#[test]
fn auto_finds_the_objects_of_scenes_and_composes_to_them() {
    let place = TestDir::new();
    let model = root("models/layered-nano");
    let picture = root("examples/scene.png");
    let more = ["--layers", "auto", "--preset", "lightning", "--seed", "1", "--output-size", "source"];
    let (manifest, found) = layers(&place, &decompose(&place, &picture, &model, &more));
    assert_eq!(found.len(), 4, "a background and three objects: {manifest}");
    let request = &manifest["request"];
    assert_eq!((&request["version"], &request["params"]["layers"]), (&json!(3), &json!("auto")));
    let whole = ::image::open(&picture).unwrap().to_rgba8();
    assert!(qwen_image::image_processor::composite(&found).unwrap() == whole);
    assert_eq!(manifest["fidelity"]["layers"].as_array().map(Vec::len), Some(4));
    // Each variant has its own number of layers, and a row on the contact sheet.
    let (manifest, _) = layers(&place, &decompose(&place, &picture, &model, &[&more[..], &["--count", "2"]].concat()));
    let files = manifest["files"].as_array().unwrap();
    assert_eq!(files.iter().filter(|file| file["variant"] == 2 && file["role"] == "layer").count(), 4, "{manifest}");
}

/// The checkpoint with other settings.
fn copy(place: &TestDir, name: &str, settings: &Value) -> String {
    let (from, to) = (checkpoint("layered"), place.path(name));
    fs::create_dir_all(&to).unwrap();
    for entry in fs::read_dir(Path::new(&from)).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "acetate.json" {
            std::os::unix::fs::symlink(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
    fs::write(to.join("acetate.json"), settings.to_string()).unwrap();
    place.text(name)
}

#[test]
fn a_control_checkpoint_lifts_the_part_that_the_prompt_names() {
    let place = TestDir::new();
    let picture = place.picture("scene.png", [200, 80, 40, 255]);
    let settings = json!({ "resolutions": [128] });
    let control = copy(&place, "Qwen-Image-Layered-Control", &settings);
    let quick = ["--steps", "1", "--seed", "3", "--layers"];
    let run = |model: &str, more: &[&str]| decompose(&place, &picture, model, &[&quick[..], more].concat());
    let (manifest, found) = layers(&place, &run(&control, &["0", "--prompt", "the red star"]));
    assert_eq!((found.len(), manifest["files"].as_array().unwrap().len()), (1, 1), "{manifest}");
    assert_eq!(
        (&manifest["files"][0]["name"], &manifest["files"][0]["layer_name"]),
        (&json!("layer-01.png"), &json!("Red star"))
    );
    assert!(manifest.get("fidelity").is_none());
    let plain = copy(&place, "plain", &settings);
    let one = copy(&place, "one", &json!({ "resolutions": [128], "min_layers": 1 }));
    for (model, more, wanted) in [
        (&control, &["0"][..], "--prompt: names no part"),
        (&control, &["2", "--prompt", "x"], "ask for 0 layers, and name the part in the prompt"),
        (&control, &["auto", "--prompt", "x"], "ask for 0 layers"),
        (&plain, &["0", "--prompt", "x"], "--layers: 0 lifts one part out of the picture, for which this checkpoint"),
        (&plain, &["1", "--prompt", "x"], "--layers: 1 is too few: this checkpoint makes 2 to 10 layers"),
    ] {
        let ran = run(model, more);
        assert!(ran.code != Some(0) && ran.stderr.contains(wanted), "{more:?} gave {ran:?}");
    }
    let (_, found) = layers(&place, &run(&one, &["1", "--prompt", "x"]));
    assert_eq!(found.len(), 1);
}
