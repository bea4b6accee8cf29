//! Without a chosen model, the small ones that come with acetate are found, used, and reported as such.

use std::{fs, path::Path, process::Command};

use crate::{
    common::{Ran, TestDir, checkpoint, ran},
    http::server::Server,
};
use serde_json::Value;

/// A separate copy of the program, at `opt/bin/acetate`, in an otherwise empty folder.
struct Installed(TestDir);

impl Installed {
    fn alone() -> Self {
        let place = TestDir::new();
        fs::create_dir_all(place.path("opt/bin")).unwrap();
        fs::create_dir(place.path("work")).unwrap();
        // Do not use fs::copy: a file that this process had open for writing may be busy if another test forks.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_acetate")).arg(place.path("opt/bin/acetate")).status();
        assert!(copied.unwrap().success());
        fs::copy(repository().join("examples/scene.png"), place.path("scene.png")).unwrap();
        Self(place)
    }

    fn with_models(models: &str) -> Self {
        let installed = Self::alone();
        let models = installed.0.path(models);
        fs::create_dir_all(models.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(repository().join("models"), models).unwrap();
        installed
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.0.command_of(&self.0.path("opt/bin/acetate"), args);
        command.current_dir(self.0.path("work"));
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        ran(self.command(args).output().unwrap())
    }

    fn json(&self, args: &[&str]) -> Value {
        json(self.run(args))
    }

    /// The real path, as the program prints it.
    fn text(&self, name: &str) -> String {
        self.0.folder.path().canonicalize().unwrap().join(name).display().to_string()
    }

    fn manifest(&self, out: &str) -> Value {
        serde_json::from_slice(&fs::read(self.0.path("work").join(out).join("manifest.json")).unwrap()).unwrap()
    }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn json(ran: Ran) -> Value {
    assert_eq!(ran.code, Some(0), "{ran:?}");
    serde_json::from_str(&ran.stdout).unwrap()
}

const DECOMPOSE: [&str; 7] = ["run", "decompose", "../scene.png", "--prompt", "a cloud", "--steps", "1"];
const EDIT: [&str; 7] = ["run", "edit", "../scene.png", "--instruction", "Make it red", "--steps", "1"];
const WORKFLOW: [&str; 9] =
    ["run", "workflow", "../scene.png", "--prompt", "a cloud", "--steps", "1", "--edit", "2=Make it red"];

#[test]
fn models_beside_the_program_are_used_and_named() {
    let installed = Installed::with_models("opt/bin/models");
    let Ran { code, stdout, stderr } = installed.run(&[&DECOMPOSE[..], &["--out", "layers"]].concat());
    assert_eq!(code, Some(0), "{stderr}");
    let layered = installed.text("opt/bin/models/layered-nano");
    let line = |name: &str| stdout.lines().filter_map(|line| line.strip_prefix(name)).collect::<Vec<_>>();
    assert_eq!(line("model "), [format!("    {layered}")]);
    let full = "using the small demo model; for the full one (58 GB): --model Qwen/Qwen-Image-Layered";
    assert_eq!(line("default "), [format!("  {full}")]);
    assert_eq!(line("note ").len(), 1, "{stdout}");
    assert!(line("note ")[0].contains("trained on drawn 128x128 scenes"), "{stdout}");
    let manifest = installed.manifest("layers");
    assert_eq!((&manifest["models"][0]["id"], &manifest["models"][0]["default"]), (&layered.into(), &true.into()));
    assert!(manifest["notes"][0].as_str().unwrap().ends_with("people need Qwen/Qwen-Image-Layered"), "{manifest}");
    let read = |manifest: &Value| ["text_positions", "image_processor"].map(|key| manifest["models"][0][key].clone());
    assert_eq!(read(&manifest), [Value::Null, "torchvision".into()]);

    let edited = installed.run(&[&EDIT[..], &["--out", "edited"]].concat());
    assert!(edited.stdout.contains(": --model Qwen/Qwen-Image-Edit-2509\n"), "{edited:?}");
    let edit = installed.text("opt/bin/models/edit-nano");
    let manifest = installed.manifest("edited");
    assert_eq!(manifest["models"][0]["id"], edit.as_str());
    // The settings that it was trained with.
    assert_eq!(read(&manifest), ["sequential", "pil"].map(Value::from));

    let both = installed.run(&[&WORKFLOW[..], &["--out", "both"]].concat());
    let flags = "--model Qwen/Qwen-Image-Layered --edit-model Qwen/Qwen-Image-Edit-2509\n";
    assert!(both.stdout.contains(flags), "{both:?}");

    // The same checkpoint, but chosen.
    let chosen = ["--out", "chosen", "--model", "../opt/bin/models/layered-nano"];
    let chosen = installed.run(&[&DECOMPOSE[..], &chosen].concat());
    assert!(chosen.stdout.contains("note ") && !chosen.stdout.contains("small demo model"), "{chosen:?}");
    assert_eq!(installed.manifest("chosen")["models"][0].get("default"), None);
}

#[test]
fn a_linked_program_finds_its_shared_models_and_says_so_everywhere() {
    let installed = Installed::with_models("opt/share/acetate/models");
    let link = installed.0.path("acetate");
    std::os::unix::fs::symlink(installed.0.path("opt/bin/acetate"), &link).unwrap();
    let run = |args: &[&str]| ran(installed.0.command_of(&link, args).output().unwrap());
    let (layered, edit) =
        (installed.text("opt/share/acetate/models/layered-nano"), installed.text("opt/share/acetate/models/edit-nano"));
    let shown = json(run(&["config", "show", "--json"]));
    assert_eq!((&shown["model"], &shown["edit_model"]), (&layered.as_str().into(), &edit.as_str().into()));
    let text = run(&["config", "show"]).stdout;
    assert!(text.contains(&format!("\nmodel       {layered}, the small one, because none is configured\n")), "{text}");

    let doctor = run(&["doctor"]);
    assert_eq!(doctor.code, Some(0), "{doctor:?}");
    let wanted = format!("{layered}, QwenImageLayeredPipeline; the small one, because none is configured");
    assert!(doctor.stdout.contains(&wanted), "{}", doctor.stdout);

    let listed = json(run(&["models", "list", "--json"]));
    assert_eq!((&listed["models"], &listed["small"][0]["folder"]), (&Value::Array(Vec::new()), &layered.into()));
    assert!(listed["small"][1]["bytes"].as_u64().unwrap() > 30_000_000, "{listed}");
    let table = run(&["models", "list"]).stdout;
    let line = table.lines().find(|line| line.starts_with(&edit)).unwrap();
    assert!(line.contains("the default") && line.ends_with(" MB"), "{table}");
}

#[test]
fn the_edit_model_follows_the_choice_of_the_other() {
    let installed = Installed::with_models("opt/bin/models");
    let with = |key: &str, model: &str, args: &[&str]| ran(installed.command(args).env(key, model).output().unwrap());
    let (key, golden) = ("ACETATE__QWEN_IMAGE__MODEL_PATH", checkpoint("layered"));
    let shown = json(with(key, &golden, &["config", "show", "--json"]));
    assert_eq!((&shown["model"], &shown["edit_model"]), (&golden.as_str().into(), &"Qwen/Qwen-Image-Edit-2509".into()));
    let edited = with(key, &golden, &[&EDIT[..], &["--out", "out"]].concat());
    assert_eq!(edited.code, Some(1), "{edited:?}");
    assert!(edited.stderr.contains("Qwen/Qwen-Image-Edit-2509@main is not complete"), "{edited:?}");
    let listed = json(with(key, &golden, &["models", "list", "--json"]));
    assert_eq!((&listed["small"][0]["default"], &listed["small"][1]["default"]), (&false.into(), &false.into()));

    let (key, golden) = ("ACETATE__QWEN_IMAGE__EDIT_MODEL_PATH", checkpoint("edit"));
    let shown = json(with(key, &golden, &["config", "show", "--json"]));
    let layered = installed.text("opt/bin/models/layered-nano");
    assert_eq!((&shown["model"], &shown["edit_model"]), (&layered.into(), &golden.as_str().into()));
    let made = with(key, &golden, &[&WORKFLOW[..], &["--out", "out"]].concat());
    assert_eq!(made.code, Some(0), "{made:?}");
    let manifest = installed.manifest("out");
    let default = |index: usize| manifest["models"][index]["default"].as_bool();
    assert_eq!((default(0), default(1)), (Some(true), None), "{manifest}");
    assert!(made.stdout.contains("(58 GB): --model Qwen/Qwen-Image-Layered\n"), "{}", made.stdout);
}

#[test]
fn with_no_model_anywhere_the_places_are_named() {
    let installed = Installed::alone();
    let places = ["opt/bin/models", "opt/share/acetate/models", "work"].map(|name| installed.text(name));
    for (args, name, flag, full) in [
        (&DECOMPOSE[..], "layered-nano", "--model", "Qwen/Qwen-Image-Layered"),
        (&EDIT, "edit-nano", "--model", "Qwen/Qwen-Image-Edit-2509"),
        (&WORKFLOW, "layered-nano", "--model", "Qwen/Qwen-Image-Layered"),
    ] {
        let Ran { code, stderr, .. } = installed.run(&[args, &["--out", "out"]].concat());
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.starts_with(&format!("error: model {name}: no model was chosen")), "{stderr}");
        for wanted in [flag, full, "models pull"].into_iter().chain(places.iter().map(String::as_str)) {
            assert!(stderr.contains(wanted), "{wanted} is not in: {stderr}");
        }
        assert!(!installed.0.path("work/out").exists(), "refused before any work");
    }
    let shown = installed.json(&["config", "show", "--json"]);
    assert_eq!((&shown["model"], &shown["edit_model"]), (&Value::Null, &Value::Null));
    let Ran { code, stdout, .. } = installed.run(&["doctor", "--json"]);
    assert_eq!(code, Some(1), "jobs would fail");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let model = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == "model").unwrap();
    assert_eq!((&model["state"], &report["ready"]), (&"missing".into(), &false.into()));
    assert!(model["text"].as_str().unwrap().contains(&places[0]), "{model}");
    assert!(installed.run(&["models", "list"]).stdout.starts_with("no models in "));
    // Commands that need no model still work.
    installed.json(&["run", "composite", "../scene.png", "--out", "out", "--json"]);
    // The server says that the model is not there, not that it is loaded.
    let server = Server::of(installed.command(&["serve", "--bind", "127.0.0.1:0"]));
    let model = server.get("/v1/models").ok(200).json()["decompose"].clone();
    assert_eq!(
        (&model["small"], &model["available"], &model["layers"]),
        (&true.into(), &false.into(), &Value::Null),
        "{model}"
    );
}
