//! Edits that stay where they belong, from the command line: masks, regions, `keep_rest` and the drift guard.

use image::{Rgba, RgbaImage};
use serde_json::{Value, json};

use crate::common::{TestDir, checkpoint, golden};

const MASK: [u32; 4] = [40, 30, 60, 50];

/// An edit that is quick and makes noise: the checkpoint's weights are random.
fn edit(place: &TestDir, picture: &str, more: &[&str]) -> crate::common::Ran {
    let quick = ["--instruction", "Make it red", "--model", &checkpoint("edit"), "--steps", "2", "--cfg-scale", "1"];
    let job = ["--seed", "3", "--out", "out", "--json"];
    place.run(&[&["run", "edit", picture][..], &quick, &job, more].concat())
}

#[track_caller]
fn edited(place: &TestDir, picture: &str, more: &[&str]) -> (RgbaImage, Value) {
    let ran = edit(place, picture, more);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    (image::open(place.path("out/edited.png")).unwrap().to_rgba8(), place.manifest("out"))
}

#[track_caller]
fn failed(place: &TestDir, picture: &str, more: &[&str], wanted: &str) {
    let ran = edit(place, picture, more);
    assert_ne!(ran.code, Some(0), "{more:?}");
    assert!(ran.stderr.contains(wanted), "{more:?} gave {ran:?}");
}

fn inside(x: u32, y: u32) -> bool {
    let [left, top, width, height] = MASK;
    (left..left + width).contains(&x) && (top..top + height).contains(&y)
}

/// How many pixels inside and outside of [`MASK`] differ.
fn differing(a: &RgbaImage, b: &RgbaImage) -> [usize; 2] {
    assert_eq!(a.dimensions(), b.dimensions());
    let mut counts = [0; 2];
    for (x, y, pixel) in a.enumerate_pixels() {
        counts[usize::from(!inside(x, y))] += usize::from(pixel != b.get_pixel(x, y));
    }
    counts
}

fn mask_picture(place: &TestDir, name: &str, (width, height): (u32, u32), white: impl Fn(u32, u32) -> bool) -> String {
    let value = |x, y| if white(x, y) { Rgba([255; 4]) } else { Rgba([0, 0, 0, 255]) };
    RgbaImage::from_fn(width, height, value).save(place.path(name)).unwrap();
    place.text(name)
}

#[test]
fn an_edit_may_change_the_outline_of_its_layer() {
    let place = TestDir::new();
    let picture = place.text("disk.png");
    let disk = RgbaImage::from_fn(128, 128, |x, y| {
        let far = (f64::from(x) - 64.0).hypot(f64::from(y) - 64.0);
        Rgba([200, x as u8, y as u8, ((40.0 - far) * 60.0).clamp(0.0, 255.0) as u8])
    });
    disk.save(&picture).unwrap();
    let alpha = |image: &RgbaImage| image.pixels().map(|pixel| pixel[3]).collect::<Vec<_>>();
    let (kept, manifest) = edited(&place, &picture, &[]);
    assert_eq!((alpha(&kept), &manifest["request"]["version"]), (alpha(&disk), &json!(1)));
    assert_eq!(manifest["sampling"][0]["passes"], 2);
    assert_eq!(edited(&place, &picture, &["--alpha", "keep"]).0, kept);

    let (grown, manifest) = edited(&place, &picture, &["--alpha", "grow"]);
    assert_eq!(grown.dimensions(), (128, 128));
    assert_ne!(alpha(&grown), alpha(&disk), "random weights change everything");
    assert!(manifest["edits"][0]["alpha_changed"].as_f64().is_some_and(|share| share > 0.0), "{manifest}");
    assert_eq!(manifest["sampling"][0]["passes"], 4, "it runs twice");
    let request = &manifest["request"];
    assert_eq!((&request["version"], &request["params"]["alpha"]), (&json!(3), &json!("grow")));
    assert_eq!(edited(&place, &picture, &["--alpha", "grow"]).0, grown, "a seed gives the same again");

    // A mask holds alpha, too.
    let (masked, _) = edited(&place, &picture, &["--alpha", "grow", "--region", "40,30,60,50"]);
    let [changed, others] = differing(&masked, &disk);
    assert!(changed > 500 && others == 0, "{changed} {others}");
    let opaque = place.picture("opaque.png", [200, 30, 90, 255]);
    let (still, manifest) = edited(&place, &opaque, &["--alpha", "grow"]);
    assert!(still.pixels().all(|pixel| pixel[3] == 255));
    assert!(manifest["notes"].to_string().contains("alpha grow had no effect"), "{manifest}");
}

