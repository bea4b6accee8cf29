//! Trimmed layers: smaller files with a place, and the same pictures wherever they are used.

use std::{
    fs,
    io::{Cursor, Read},
    path::Path,
};

use ::image::{Rgba, RgbaImage};
use acetate::{
    image::{DecodeLimits, decode, placed},
    job::Placement,
};
use serde_json::{Value, json};

use crate::common::{TestDir, checkpoint};

const FLAGS: [&str; 10] = ["--layers", "3", "--steps", "2", "--prompt", "x", "--seed", "7", "--output-size", "source"];

fn pixels(path: &Path) -> RgbaImage {
    decode("a picture", &fs::read(path).unwrap(), &DecodeLimits::default()).unwrap().pixels
}

/// The scene on a large canvas, so that the small model's layers have margins.
fn scene(place: &TestDir) -> String {
    let path = place.text("scene.png");
    let mut canvas = RgbaImage::new(300, 200);
    let photo = pixels(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/scene.png"));
    ::image::imageops::replace(&mut canvas, &photo, 90, 30);
    canvas.save(&path).unwrap();
    path
}

fn decompose(place: &TestDir, kind: &str, picture: &str, out: &str, more: &[&str]) -> Value {
    let model = checkpoint("layered");
    let args = ["run", kind, picture, "--out", out, "--model", &model, "--resolution", "128", "--json"];
    place.json(&[&args[..], &FLAGS, more].concat())
}

/// Whether a trimmed layer on its canvas is the whole one, but for a trace of alpha in its margins.
fn is_cut_of(cut: &RgbaImage, whole: &RgbaImage) -> bool {
    let is_trace = |cut: &Rgba<u8>, whole: &Rgba<u8>| cut.0 == [0; 4] && whole[3] < 8;
    cut.dimensions() == whole.dimensions()
        && cut.pixels().zip(whole.pixels()).all(|(cut, whole)| cut == whole || is_trace(cut, whole))
}

/// The largest difference of premultiplied channels, of 255.
fn difference(a: &RgbaImage, b: &RgbaImage) -> u8 {
    assert_eq!(a.dimensions(), b.dimensions());
    let premultiplied = |pixel: &Rgba<u8>| {
        let [r, g, b, a] = pixel.0.map(u16::from);
        [r * a / 255, g * a / 255, b * a / 255, a]
    };
    let largest = |(a, b): (&Rgba<u8>, &Rgba<u8>)| {
        premultiplied(a).into_iter().zip(premultiplied(b)).map(|(a, b)| a.abs_diff(b)).max().unwrap()
    };
    u8::try_from(a.pixels().zip(b.pixels()).map(largest).max().unwrap()).unwrap()
}

/// The composite in an exported ZIP.
fn composite_of(zip: &[u8]) -> RgbaImage {
    let mut archive = ::zip::ZipArchive::new(Cursor::new(zip)).unwrap();
    let mut png = Vec::new();
    archive.by_name("composite.png").unwrap().read_to_end(&mut png).unwrap();
    decode("composite", &png, &DecodeLimits::default()).unwrap().pixels
}

/// What trimming three layers may change at most: 7 of 255 for each.
const CUT: u8 = 21;

/// A file of a result, on its canvas.
fn on_canvas(place: &TestDir, out: &str, file: &Value) -> RgbaImage {
    let name = file["name"].as_str().unwrap();
    let placement = file.get("placement").map(|placement| {
        let side = |name: &str| u32::try_from(placement[name].as_u64().unwrap()).unwrap();
        Placement { x: side("x"), y: side("y"), width: side("width"), height: side("height") }
    });
    placed(name, pixels(&place.path(out).join(name)), placement, &DecodeLimits::default()).unwrap()
}

#[test]
fn trimmed_layers_are_the_same_pictures() {
    let place = TestDir::new();
    let picture = scene(&place);
    decompose(&place, "decompose", &picture, "whole", &["--sheet", "whole.png"]);
    let job = decompose(&place, "decompose", &picture, "cut", &["--trim", "--sheet", "cut.png"]);
    assert_eq!((&job["request"]["version"], &job["request"]["params"]["trim"]), (&json!(3), &json!(true)));
    let [whole, cut] = ["whole", "cut"].map(|out| place.manifest(out)["files"].as_array().unwrap().clone());
    assert!(whole.iter().all(|file| file.get("placement").is_none()));
    assert!(cut[0].get("placement").is_none(), "the regenerated picture is whole");
    for (whole, cut) in whole.iter().zip(&cut) {
        assert!(is_cut_of(&on_canvas(&place, "cut", cut), &on_canvas(&place, "whole", whole)), "{cut}");
    }
    for cut in &cut[1..] {
        assert_eq!((&cut["placement"]["width"], &cut["placement"]["height"]), (&json!(300), &json!(200)), "{cut}");
        let size = |of: &Value| (of["width"].as_u64().unwrap(), of["height"].as_u64().unwrap());
        assert!(size(cut) < (300, 200) && size(&cut["bounding_box"]) == size(cut), "{cut}");
    }
    let [whole, cut] = ["whole.png", "cut.png"].map(|name| pixels(&place.path(name)));
    assert!(difference(&whole, &cut) <= CUT, "the sheets show the same");

    // As one file.
    let merged = ["whole", "cut"].map(|out| {
        let file = format!("{out}.zip");
        let ran = place.run(&["export", out, "--out", &file]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        composite_of(&fs::read(place.path(&file)).unwrap())
    });
    assert!(difference(&merged[0], &merged[1]) <= CUT);
}

#[test]
fn later_jobs_get_trimmed_layers_on_their_canvas() {
    let place = TestDir::new();
    let picture = scene(&place);
    let cut = decompose(&place, "decompose", &picture, "cut", &["--trim"]);
    let id = cut["job"].as_str().or(cut["id"].as_str()).unwrap().to_owned();
    let layers: Vec<String> = (1..=3).map(|layer| format!("job:{id}:{layer}")).collect();
    let args = ["run", "composite", &layers[0], &layers[1], &layers[2], "--out", "again", "--json"];
    place.json(&args);
    assert!(difference(&pixels(&place.path("again/composite.png")), &pixels(Path::new(&picture))) <= CUT);
    let edit = ["run", "edit", &layers[1], "--instruction", "Make it blue", "--steps", "1", "--out", "edit", "--json"];
    place.json(&[&edit[..], &["--model", &checkpoint("edit")]].concat());
    let (edited, files) = (pixels(&place.path("edit/edited.png")), place.manifest("cut")["files"].clone());
    let layer = on_canvas(&place, "cut", &files[2]);
    assert!(
        edited.dimensions() == (300, 200) && edited.pixels().zip(layer.pixels()).all(|(new, old)| new[3] == old[3])
    );
}

#[test]
fn a_workflow_trims_its_edited_layers_too() {
    let place = TestDir::new();
    let picture = scene(&place);
    let edits = ["--edit", "2=Make it blue", "--trim", "--edit-model"];
    decompose(&place, "workflow", &picture, "out", &[&edits[..], &[&checkpoint("edit")]].concat());
    let manifest = place.manifest("out");
    let files = manifest["files"].as_array().unwrap();
    let named = |name: &str| files.iter().find(|file| file["name"] == name).unwrap();
    let [layer, edited] = ["layer-02.png", "edited-layer-02.png"].map(named);
    assert_eq!(layer["placement"], edited["placement"], "the alpha is the same");
    let composite = named("composite.png");
    assert!(composite.get("placement").is_none());
    let layers =
        ["layer-01.png", "edited-layer-02.png", "layer-03.png"].map(|name| on_canvas(&place, "out", named(name)));
    let wanted = qwen_image::image_processor::composite(&layers).unwrap();
    assert!(difference(&on_canvas(&place, "out", composite), &wanted) <= CUT);
}
