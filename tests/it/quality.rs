//! Checks that the small checkpoints' layers, captions and edits are right on scenes that were not in the training.
//! `tests/scenes/` has the scenes with their true layers, made by `scripts/train/samples.py`;
//! `docs/small-checkpoints.md` has the results for many more.

use std::path::{Path, PathBuf};

use crate::common::TestDir;
use image::RgbaImage;
use serde::Deserialize;

/// Fewer than the default 50, to save time; the results hardly change.
const STEPS: &str = "20";

/// An entry of `scenes.json`.
#[derive(Deserialize)]
struct Scene {
    folder: String,
    /// The number of layers, including the background.
    layers: usize,
    caption: String,
    instruction: String,
    shown: String,
}

#[test]
fn scenes_come_apart_into_their_true_layers() {
    let (mut composites, mut alphas, mut captions) = (Vec::new(), Vec::new(), Vec::new());
    for scene in scenes() {
        let place = TestDir::new();
        let (given, count) = (scene.file("scene"), scene.layers.max(4).to_string());
        run(&place, &["decompose", &given, "--layers", &count], "layered-nano");
        let found: Vec<_> =
            (1..=scene.layers.max(4)).map(|index| open(&place.path(&format!("out/layer-{index:02}.png")))).collect();
        let truth: Vec<_> = (1..=scene.layers).map(|index| open(&scene.path(&format!("layer-{index}")))).collect();

        composites.push(psnr(&qwen_image::image_processor::composite(&found).unwrap(), &open(&scene.path("scene"))));
        assert!(psnr(&found[0], &truth[0]) > 25.0, "{}: the background", scene.caption);
        // Every true object is a layer, in the same order back to front; remaining layers are empty.
        let mut last = 0;
        for object in &truth[1..] {
            let shares: Vec<_> = found[1..].iter().map(|layer| overlap(object, layer)).collect();
            let best = (0..shares.len()).max_by(|a, b| shares[*a].total_cmp(&shares[*b])).unwrap() + 1;
            assert!(best > last, "{}: layer {best} stands for an object in front of layer {last}", scene.caption);
            (last, _) = (best, alphas.push(shares[best - 1]));
        }
        for empty in &found[scene.layers..] {
            assert!(coverage(empty) < 0.01, "{}: a layer too many covers {:.3}", scene.caption, coverage(empty));
        }
        captions.push(place.manifest("out")["caption"]["text"] == scene.caption);
    }
    assert!(mean(&composites) >= 28.0, "composites in dB: {composites:.1?}");
    assert!(mean(&alphas) >= 0.80, "overlap of alphas: {alphas:.3?}");
    assert!(captions.iter().filter(|right| **right).count() >= 3, "right captions: {captions:?}");
}

/// The preset of few steps needs neither a LoRA nor the network here, and is as good as many steps with guidance.
#[test]
fn four_steps_without_guidance_are_as_good() {
    let scenes = scenes();
    let scene = &scenes[0];
    let place = TestDir::new();
    let (given, count) = (scene.file("scene"), scene.layers.max(4).to_string());
    let quality = |out: &str, sampling: &[&str]| {
        let model = model("layered-nano");
        let args =
            ["run", "decompose", &given, "--layers", &count, "--out", out, "--model", &model, "--seed", "1", "--json"];
        place.json(&[&args[..], sampling].concat());
        let layer = |index: usize| open(&place.path(&format!("{out}/layer-{index:02}.png")));
        let found: Vec<_> = (1..=scene.layers.max(4)).map(layer).collect();
        let truth = |index: usize| open(&scene.path(&format!("layer-{index}")));
        let alphas: Vec<_> = (2..=scene.layers).map(|index| overlap(&found[index - 1], &truth(index))).collect();
        (psnr(&qwen_image::image_processor::composite(&found).unwrap(), &open(&scene.path("scene"))), mean(&alphas))
    };
    let (many, few) = (quality("many", &["--steps", STEPS]), quality("few", &["--preset", "lightning"]));
    assert!(few.0 > many.0 - 1.0 && few.1 > many.1 - 0.02, "{few:?}, with many steps {many:?}");

    let manifest = place.manifest("few");
    assert_eq!(manifest["request"]["params"]["steps"], 4);
    assert!(manifest["models"][0].get("loras").is_none(), "{manifest}");

    let edit = ["run", "edit", &scene.file("shown"), "--instruction", &scene.instruction, "--out", "edited"];
    let model = model("edit-nano");
    place.json(&[&edit[..], &["--model", &model, "--preset", "lightning", "--seed", "1", "--json"]].concat());
    let (edited, result) = (open(&place.path("edited/edited.png")), open(&scene.path("result")));
    assert!(psnr(&edited, &result) > 22.0, "{}: {:.1} dB", scene.instruction, psnr(&edited, &result));
}

/// The command fails instead of guessing layers that the model was not trained for.
#[test]
fn more_layers_than_the_checkpoint_makes_are_refused() {
    let place = TestDir::new();
    let model = model("layered-nano");
    let ran = place.run(&[
        "run",
        "decompose",
        &scenes()[0].file("scene"),
        "--out",
        "out",
        "--layers",
        "6",
        "--model",
        &model,
    ]);
    assert_ne!(ran.code, Some(0));
    assert!(ran.stderr.contains("layers: 6 is too many: this checkpoint makes 2 to 5 layers"), "{}", ran.stderr);
}

