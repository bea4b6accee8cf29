//! Layers at the size of their picture: they compose to it, and what they differ by is told.

use std::{fs, path::Path};

use ::image::{Rgba, RgbaImage};
use acetate::image::{DecodeLimits, decode};
use qwen_image::image_processor::composite;
use serde_json::{Value, json};

use crate::common::{Ran, TestDir, checkpoint, golden};

const QUICK: [&str; 8] = ["--layers", "3", "--steps", "2", "--prompt", "x", "--seed", "7"];

fn decompose(place: &TestDir, picture: &str, out: &str, more: &[&str]) -> Value {
    let model = checkpoint("layered");
    let args = ["run", "decompose", picture, "--out", out, "--model", &model, "--resolution", "128", "--json"];
    place.json(&[&args[..], &QUICK, more].concat())
}

fn open(path: &Path) -> RgbaImage {
    decode("a picture", &fs::read(path).unwrap(), &DecodeLimits::default()).unwrap().pixels
}

fn layers(place: &TestDir, out: &str) -> Vec<RgbaImage> {
    (1..=3).map(|layer| open(&place.path(out).join(format!("layer-{layer:02}.png")))).collect()
}

#[test]
fn layers_of_a_photo_have_its_size_and_compose_to_it() {
    let place = TestDir::new();
    let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/seaside.jpg");
    let job = decompose(&place, photo.to_str().unwrap(), "out", &["--min-psnr", "0"]);
    assert_eq!(composite(&layers(&place, "out")).unwrap(), open(&photo));
    let whole = open(&place.path("out/layer-00.png")).dimensions();
    assert_eq!(whole, (160, 96), "the regenerated picture stays as the model made it");

    let told = &job["fidelity"];
    assert_eq!((&told["psnr"], &told["max_error"], &told["quality"]), (&Value::Null, &json!(0), &json!("ok")));
    assert_eq!(told["source"], json!({ "width": 640, "height": 480 }));
    assert_eq!((&told["output"], &told["model"]), (&told["source"], &json!({ "width": 160, "height": 96 })));
    assert_eq!(told["layers"].as_array().unwrap().len(), 3);
    assert!(told["model_psnr"].as_f64().is_some_and(|psnr| psnr > 0.0), "{told}");
    assert_eq!(place.manifest("out")["fidelity"], *told);
    let Ran { stdout, .. } = place.run(&["jobs", "show", "last"]);
    assert!(stdout.contains("fidelity   exact; by the model, at 160x96: "), "{stdout}");

    // What the model made is the same, with the same error.
    let own = decompose(&place, photo.to_str().unwrap(), "own", &["--output-size", "model"]);
    let small = layers(&place, "own");
    assert!(small.iter().all(|layer| layer.dimensions() == whole));
    assert_eq!(open(&place.path("own/layer-00.png")), open(&place.path("out/layer-00.png")));
    let own = &own["fidelity"];
    assert_eq!((&own["psnr"], &own["model_psnr"]), (&told["model_psnr"], &told["model_psnr"]));
    assert!(own.get("quality").is_none(), "nothing was asked: {own}");
}

/// Of the model's shape, and not larger: nothing is gained by resizing.
#[test]
fn a_picture_of_the_models_size_is_left_to_the_model() {
    let place = TestDir::new();
    let picture = place.text("square.png");
    RgbaImage::from_fn(64, 64, |x, y| Rgba([x as u8 * 4, y as u8 * 4, 90, 255])).save(&picture).unwrap();
    let size = |job: &Value| job["fidelity"]["output"]["width"].as_u64();
    let by_default = decompose(&place, &picture, "default", &[]);
    assert_eq!(size(&by_default), Some(128));
    assert_eq!(by_default["request"]["version"], 1);
    let asked = decompose(&place, &picture, "asked", &["--output-size", "source"]);
    assert_eq!((size(&asked), &asked["request"]["version"]), (Some(64), &json!(3)));
    assert_eq!(composite(&layers(&place, "asked")).unwrap(), open(Path::new(&picture)));
}

#[test]
fn a_result_below_the_least_ratio_is_marked_and_succeeds() {
    let place = TestDir::new();
    fs::create_dir(place.path("in")).unwrap();
    fs::copy(golden("pictures/boat.png"), place.path("in/boat.png")).unwrap();
    let model = checkpoint("layered");
    let args = ["run", "decompose", "in", "--out", "out", "--model", &model, "--min-psnr", "100"];
    let ran = place.run(&[&args[..], &QUICK].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let batch = place.json(&["jobs", "list", "--json"])["jobs"][0]["batch"].as_str().unwrap().to_owned();
    let ran = place.run(&["jobs", "results", "--batch", &batch]);
    let line: Value = serde_json::from_str(ran.stdout.lines().next().unwrap()).unwrap();
    assert_eq!((&line["status"], &line["quality"]), (&json!("succeeded"), &json!("low")), "{line}");
    assert_eq!(line["fidelity"], place.manifest("out/boat")["fidelity"]);
}

/// Programs write anything there.
#[test]
fn what_stands_under_an_alpha_of_0_does_not_matter() {
    let place = TestDir::new();
    for (name, hidden) in [("black", [0, 0, 0, 0]), ("loud", [255, 0, 200, 0])] {
        let disk = RgbaImage::from_fn(128, 128, |x, y| {
            let far = (f64::from(x) - 64.0).hypot(f64::from(y) - 64.0);
            let alpha = ((50.0 - far) * 60.0).clamp(0.0, 255.0) as u8;
            Rgba(if alpha == 0 { hidden } else { [200, x as u8, y as u8, alpha] })
        });
        disk.save(place.path(&format!("{name}.png"))).unwrap();
        decompose(&place, &place.text(&format!("{name}.png")), name, &[]);
        let edit = ["run", "edit", &format!("{name}.png"), "--instruction", "Make it blue", "--model"];
        let out = format!("{name}-edited");
        place.json(
            &[&edit[..], &[&checkpoint("edit"), "--steps", "1", "--seed", "3", "--json", "--out", &out]].concat(),
        );
    }
    assert_eq!(layers(&place, "black"), layers(&place, "loud"));
    assert_eq!(open(&place.path("black-edited/edited.png")), open(&place.path("loud-edited/edited.png")));
}

#[test]
fn layers_that_do_not_fit_into_memory_are_refused_before_the_model_runs() {
    let place = TestDir::new();
    let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/seaside.jpg");
    let mut command = place.command(&["run", "decompose", photo.to_str().unwrap(), "--out", "out", "--json"]);
    command.env("ACETATE__IMAGE__MAX_MEMORY", "8000000");
    let ran = crate::common::ran(command.output().unwrap());
    let job: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    assert_eq!((ran.code, &job["error"]["code"]), (Some(2), &json!("image_too_large")), "{job}");
    let told = "4 layers of 640x480 pixels: they need 9 MiB of memory; the limit, image.max_memory, is 8 MiB; ask for \
                fewer layers, or for output_size model";
    assert_eq!(job["error"]["message"], told);
    assert!(job["progress"]["stage"] != "load", "{job}");
}
