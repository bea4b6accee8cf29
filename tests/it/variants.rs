//! Variants: several results of one job, each the same as alone with its seed.

use std::fs;

use ::image::GenericImageView;
use serde_json::{Value, json};

use crate::common::{Ran, TestDir, checkpoint};

const QUICK: [&str; 8] = ["--prompt", "x", "--layers", "2", "--steps", "2", "--resolution", "128"];

fn decompose(place: &TestDir, picture: &str, out: &str, more: &[&str]) -> Ran {
    let args = ["run", "decompose", picture, "--out", out, "--model", &checkpoint("layered"), "--json"];
    place.run(&[&args[..], &QUICK, more].concat())
}

fn edit(place: &TestDir, picture: &str, out: &str, more: &[&str]) -> Ran {
    let args = ["run", "edit", picture, "--out", out, "--model", &checkpoint("edit"), "--json"];
    place.run(&[&args[..], &["--instruction", "Make it red", "--steps", "2"], more].concat())
}

#[track_caller]
fn succeeded(ran: &Ran) -> Value {
    assert_eq!(ran.code, Some(0), "{ran:?}");
    serde_json::from_str(&ran.stdout).unwrap()
}

fn bytes(place: &TestDir, name: &str) -> Vec<u8> {
    fs::read(place.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn a_variant_of_a_decompose_is_the_same_as_alone() {
    let place = TestDir::new();
    let picture = place.picture("scene.png", [200, 80, 40, 255]);
    let more = ["--seed", "7", "--count", "3", "--trim", "--sheet", "sheet.png"];
    let job = succeeded(&decompose(&place, &picture, "all", &more));
    assert_eq!(job["request"]["version"], 3);
    let manifest = place.manifest("all");
    let seeds: Vec<_> = manifest["variants"].as_array().unwrap().iter().map(|one| one["seed"].clone()).collect();
    assert_eq!((json!(seeds), &manifest["seed"]), (json!([7, 8, 9]), &json!(7)));
    assert_eq!(manifest["sampling"].as_array().unwrap().len(), 3);
    assert!(manifest["variants"][2]["fidelity"]["layers"].is_array(), "{manifest}");
    assert_eq!(manifest["fidelity"], manifest["variants"][0]["fidelity"]);
    let files = manifest["files"].as_array().unwrap();
    assert_eq!(files.len(), 3 * 3 + 1);
    for (variant, seed) in [(1, "7"), (2, "8"), (3, "9")] {
        succeeded(&decompose(&place, &picture, "one", &["--seed", seed, "--trim"]));
        for layer in 0..3 {
            let name = format!("variant-{variant:02}-layer-{layer:02}.png");
            assert!(
                bytes(&place, &format!("all/{name}")) == bytes(&place, &format!("one/layer-{layer:02}.png")),
                "{name}"
            );
            let file = files.iter().find(|file| file["name"] == name).unwrap();
            assert_eq!((&file["variant"], file["seed"].to_string()), (&json!(variant), seed.to_owned()), "{file}");
            let output = job["outputs"].as_array().unwrap().iter().find(|output| output["name"] == name).unwrap();
            assert_eq!((&output["variant"], &output["layer"]), (&json!(variant), &json!(layer)), "{output}");
        }
        let one = place.manifest("one");
        assert_eq!(one["fidelity"], manifest["variants"][variant - 1]["fidelity"]);
        assert!(one.get("variants").is_none() && one["files"][0].get("seed").is_none(), "{one}");
    }
    let sheet = files.iter().find(|file| file["role"] == "contact_sheet").unwrap();
    assert_eq!(sheet["name"], "variants.png");
    let opened = |name: &str| ::image::open(place.path(name)).unwrap();
    assert!(opened("sheet.png") == opened("all/variants.png"));
    // Two layers of 8 x 6 pixels in a row, a row for each variant; the seeds are wider than the pictures.
    assert_eq!(::image::open(place.path("sheet.png")).unwrap().dimensions(), (2 * (48 + 12) + 12, 3 * (22 + 12) + 12));

    // Later jobs and exports use the first variant, unless they name another one.
    let id = job["id"].as_str().unwrap();
    for (name, wanted) in [("2", "variant-01-layer-02.png"), ("variant-03-layer-02.png", "variant-03-layer-02.png")] {
        let file = files.iter().find(|file| file["name"] == wanted).unwrap();
        let (width, height) = (&file["placement"]["width"], &file["placement"]["height"]);
        let made = ["run", "composite", &format!("job:{id}:{name}"), "--out", "composite", "--json"];
        let made = place.json(&made);
        assert_eq!((&made["outputs"][0]["width"], &made["outputs"][0]["height"]), (width, height));
    }
    for (variant, code) in [("3", Some(0)), ("4", Some(2))] {
        let ran = place.run(&["export", "all", "--variant", variant, "--out", "all.zip", "--force", "--json"]);
        assert_eq!(ran.code, code, "{ran:?}");
    }
}

#[test]
fn a_variant_of_an_edit_is_the_same_as_alone() {
    let place = TestDir::new();
    let picture = place.picture("scene.png", [200, 80, 40, 200]);
    for more in [&["--alpha", "grow"][..], &["--region", "2,2,4,3"]] {
        succeeded(&edit(&place, &picture, "all", &[&["--seeds", "9,3"], more].concat()));
        let manifest = place.manifest("all");
        assert_eq!((&manifest["seed"], &manifest["variants"][1]), (&json!(9), &json!({ "variant": 2, "seed": 3 })));
        assert_eq!(manifest["edits"].as_array().map(Vec::len), Some(2), "{manifest}");
        for (variant, seed) in [(1, "9"), (2, "3")] {
            succeeded(&edit(&place, &picture, "one", &[&["--seed", seed], more].concat()));
            let name = format!("all/variant-{variant:02}-edited.png");
            assert!(bytes(&place, &name) == bytes(&place, "one/edited.png"), "{name} {more:?}");
            assert_eq!(place.manifest("one")["edits"][0], manifest["edits"][variant - 1]);
        }
    }
    // A single seed is a job as any other.
    succeeded(&edit(&place, &picture, "all", &["--seeds", "9"]));
    assert_eq!(place.manifest("all")["files"][0]["name"], "edited.png");
    assert_eq!(place.manifest("all")["seed"], 9);
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let place = TestDir::new();
    let picture = place.picture("scene.png", [200, 80, 40, 255]);
    for (more, wanted) in [
        (&["--count", "0"][..], "--count: 0 is not between 1 and 64"),
        (&["--count", "65"], "--count: 65 is not between 1 and 64"),
        (&["--count", "3", "--seeds", "1,2"], "--count: 3, but there are 2 seeds"),
        (&["--seeds", "1,2,1"], "--seeds[2]: 1 is given twice"),
        (&["--seeds", "1,"], "--seeds"),
        (&["--seeds", "1,2", "--seed", "3"], "cannot be used with"),
        (&["--count", "2", "--seed", "9223372036854775807"], "--seed: the last variant's seed"),
    ] {
        let ran = decompose(&place, &picture, "out", more);
        assert!(ran.code == Some(2) && ran.stderr.contains(wanted), "{more:?} gave {ran:?}");
        assert!(!place.path("out").exists());
    }
    let ran = place.run(&["run", "workflow", &picture, "--out", "out", "--count", "2"]);
    assert!(ran.code == Some(2) && ran.stderr.contains("unexpected argument '--count'"), "{ran:?}");
}