#[test]
fn instructions_change_what_they_name() {
    for scene in scenes() {
        let place = TestDir::new();
        let (given, words) = (scene.file("shown"), scene.instruction.as_str());
        run(&place, &["edit", &given, "--instruction", words], "edit-nano");
        let (before, after) = (open(&scene.path("shown")), open(&scene.path("result")));
        let edited = open(&place.path("out/edited.png"));
        let (done, undone) = (psnr(&edited, &after), psnr(&edited, &before));
        assert!(
            done > undone + 3.0 && done > 22.0,
            "{words}: {done:.1} dB from what was asked, {undone:.1} from the input"
        );
        let alpha = |picture: &RgbaImage| picture.pixels().map(|pixel| pixel.0[3]).collect::<Vec<_>>();
        assert!(scene.shown != "layer" || alpha(&edited) == alpha(&before), "{words}: alpha moved");
    }
}

/// The LoRA in `models/loras` teaches instructions that need another outline; with strength 0, it leaves no trace.
#[test]
fn a_lora_changes_outlines() {
    #[derive(Deserialize)]
    struct Outlined {
        name: String,
        instruction: String,
    }
    let folder = root().join("outlines");
    let text = std::fs::read_to_string(folder.join("outlines.json")).unwrap();
    let lora = model("loras/edit-nano-outlines.safetensors");
    for (index, Outlined { name, instruction }) in
        serde_json::from_str::<Vec<Outlined>>(&text).unwrap().into_iter().enumerate()
    {
        let (given, place) = (folder.join(format!("{name}.png")), TestDir::new());
        let (before, result) = (open(&given), open(&folder.join(format!("{name}-result.png"))));
        let edited = |out: &str, loras: &[&str]| {
            let (given, model) = (given.display().to_string(), model("edit-nano"));
            let edit = ["run", "edit", &given, "--instruction", &instruction, "--alpha", "grow", "--out", out];
            let rest = ["--model", &model, "--preset", "lightning", "--seed", "1", "--json"];
            place.json(&[&edit[..], &rest, loras].concat());
            open(&place.path(&format!("{out}/edited.png")))
        };
        let (found, kept) = (overlap(&edited("with", &["--lora", &lora]), &result), overlap(&before, &result));
        assert!(found >= 0.85 && 1.0 - found < 0.75 * (1.0 - kept), "{name}: {found:.3}, the old outline {kept:.3}");
        let applied = &place.manifest("with")["models"][0]["loras"][0];
        assert_eq!((&applied["rank"], &applied["modules"]), (&16.into(), &(5 * 14).into()), "{applied}");
        if index == 0 {
            let base = edited("base", &[]);
            assert!(overlap(&base, &result) < kept + 0.1, "{name}: a LoRA is needed");
            assert!(edited("none", &["--lora", &format!("{lora}=0")]) == base, "strength 0");
        }
    }
}

/// An edited layer is not visible outside its alpha, so the scene does not change there.
#[test]
fn a_scene_changes_only_where_the_edited_layer_is() {
    let scene = &scenes()[3];
    let place = TestDir::new();
    let layers: Vec<_> = (1..=scene.layers).map(|index| open(&scene.path(&format!("layer-{index}")))).collect();
    let given = scene.file("layer-3");
    run(&place, &["edit", &given, "--instruction", "Make it pink"], "edit-nano");
    let mut changed = layers.clone();
    changed[2] = open(&place.path("out/edited.png"));
    let [before, after] = [&layers, &changed].map(|layers| qwen_image::image_processor::composite(layers).unwrap());
    let mut moved = 0;
    for ((old, new), layer) in before.pixels().zip(after.pixels()).zip(layers[2].pixels()) {
        assert!(layer.0[3] > 0 || old == new);
        moved += u32::from(old != new);
    }
    assert!(moved > 200, "{moved} pixels changed");
}

/// The results are in `out`.
fn run(place: &TestDir, args: &[&str], checkpoint: &str) {
    let model = model(checkpoint);
    let rest = ["--out", "out", "--model", &model, "--steps", STEPS, "--seed", "1", "--json"];
    place.json(&[&["run"], args, &rest].concat());
}

fn model(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name).display().to_string()
}

fn scenes() -> Vec<Scene> {
    let text = std::fs::read_to_string(root().join("scenes.json")).unwrap();
    let scenes: Vec<Scene> = serde_json::from_str(&text).unwrap();
    assert_eq!(scenes.len(), 4);
    scenes
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenes")
}

impl Scene {
    fn path(&self, name: &str) -> PathBuf {
        root().join(&self.folder).join(format!("{name}.png"))
    }

    fn file(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

fn open(path: &Path) -> RgbaImage {
    image::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).to_rgba8()
}

/// The PSNR of the colors where the second picture is not transparent, in dB.
fn psnr(found: &RgbaImage, truth: &RgbaImage) -> f64 {
    assert_eq!(found.dimensions(), truth.dimensions());
    let seen = || found.pixels().zip(truth.pixels()).filter(|(_, truth)| truth.0[3] > 0);
    let square = |a: u8, b: u8| (f64::from(a) - f64::from(b)).powi(2);
    let sum: f64 = seen().flat_map(|(a, b)| (0..3).map(move |c| square(a.0[c], b.0[c]))).sum();
    10.0 * (255.0 * 255.0 * 3.0 * seen().count() as f64 / sum.max(1e-9)).log10()
}

/// The intersection over union of two alphas from 0 to 1.
fn overlap(a: &RgbaImage, b: &RgbaImage) -> f64 {
    let pairs = || a.pixels().zip(b.pixels()).map(|(a, b)| (f64::from(a.0[3]), f64::from(b.0[3])));
    pairs().map(|(a, b)| a.min(b)).sum::<f64>() / pairs().map(|(a, b)| a.max(b)).sum::<f64>().max(1.0)
}

/// The mean of alpha, 0 to 1.
fn coverage(layer: &RgbaImage) -> f64 {
    layer.pixels().map(|pixel| f64::from(pixel.0[3]) / 255.0).sum::<f64>() / f64::from(layer.width() * layer.height())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
