//! Files with weights on the command line: what they are, how they are made, and runs with them.

use std::fs;

use serde_json::Value;

use crate::common::{TestDir, checkpoint, golden};

#[test]
fn a_file_is_described_and_a_wrong_one_is_refused() {
    let place = TestDir::new();
    let file = golden("forms/layered.gguf");
    let ran = place.run(&["models", "check", &file]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    insta::assert_snapshot!("check_gguf", ran.stdout.replace(&file, "FILE"));
    let report = place.json(&["models", "check", &file, "--json"]);
    assert_eq!((&report["format"], &report["types"]["Q8_0"]), (&"GGUF".into(), &9.into()));
    assert!(report["memory"]["resident"].as_u64().is_some_and(|bytes| bytes < 700_000), "{report}");

    fs::write(place.path("wrong.gguf"), b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\x0f\0\0\0\0\0\0\0\0").unwrap();
    let ran = place.run(&["models", "check", "wrong.gguf"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""));
    assert!(ran.stderr.contains("wrong.gguf") && ran.stderr.contains("tensors"), "{}", ran.stderr);
}

#[test]
fn a_checkpoint_is_converted_and_used() {
    let place = TestDir::new();
    let model = checkpoint("layered");
    let made = place.json(&["models", "convert", &model, "--to", "q8_0", "--out", "layered.gguf", "--json"]);
    assert_eq!(
        (&made["resumed"], made["bytes"].as_u64()),
        (&0.into(), Some(place.path("layered.gguf").metadata().unwrap().len()))
    );
    let again = place.run(&["models", "convert", &model, "--to", "q8_0", "--out", "layered.gguf"]);
    assert_eq!(again.code, Some(2));
    assert!(again.stderr.contains("--out: layered.gguf: exists"), "{}", again.stderr);
    let spoiled = place.text("checkpoint");
    fs::create_dir_all(place.path("checkpoint/transformer")).unwrap();
    fs::write(place.path("checkpoint/model_index.json"), "{}").unwrap();
    fs::write(place.path("checkpoint/transformer/config.json"), "{}").unwrap();
    for (out, told) in [
        ("nodir/x.gguf".to_owned(), "--out: nodir/x.gguf: the folder nodir does not exist"),
        (format!("{spoiled}/transformer/x.gguf"), "is in the folder of a checkpoint"),
    ] {
        let ran = place.run(&["models", "convert", &model, "--to", "q8_0", "--out", &out]);
        assert!(ran.code == Some(2) && ran.stderr.contains(told), "{}", ran.stderr);
    }
    for command in [&["models", "check", "Org/Name"][..], &["models", "convert", "Org/Name", "--to", "fp8", "-o", "x"]]
    {
        let ran = place.run(command);
        let told = "Org/Name: there is no such file or folder; `acetate models pull ID` downloads a model from the hub";
        assert!(ran.code == Some(2) && ran.stderr.contains(told), "{ran:?}");
    }
    let unknown = place.run(&["models", "convert", &model, "--to", "iq4_xs", "--out", "x.gguf"]);
    assert!(unknown.code == Some(2) && unknown.stderr.contains("q4_k_m"), "{}", unknown.stderr);
    let text = ["--part", "text-encoder", "--to", "fp8", "--out", "text.safetensors", "--json"];
    place.json(&[&["models", "convert", &model], text.as_slice()].concat());

    let picture = golden("pictures/house.png");
    let run = |out: &str, more: &[&str]| -> Value {
        let args = ["run", "decompose", &picture, "--out", out, "--model", &model, "--steps", "2", "--layers", "2"];
        let ran = place.run(&[args.as_slice(), &["--prompt", "a house", "--seed", "7"], more].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        place.manifest(out)
    };
    let manifest = run("out", &["--transformer", "layered.gguf", "--text-encoder", "text.safetensors"]);
    let notes = manifest["notes"].to_string();
    assert!(
        notes.contains("its transformer is /") && notes.contains("layered.gguf") && notes.contains("text.safetensors"),
        "{manifest}"
    );
    let plain = run("plain", &["--text-encoder-fp8"]);
    assert!(plain["notes"].to_string().contains("rounded to fp8"), "{plain}");

    let missing = ["--out", "no", "--model", &model, "--transformer", "nowhere.gguf"];
    let ran = place.run(&[&["run", "decompose", &picture], missing.as_slice()].concat());
    assert!(
        ran.code != Some(0) && ran.stderr.contains("nowhere.gguf") && ran.stderr.contains("no such file"),
        "{}",
        ran.stderr
    );
    let nano = format!("{}/models/layered-nano/transformer", env!("CARGO_MANIFEST_DIR"));
    let other = format!("{nano}/diffusion_pytorch_model.safetensors");
    for (file, wanted) in [(&nano, "it is a folder"), (&other, "diffusion_pytorch_model.safetensors: tensor `")] {
        let wrong = ["--out", "no", "--model", &model, "--transformer", file];
        let ran = place.run(&[&["run", "decompose", &picture], wrong.as_slice()].concat());
        assert!(ran.code != Some(0) && ran.stderr.contains(wanted), "{}", ran.stderr);
        assert!(file == &nano || ran.stderr.contains("224"), "{}", ran.stderr);
    }
}

#[test]
fn the_doctor_knows_cards_that_are_not_here() {
    let place = TestDir::new();
    let report = place.json(&["doctor", "--vram", "24GiB", "--vram", "12 GiB", "--json"]);
    let plans = report["plans"].as_array().unwrap();
    let of = |gib: u64| plans.iter().filter(|plan| plan["vram"] == gib << 30).collect::<Vec<_>>();
    assert_eq!((of(24).len(), of(12).len()), (6, 6), "{report}");
    assert!(plans.iter().all(|plan| plan["plan"].as_str().is_some_and(|text| !text.is_empty())), "{report}");
    let ran = place.run(&["doctor", "--vram", "a lot"]);
    assert!(ran.code == Some(2) && ran.stderr.contains("not a unit of memory"), "{}", ran.stderr);
    let ran = place.run(&["doctor", "--vram", "24"]);
    assert!(ran.code == Some(2) && ran.stderr.contains("write the unit, for instance 24GiB"), "{}", ran.stderr);
}

#[test]
fn numbers_from_variables_are_shown() {
    let place = TestDir::new();
    let mut command = place.command(&["config", "show", "--json"]);
    command.env("ACETATE__QWEN_IMAGE__LAYER_NUM", "3").env("ACETATE__HTTP__MAX_QUEUED", "70000");
    let shown: serde_json::Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    let value = |key: &str| {
        let found = shown["settings"].as_array().unwrap().iter().find(|one| one["key"] == key);
        found.unwrap_or_else(|| panic!("{key}: {shown}"))["value"].clone()
    };
    assert_eq!((value("qwen_image.layer_num"), value("http.max_queued")), ("3".into(), "70000".into()));
}