#[test]
fn a_mask_and_its_region_change_the_same_and_nothing_else() {
    let place = TestDir::new();
    let badge = golden("pictures/badge.png");
    let source = image::open(&badge).unwrap().to_rgba8();
    let size = source.dimensions();
    let (by_region, manifest) = edited(&place, &badge, &["--region", "40,30,60,50"]);
    let [changed, others] = differing(&by_region, &source);
    assert!(changed > 1000 && others == 0, "{changed} {others}");
    assert_eq!(manifest["edits"], json!([{ "changed": 0.13333 }]));
    assert_eq!(manifest["request"]["version"], 3);
    assert_eq!(manifest["request"]["params"]["region"], json!(MASK));

    let mask = mask_picture(&place, "mask.png", size, inside);
    let (by_mask, manifest) = edited(&place, &badge, &["--mask", &mask]);
    assert_eq!(by_mask, by_region);
    assert!(manifest["request"]["input"]["mask"].as_str().unwrap().ends_with("/mask.png"), "{manifest}");
    assert_ne!(edited(&place, &badge, &["--mask", &mask, "--feather", "0"]).0, by_region);

    // Of another size: scaled, with a note.
    let double = mask_picture(&place, "double.png", (2 * size.0, 2 * size.1), |x, y| inside(x / 2, y / 2));
    let (scaled, manifest) = edited(&place, &badge, &["--mask", &double]);
    let note = manifest["notes"].to_string();
    assert!(note.contains("the mask is 300x300 and was scaled to the picture's 150x150"), "{note}");
    let [changed, others] = differing(&scaled, &source);
    assert!(changed > 1000 && others < 500, "{changed} {others}");

    // White everywhere: as if there were none.
    let white = mask_picture(&place, "white.png", size, |_, _| true);
    let (with, manifest) = edited(&place, &badge, &["--mask", &white]);
    assert!(manifest["notes"].to_string().contains("lets everything change"), "{manifest}");
    assert_eq!(with, edited(&place, &badge, &[]).0);
}

#[test]
fn the_edits_of_a_workflow_stay_in_their_mask_or_region() {
    let place = TestDir::new();
    let badge = golden("pictures/badge.png");
    let models = ["--model", &checkpoint("layered"), "--edit-model", &checkpoint("edit")];
    let quick = ["--resolution", "128", "--layers", "2", "--steps", "1", "--cfg-scale", "1", "--prompt", "a badge"];
    let edits = ["--seed", "1", "--edit", "1=Make it red", "--edit", "2=Make it blue", "--out", "out"];
    let workflow =
        |more: &[&str]| place.run(&[&["run", "workflow", &badge][..], &models, &quick, &edits, more].concat());
    let picture = |name: &str| image::open(place.path(&format!("out/{name}.png"))).unwrap().to_rgba8();
    let results = |more: &[&str]| {
        let ran = workflow(more);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        for layer in ["layer-01", "layer-02"] {
            let [changed, others] = differing(&picture(&format!("edited-{layer}")), &picture(layer));
            assert!(changed > 500 && others == 0, "{layer} with {more:?}: {changed} {others}");
        }
        ["edited-layer-01", "edited-layer-02", "composite"].map(picture)
    };
    let by_region = results(&["--region", "40,30,60,50"]);
    let manifest = place.manifest("out");
    assert_eq!(manifest["request"]["params"]["edits"][1]["region"], json!(MASK));
    assert_eq!((&manifest["request"]["version"], &manifest["edits"][1]["changed"]), (&json!(3), &json!(0.13333)));
    let mask = mask_picture(&place, "mask.png", (150, 150), inside);
    assert_eq!(results(&["--mask", &mask]), by_region);
    assert!(place.manifest("out")["request"]["input"]["mask"].as_str().unwrap().ends_with("/mask.png"));
    let black = mask_picture(&place, "black.png", (150, 150), |_, _| false);
    for (more, wanted) in [
        (&["--region", "100,100,60,20"][..], "--region: 100,100,60,20 reaches to 160, 120"),
        (&["--mask", &black], "--mask: is black everywhere"),
        (&["--feather", "3"], "--feather: is the soft edge of a mask"),
        (&["--mask", &mask, "--keep-rest", "auto"], "--keep-rest: finds by itself what changed"),
        (&["--mask", &mask, "--region", "1,2,3,4"], "cannot be used with"),
    ] {
        let ran = workflow(more);
        assert!(ran.code != Some(0) && ran.stderr.contains(wanted), "{more:?} gave {ran:?}");
        let last = &place.json(&["jobs", "list", "--json"])["jobs"][0];
        let stage = last["progress"]["stage"].as_str().unwrap_or_default();
        assert!(
            last["state"] == "succeeded" || stage == "decode",
            "{more:?} is known before a model is loaded: {last}"
        );
    }
    let whole = ["run", "workflow", &badge, "--mask", &mask, "--out", "none"];
    let ran = place.run(&whole);
    assert!(ran.code == Some(2) && ran.stderr.contains("--mask: says where edits may change"), "{ran:?}");
}

