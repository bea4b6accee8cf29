//! LoRAs on the command line: loaded, recorded, and refused by name.

use std::{fs, path::Path};

use serde_json::Value;

use crate::common::{Ran, TestDir, checkpoint};

fn lora() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/loras/layered-bare.safetensors").display().to_string()
}

/// Runs one step on a small checkpoint of the tests.
fn decompose(place: &TestDir, out: &str, more: &[&str]) -> Ran {
    let (model, picture, out) = (checkpoint("layered"), picture(), place.path(out).display().to_string());
    let args = ["run", "decompose", &picture, "--model", &model, "--prompt", "a house", "--layers", "2", "--seed", "1"];
    place.run(&[&args[..], &["--steps", "1", "--out", &out], more].concat())
}

fn picture() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pictures/house.png").display().to_string()
}

fn manifest(place: &TestDir, out: &str) -> Value {
    serde_json::from_slice(&fs::read(place.path(out).join("manifest.json")).unwrap()).unwrap()
}

#[test]
fn a_lora_is_used_and_in_the_manifest() {
    let place = TestDir::new();
    let layer = |out: &str| fs::read(place.path(out).join("layer-00.png")).unwrap();
    let ran = decompose(&place, "base", &[]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let file = lora();
    let ran = decompose(&place, "with", &["--lora", &format!("{file}=0.8")]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_ne!(layer("with"), layer("base"));
    let manifest_with = manifest(&place, "with");
    let used = &manifest_with["models"][0]["loras"][0];
    assert_eq!((&used["rank"], &used["modules"], &used["strength"]), (&2.into(), &48.into(), &0.8.into()));
    assert_eq!(used["sha256"].as_str().unwrap().len(), 64);
    assert!(used["file"].as_str().unwrap().ends_with("layered-bare.safetensors"), "{used}");
    assert_eq!(manifest_with["request"]["version"], 2);
    let base = manifest(&place, "base");
    assert!(base["models"][0].get("loras").is_none() && base["request"]["version"] == 1, "{base}");
    let ran = decompose(&place, "zero", &["--lora", &format!("{file}=0")]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(layer("zero"), layer("base"), "strength 0 is the base");
}

#[test]
fn what_is_not_a_lora_is_refused_before_the_job_exists() {
    let place = TestDir::new();
    for name in ["a", "b"] {
        fs::create_dir_all(place.path("several")).unwrap();
        fs::copy(lora(), place.path("several").join(format!("{name}.safetensors"))).unwrap();
    }
    fs::create_dir(place.path("empty")).unwrap();
    fs::write(place.path("text.safetensors"), "# Nothing but text").unwrap();
    let model = format!("{}/transformer/diffusion_pytorch_model.safetensors", checkpoint("layered"));
    for (given, told) in [
        ("", "names no LoRA; give a .safetensors file"),
        ("=1", "names no LoRA; give a .safetensors file"),
        ("./several", "--lora: ./several: the folder has 2 .safetensors files; name one of them"),
        ("nowhere.safetensors", "--lora: nowhere.safetensors: No such file"),
        ("nowhere", "is not a LoRA"),
        ("./empty", "--lora: ./empty: the folder has no .safetensors file"),
        ("text.safetensors", "/text.safetensors: is not a safetensors file, or only a part of one"),
        ("/dev/zero", "--lora: /dev/zero: is a device, a pipe or a socket; give a .safetensors file"),
        (&model, "is no LoRA: none of its"),
        ("style.safetensors=much", "`much` is not a strength; give a number from -100 to 100, such as 0.8"),
        ("style.safetensors=1000", "is not a number from -100 to 100"),
    ] {
        let ran = decompose(&place, "out", &["--lora", given]);
        assert!(ran.code == Some(2) && ran.stderr.contains(told), "{given}: {ran:?}");
        assert!(!place.path("out").join("manifest.json").exists());
    }
    assert_eq!(place.json(&["jobs", "list", "--json"])["jobs"], Value::Array(Vec::new()));
    let ran = decompose(&place, "out", &["--preset", "lightning"]);
    assert!(ran.code != Some(0) && ran.stderr.contains("there is no Lightning LoRA for Qwen-Image-Layered"), "{ran:?}");
}
