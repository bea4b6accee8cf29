//! Jobs from end to end in one process: SQLite, a folder, the queue in memory.

use std::fs;

use crate::common::{TestDir, checkpoint, golden, names};
use serde_json::Value;
use sha2::{Digest, Sha256};

const ID: &str = "018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21";

pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn file_of(url: &Value) -> String {
    url.as_str().unwrap().strip_prefix("file://").unwrap().to_owned()
}

#[test]
fn a_composite_leaves_a_row_objects_and_a_manifest() {
    let place = TestDir::new();
    let below = place.picture("below.png", [0, 0, 200, 255]);
    let above = place.picture("above.png", [200, 0, 0, 128]);
    let job =
        place.json(&["run", "composite", &below, &above, "--out", "out", "--id", ID, "--label", "set=test", "--json"]);
    assert_eq!((&job["id"], &job["kind"], &job["state"]), (&ID.into(), &"composite".into(), &"succeeded".into()));
    assert_eq!((&job["attempts"], &job["epoch"], &job["error"]), (&1.into(), &1.into(), &Value::Null));
    assert_eq!(job["labels"]["set"], "test");

    // The files that the row names are in the store, and were copied out.
    let output = &job["outputs"][0];
    let stored = fs::read(file_of(&output["url"])).unwrap();
    assert_eq!((&output["name"], output["size"].as_u64()), (&"composite.png".into(), Some(stored.len() as u64)));
    assert_eq!(output["sha256"], hex(&stored));
    assert_eq!(fs::read(place.path("out/composite.png")).unwrap(), stored);
    assert_eq!(names(&place.path("out")), ["composite.png", "manifest.json"]);
    assert!(file_of(&job["manifest"]).ends_with(&format!("{ID}/1/manifest.json")));
    let manifest: Value = serde_json::from_slice(&fs::read(place.path("out/manifest.json")).unwrap()).unwrap();
    assert_eq!((&manifest["job"], &manifest["files"][0]["sha256"]), (&ID.into(), &output["sha256"]));
    assert_eq!(manifest["request"]["labels"]["set"], "test");
    let stages: Vec<_> = manifest["timings"].as_array().unwrap().iter().map(|timing| &timing["stage"]).collect();
    assert_eq!(stages, ["fetch", "decode", "composite", "encode_png", "store"]);

    let picture = image::open(place.path("out/composite.png")).unwrap().to_rgba8();
    assert_eq!(picture.get_pixel(3, 3).0[3], 255);
    assert!(picture.pixels().all(|pixel| pixel.0[0].abs_diff(100) <= 1 && pixel.0[2].abs_diff(100) <= 1));

    // The commands that only read show the same.
    let mut shown = place.json(&["jobs", "show", ID, "--json"]);
    assert_eq!(shown["history"][0]["outcome"], "succeeded");
    shown.as_object_mut().unwrap().remove("history");
    assert_eq!(shown, job);
    let listed = place.json(&["jobs", "list", "--json"]);
    assert_eq!((&listed["jobs"][0], &listed["next"]), (&job, &Value::Null));
    assert_eq!(place.json(&["jobs", "list", "--state", "failed", "--json"])["jobs"], Value::Array(Vec::new()));
}

#[test]
fn an_equal_run_takes_the_result_of_the_first() {
    let place = TestDir::new();
    let (one, two) = (place.picture("one.png", [1, 2, 3, 255]), place.picture("two.png", [1, 2, 3, 255]));
    let first = place.json(&["run", "composite", &one, "--out", "first", "--json"]);
    let ran = place.run(&["run", "composite", &two, "--out", "second", "--reuse"]);
    let told = format!("reused    the result of job {}; nothing was computed", first["id"].as_str().unwrap());
    assert!(ran.code == Some(0) && ran.stdout.contains(&told), "{ran:?}");
    let files = ["first/composite.png", "second/composite.png"].map(|file| fs::read(place.path(file)).unwrap());
    assert_eq!(files[0], files[1]);
    let refused = place.run(&["run", "decompose", &one, "--out", "third", "--reuse"]);
    assert!(refused.code == Some(2) && refused.stderr.contains("--reuse: needs a seed"), "{refused:?}");
}

#[test]
fn the_same_id_is_done_once_and_another_body_is_refused() {
    let place = TestDir::new();
    let one = place.picture("one.png", [1, 2, 3, 255]);
    let two = place.picture("two.png", [9, 2, 3, 255]);
    place.json(&["run", "composite", &one, "--out", "out", "--id", ID, "--json"]);
    fs::remove_file(place.path("out/composite.png")).unwrap();

    let again = place.json(&["run", "composite", &one, "--out", "out", "--id", ID, "--json"]);
    assert_eq!(again["attempts"], 1);
    assert_eq!(names(&place.path("out")), ["composite.png", "manifest.json"]);

    let other = place.run(&["run", "composite", &two, "--out", "out", "--id", ID]);
    assert_eq!(other.code, Some(2));
    assert!(other.stderr.contains("--id: ") && other.stderr.contains("other inputs or parameters"), "{}", other.stderr);
    assert_eq!(place.json(&["jobs", "list", "--json"])["jobs"].as_array().unwrap().len(), 1);
}