#[test]
fn masks_that_cannot_be_used_say_why_before_a_model_is_loaded() {
    let place = TestDir::new();
    let badge = golden("pictures/badge.png");
    let size = (150, 150);
    let black = mask_picture(&place, "black.png", size, |_, _| false);
    let mask = mask_picture(&place, "mask.png", size, inside);
    failed(&place, &badge, &["--mask", &black], "--mask: is black everywhere");
    let outside = "--region: 100,100,60,20 reaches to 160, 120, outside the picture, which is 150x150";
    failed(&place, &badge, &["--region", "100,100,60,20"], outside);
    failed(&place, &badge, &["--region", "1,2,0,4"], "--region: is empty");
    failed(&place, &badge, &["--region", "1,2,3"], "write X,Y,WIDTH,HEIGHT");
    failed(&place, &badge, &["--region", "-1,2,3,4"], "write X,Y,WIDTH,HEIGHT");
    failed(&place, &badge, &["--mask", &mask, "--region", "1,2,3,4"], "cannot be used with");
    failed(&place, &badge, &["--mask", &mask, "--keep-rest", "auto"], "--keep-rest: finds by itself what changed");
    failed(&place, &badge, &["--feather", "3"], "--feather: is the soft edge of a mask");
    failed(&place, &badge, &["--mask", &mask, "--feather", "513"], "--feather: 513 is not between 0 and 512");
    failed(&place, &badge, &["--mask", "nowhere.png"], "nowhere.png");
    failed(&place, &badge, &["--mask", "job:018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21:1"], "there is no such job");
    let jobs = place.json(&["jobs", "list", "--json"]);
    let jobs = jobs["jobs"].as_array().unwrap();
    assert_eq!(jobs.len(), 3, "the others were refused before there was a job");
    assert!(jobs.iter().all(|job| job["state"] == "failed" && job["error"]["class"] == "invalid"), "{jobs:?}");
}

#[test]
fn a_layer_of_a_job_is_a_mask_until_the_job_is_deleted() {
    let place = TestDir::new();
    let badge = golden("pictures/badge.png");
    let source = image::open(&badge).unwrap().to_rgba8();
    let model = checkpoint("layered");
    let decompose = ["run", "decompose", &badge, "--model", &model, "--layers", "2", "--resolution", "128"];
    let quick = ["--steps", "1", "--cfg-scale", "1", "--prompt", "a badge", "--seed", "1", "--out", "layers", "--json"];
    let job = place.json(&[&decompose[..], &quick].concat());
    let layer = image::open(place.path("layers/layer-01.png")).unwrap().to_rgba8();
    let name = format!("job:{}:1", job["id"].as_str().unwrap());
    let (image, manifest) = edited(&place, &badge, &["--mask", &name, "--feather", "0"]);
    assert_eq!(manifest["request"]["input"]["mask"], json!({ "job": job["id"], "layer": 1 }));
    let alpha = image::DynamicImage::from(layer).resize_exact(150, 150, image::imageops::Nearest).to_rgba8();
    // Where a layer is clearly transparent, nothing may change.
    let clear = |x: u32, y: u32| {
        let around = (x.saturating_sub(6)..(x + 7).min(150))
            .flat_map(|x| (y.saturating_sub(6)..(y + 7).min(150)).map(move |y| (x, y)));
        around.into_iter().all(|(x, y)| alpha.get_pixel(x, y)[3] < 5)
    };
    let (mut kept, mut changed) = (0, 0);
    for (x, y, pixel) in image.enumerate_pixels() {
        let same = pixel == source.get_pixel(x, y);
        assert!(same || !clear(x, y), "{x} {y} changed");
        kept += usize::from(same);
        changed += usize::from(!same);
    }
    assert!(changed > 0, "{kept} kept, {changed} changed");

    place.run(&["jobs", "delete", job["id"].as_str().unwrap()]);
    failed(&place, &badge, &["--mask", &name], "layer 1 of job");
}

/// The checkpoint that acetate brings can make its scenes again.
#[test]
fn an_edit_of_one_thing_leaves_the_others_alone() {
    let place = TestDir::new();
    let scene = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/scene.png");
    let source = image::open(scene).unwrap().to_rgba8();
    let run = |more: &[&str]| {
        let edit = ["run", "edit", scene, "--instruction", "Make the circle blue.", "--steps", "12", "--seed", "1"];
        place.json(&[&edit[..], &["--out", "out", "--json"], more].concat());
        (image::open(place.path("out/edited.png")).unwrap().to_rgba8(), place.manifest("out"))
    };
    let (plain, manifest) = run(&[]);
    let drift = &manifest["edits"][0]["drift"];
    assert!(drift["shift"][0].as_f64().unwrap().abs() < 3.0 && (drift["zoom"].as_f64().unwrap() - 1.0).abs() < 0.03);
    let same = |a: &RgbaImage| a.pixels().zip(source.pixels()).filter(|(a, b)| a == b).count();
    let (kept, manifest) = run(&["--keep-rest", "auto"]);
    let changed = manifest["edits"][0]["changed"].as_f64().unwrap();
    let share = same(&kept) as f64 / f64::from(source.width() * source.height());
    println!("drift {drift}, changed {changed}, the same {share}, without {}", same(&plain));
    assert!(changed > 0.0 && changed < 0.7 && share >= 1.0 - changed - 1e-4, "{changed} {share}");
    let (off, manifest) = run(&["--drift-guard", "false"]);
    assert!(manifest["edits"].is_null(), "{manifest}");
    assert_eq!(off.dimensions(), plain.dimensions());
}