#[test]
fn a_bad_picture_fails_the_job_and_its_row_says_why() {
    let place = TestDir::new();
    fs::write(place.path("bad.png"), "this is no picture").unwrap();
    let ran = place.run(&["run", "composite", "bad.png", "--out", "out", "--json"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    let job: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&job["state"], &job["error"]["class"]), (&"failed".into(), &"invalid".into()));
    assert!(job["error"]["message"].as_str().unwrap().contains("bad.png"), "{job}");
    assert!(names(&place.path("out")).is_empty());
}

#[test]
fn a_new_result_takes_the_place_of_the_old_one() {
    let place = TestDir::new();
    let picture = place.picture("in.png", [1, 2, 3, 255]);
    let model = checkpoint("layered");
    let decompose = ["run", "decompose", &golden("pictures/boat.png"), "--model", &model, "--out", "out"];
    let quick = ["--resolution", "128", "--steps", "1", "--cfg-scale", "1", "--prompt", "a boat", "--json"];
    let job = place.json(&[&decompose[..], &["--layers", "3"], &quick].concat());
    let layers = ["layer-00.png", "layer-01.png", "layer-02.png", "layer-03.png", "manifest.json"];
    assert_eq!(names(&place.path("out")), layers);
    fs::write(place.path("out/letter.txt"), "not ours").unwrap();

    // A layer of the earlier job is an input of the next one.
    let layer = format!("job:{}:2", job["id"].as_str().unwrap());
    place.json(&["run", "composite", &layer, "--out", "out", "--json"]);
    assert_eq!(names(&place.path("out")), ["composite.png", "letter.txt", "manifest.json"]);
    // Or by the beginning of the id; `last` is the composite.
    let short = format!("job:{}:1", &job["id"].as_str().unwrap()[..13]);
    let ran = place.run(&["run", "composite", &short, "job:last:composite.png", "--out", "short", "--json"]);
    assert!(ran.code == Some(0) || ran.stderr.contains("several jobs begin with"), "{ran:?}");
    let beyond = format!("job:{}:7", job["id"].as_str().unwrap());
    let ran = place.run(&["run", "composite", &beyond, &picture, "--out", "out"]);
    assert!(ran.code == Some(2) && ran.stderr.contains("its layers are 0 to 3"), "{}", ran.stderr);
}

#[test]
fn a_workflow_edits_the_layers_that_were_named() {
    let place = TestDir::new();
    let job = place.json(&[
        "run",
        "workflow",
        &golden("pictures/boat.png"),
        "--model",
        &checkpoint("layered"),
        "--edit-model",
        &checkpoint("edit"),
        "--edit",
        "2=Make it red",
        "--out",
        "out",
        "--layers",
        "2",
        "--resolution",
        "128",
        "--steps",
        "2",
        "--seed",
        "3",
        "--prompt",
        "a boat",
        "--json",
    ]);
    let files: Vec<_> = job["outputs"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect();
    assert_eq!(files, ["layer-00.png", "layer-01.png", "layer-02.png", "edited-layer-02.png", "composite.png"]);
    let open = |name: &str| image::open(place.path("out").join(name)).unwrap().to_rgba8();
    let (before, after) = (open("layer-02.png"), open("edited-layer-02.png"));
    assert_eq!(before.dimensions(), after.dimensions());
    assert!(before.pixels().zip(after.pixels()).all(|(before, after)| before.0[3] == after.0[3]), "alpha is kept");
    assert_ne!(before, after);
    let manifest: Value = serde_json::from_slice(&fs::read(place.path("out/manifest.json")).unwrap()).unwrap();
    let models: Vec<_> = manifest["models"].as_array().unwrap().iter().map(|model| &model["pipeline"]).collect();
    assert_eq!(models, ["QwenImageLayeredPipeline", "QwenImageEditPlusPipeline"]);
    assert_eq!(manifest["seed"], 3);
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let place = TestDir::new();
    let run = |out: &str, seed: &str| {
        let job = place.json(&[
            "run",
            "decompose",
            &golden("pictures/boat.png"),
            "--model",
            &checkpoint("layered"),
            "--out",
            out,
            "--layers",
            "2",
            "--resolution",
            "128",
            "--steps",
            "2",
            "--prompt",
            "a boat",
            "--seed",
            seed,
            "--json",
        ]);
        job["outputs"].as_array().unwrap().iter().map(|file| file["sha256"].clone()).collect::<Vec<_>>()
    };
    let first = run("one", "5");
    assert_eq!(first, run("two", "5"));
    assert_ne!(first, run("three", "6"));
}

#[test]
fn an_edit_model_that_cannot_be_loaded_leaves_no_job() {
    let place = TestDir::new();
    let model = checkpoint("layered");
    fs::create_dir(place.path("bad")).unwrap();
    fs::write(place.path("bad/model_index.json"), "{}").unwrap();
    let mut command = place.command(&[
        "run",
        "decompose",
        &golden("pictures/boat.png"),
        "--model",
        &model,
        "--load-edit-model",
        "--out",
        "out",
    ]);
    let ran =
        crate::common::ran(command.env("ACETATE__QWEN_IMAGE__EDIT_MODEL_PATH", place.path("bad")).output().unwrap());
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert_eq!(place.json(&["jobs", "list", "--json"])["jobs"], Value::Array(Vec::new()));
}

#[test]
fn the_result_never_replaces_its_own_input() {
    let place = TestDir::new();
    let picture = place.picture("in.png", [1, 2, 3, 255]);
    place.json(&["run", "composite", &picture, "--out", "out", "--json"]);
    let before = fs::read(place.path("out/composite.png")).unwrap();
    let ran = place.run(&["run", "composite", "out/composite.png", &picture, "--out", "./out"]);
    assert!(ran.code == Some(2) && ran.stderr.contains("composite.png is an input"), "{ran:?}");
    assert_eq!(fs::read(place.path("out/composite.png")).unwrap(), before);
    assert_eq!(place.json(&["jobs", "list", "--json"])["jobs"].as_array().unwrap().len(), 1);
}

#[test]
fn a_result_that_is_given_out_again_names_what_differs() {
    let place = TestDir::new();
    let (model, other) = (checkpoint("layered"), place.text("other"));
    fs::create_dir(&other).unwrap();
    for file in ["model_index.json", "acetate.json"] {
        fs::copy(format!("{model}/{file}"), format!("{other}/{file}")).unwrap();
    }
    let run = |model: &str, out: &str| {
        let picture = golden("pictures/boat.png");
        let args = ["run", "decompose", &picture, "--id", ID, "--model", model, "--out", out];
        let quick = ["--resolution", "128", "--layers", "2", "--steps", "1", "--cfg-scale", "1", "--prompt", "x"];
        place.run(&[&args[..], &quick].concat())
    };
    let first = run(&model, "out");
    assert!(first.code == Some(0) && !first.stderr.contains("warning"), "{first:?}");
    let again = run(&model, "out");
    assert!(again.code == Some(0) && !again.stderr.contains("warning"), "{again:?}");
    let with_other = run(&other, "out");
    assert!(with_other.stderr.contains(&format!("warning: these pictures were made with {model}")), "{with_other:?}");
    let elsewhere = run(&model, "elsewhere");
    assert!(elsewhere.code == Some(2) && elsewhere.stderr.contains("with another output folder"), "{elsewhere:?}");

    // If a layer's file is gone, retrying does not help.
    let layer = format!("job:{ID}:2");
    fs::remove_file(place.path(&format!("data/objects/{ID}/1/layer-02.png"))).unwrap();
    let gone = place.run(&["run", "composite", &layer, "--out", "next", "--json"]);
    let job: Value = serde_json::from_str(&gone.stdout).unwrap();
    assert_eq!((&job["state"], &job["error"]["class"]), (&"failed".into(), &"invalid".into()), "{job}");
    assert!(job["error"]["message"].as_str().unwrap().contains("is no longer in the store"), "{job}");
}

#[test]
fn a_job_is_rerun_with_another_seed_and_other_parameters() {
    let place = TestDir::new();
    let picture = place.picture("in.png", [1, 2, 3, 255]);
    let given = ["--input", &picture, "--output", &place.text("out"), "--seed", "7", "--label", "set=x", "--json"];
    let submitted = place.json(&[&["submit", "decompose"], &given[..]].concat());
    let first = submitted["id"].as_str().unwrap();
    let args = ["jobs", "rerun", "last", "--seed", "8", "--param", "layers=3", "--param", "preset=fast", "--json"];
    let again = place.json(&args);
    let again = again["id"].as_str().unwrap();
    assert_ne!(again, first);
    let (old, new) = (place.json(&["jobs", "show", first, "--json"]), place.json(&["jobs", "show", again, "--json"]));
    assert_eq!((&new["state"], &new["input"], &new["labels"]), (&"queued".into(), &old["input"], &old["labels"]));
    assert_eq!((&old["params"]["seed"], &old["params"]["layers"]), (&7.into(), &4.into()));
    assert_eq!((&new["params"]["seed"], &new["params"]["layers"]), (&8.into(), &3.into()));
    assert_eq!((&new["params"]["preset"], &new["params"]["steps"]), (&"fast".into(), &12.into()));

    let refused = place.run(&["jobs", "rerun", "last", "--param", "layers=many"]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("params.layers"), "{}", refused.stderr);
    assert_eq!(place.json(&["jobs", "list", "--json"])["jobs"].as_array().unwrap().len(), 2);
}
