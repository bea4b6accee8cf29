//! The command line: help texts, and the messages and exit codes of mistakes.

use std::{fs, os::unix::process::CommandExt, path::Path, process::Command};

use crate::common::{Ran, TestDir, checkpoint, is_root, names, ran, skipped};
use acetate::job::{JobRequest, Task};

#[test]
fn help_texts() {
    let place = TestDir::new();
    for (name, args) in [
        ("help", &["--help"] as &[&str]),
        ("help_run", &["run", "--help"]),
        ("help_run_decompose", &["run", "decompose", "--help"]),
        ("help_run_edit", &["run", "edit", "--help"]),
        ("help_run_composite", &["run", "composite", "--help"]),
        ("help_run_workflow", &["run", "workflow", "--help"]),
        ("help_submit", &["submit", "--help"]),
        ("help_submit_decompose", &["submit", "decompose", "--help"]),
        ("help_serve", &["serve", "--help"]),
        ("help_worker", &["worker", "--help"]),
        ("help_jobs", &["jobs", "--help"]),
        ("help_jobs_prune", &["jobs", "prune", "--help"]),
        ("help_jobs_retry", &["jobs", "retry", "--help"]),
        ("help_jobs_rerun", &["jobs", "rerun", "--help"]),
        ("help_jobs_export", &["jobs", "export", "--help"]),
        ("help_jobs_cancel", &["jobs", "cancel", "--help"]),
        ("help_jobs_history", &["jobs", "history", "--help"]),
        ("help_dead_letters", &["dead-letters", "--help"]),
        ("help_dead_letters_list", &["dead-letters", "list", "--help"]),
        ("help_dead_letters_retry", &["dead-letters", "retry", "--help"]),
        ("help_dead_letters_drop", &["dead-letters", "drop", "--help"]),
        ("help_audit_list", &["audit", "list", "--help"]),
        ("help_queue", &["queue", "--help"]),
        ("help_queue_pause", &["queue", "pause", "--help"]),
        ("help_queue_drain", &["queue", "drain", "--help"]),
        ("help_export", &["export", "--help"]),
        ("help_models", &["models", "--help"]),
        ("help_models_check", &["models", "check", "--help"]),
        ("help_models_convert", &["models", "convert", "--help"]),
        ("help_doctor", &["doctor", "--help"]),
        ("help_completions", &["completions", "--help"]),
        ("help_man", &["man", "--help"]),
        ("help_migrate", &["migrate", "--help"]),
    ] {
        let Ran { code, stdout, stderr } = place.run(args);
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        insta::assert_snapshot!(name, stdout);
    }
}

#[test]
fn pages_that_are_not_there() {
    let place = TestDir::new();
    let ran = place.run(&["man", "run", "decomposed"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""));
    let known = "COMMAND: there is no command `decomposed`; here are decompose, edit, composite, workflow";
    assert!(ran.stderr.contains(known), "{}", ran.stderr);
    assert!(place.run(&["man", "run", "edit", "more"]).stderr.contains("here are none"));
    let page = place.run(&["man", "run", "edit"]).stdout;
    let footer = format!("\"acetate {}\"", env!("CARGO_PKG_VERSION"));
    assert!(page.lines().any(|line| line.starts_with(".TH") && line.contains(&footer)), "{page}");
    fs::write(place.path("file"), "").unwrap();
    let ran = place.run(&["man", "--out", "file"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("file: cannot write the manual"), "{}", ran.stderr);
    let ran = place.run(&["completions", "csh"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("possible values: bash, elvish, fish, powershell, zsh"), "{}", ran.stderr);
}

/// The commands that a new user tries first.
#[test]
fn the_readmes_first_command() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(repository.join("README.md")).unwrap();
    let line = readme.lines().find_map(|line| line.strip_prefix("cargo run --release -- ")).unwrap();
    assert!(!line.contains(['"', '\'', '\\']), "this test splits at blanks: {line}");
    let place = TestDir::new();
    for folder in ["examples", "models"] {
        std::os::unix::fs::symlink(repository.join(folder), place.path(folder)).unwrap();
    }
    let Ran { code, stdout, stderr } = place.run(&line.split(' ').collect::<Vec<_>>());
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("a small checkpoint") && stdout.contains("using the small demo model"), "{stdout}");
    let files = ["layer-00.png", "layer-01.png", "layer-02.png", "layer-03.png", "layer-04.png", "manifest.json"];
    assert_eq!(names(&place.path("out/scene")), files);
    let sheet = image::open(place.path("out/scene.png")).unwrap();
    assert!(sheet.width() > 5 * 128, "the sheet shows the input, four layers and their composite");

    let open = |name: &str| image::open(place.path(name)).unwrap().to_rgba8();
    let layers: Vec<_> = files[1..5].iter().map(|name| open(&format!("out/scene/{name}"))).collect();
    // Several layers have contents over a background; the picture is not on a single layer.
    let seen = |layer: &image::RgbaImage| layer.pixels().filter(|pixel| pixel.0[3] > 127).count() * 100 / (128 * 128);
    let shares: Vec<_> = layers.iter().map(seen).collect();
    assert!(shares[0] > 95 && shares[1..].iter().filter(|share| (1..50).contains(*share)).count() > 1, "{shares:?}");
    let psnr = psnr(&qwen_image::image_processor::composite(&layers).unwrap(), &open("examples/scene.png"));
    assert!(psnr >= 28.0, "the layers make a picture that is {psnr:.1} dB from the input");
}

/// The PSNR of the colors, in dB.
fn psnr(a: &image::RgbaImage, b: &image::RgbaImage) -> f64 {
    assert_eq!(a.dimensions(), b.dimensions());
    let squares = a.pixels().zip(b.pixels()).flat_map(|(a, b)| (0..3).map(|c| f64::from(a.0[c]) - f64::from(b.0[c])));
    let sum: f64 = squares.map(|difference| difference * difference).sum();
    10.0 * (255.0 * 255.0 * 3.0 * f64::from(a.width() * a.height()) / sum).log10()
}

/// Checks that a command line fails before any work, and that its message contains these words.
fn refused(args: &[&str], wanted: &[&str]) {
    let place = TestDir::new();
    place.picture("in.png", [1, 2, 3, 255]);
    let Ran { code, stdout, stderr } = place.run(args);
    assert_eq!(code, Some(2), "{args:?}: {stderr}");
    assert_eq!(stdout, "");
    for text in wanted {
        assert!(stderr.contains(text), "{args:?} said: {stderr}");
    }
    assert!(names(&place.path("out")).is_empty(), "{args:?} left files");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn parameters_out_of_bounds() {
    let model = checkpoint("layered");
    let decompose = |more: &[&str], wanted: &[&str]| {
        refused(&[&["run", "decompose", "in.png", "--out", "out", "--model", &model], more].concat(), wanted);
    };
    decompose(&["--layers", "0"], &["--layers: 0 lifts one part", "use a Layered-Control checkpoint, or 2 to 10"]);
    decompose(&["--layers", "1"], &["--layers: 1 is too few: this checkpoint makes 2 to 10 layers"]);
    decompose(&["--layers", "11"], &["--layers: 11 is not between 0 and 10"]);
    decompose(&["--layers", "-1"], &["-1", "--layers", "not a whole number, nor `auto`"]);
    decompose(&["--layers", "many"], &["many", "--layers", "not a whole number, nor `auto`"]);
    decompose(&["--cfg-scale", "high"], &["high", "--cfg-scale", "not a number"]);
    decompose(&["--resolution", "700"], &["--resolution: 700", "multiple of 32"]);
    decompose(&["--resolution", "640"], &["--resolution: 640 is not supported by this checkpoint"]);
    decompose(&["--steps", "0"], &["--steps: 0 is not between 1 and 1000"]);
    decompose(&["--cfg-scale", "NaN"], &["--cfg-scale: NaN is not a number between 0 and 100"]);
    decompose(&["--min-psnr", "101"], &["--min-psnr: 101 is not between 0 and 100 dB"]);
    decompose(&["--output-size", "large"], &["--output-size", "source, model"]);
    decompose(&["--cfg-scale", "-2"], &["--cfg-scale: -2"]);
    decompose(&["--seed", "-1"], &["--seed", "between 0 and 9223372036854775807"]);
    decompose(&["--seed", "9223372036854775808"], &["--seed", "between 0 and 9223372036854775807"]);
    decompose(&["--id", "seven"], &["`seven` is not a UUID"]);
    decompose(&["--label", "nothing"], &["write KEY=VALUE"]);
    decompose(&["--dtype", "fp16"], &["black pictures", "use bf16 or fp8 on a GPU, f32 on a CPU"]);
    decompose(&["--dtype", "bf16"], &["--dtype", "bf16 is for GPUs"]);
    decompose(
        &["--guidance", "both"],
        &["--guidance", "`both` is not a way to compute guidance; write serial or parallel"],
    );
    let guidance = |device: &str, reason: &str| {
        let wanted = ["--guidance: `parallel` computes the two branches of guidance on two GPUs, but ", reason];
        decompose(&["--guidance", "parallel", "--device", device], &wanted);
    };
    guidance("cpu", "device is cpu; give two or more GPUs in pairs");
    guidance("cuda:1", "device is cuda:1, which makes no pairs");
    guidance("cuda:0,cuda:1,cuda:2", "device is cuda:0,cuda:1,cuda:2, which makes no pairs");
    let place = TestDir::new();
    place.picture("in.png", [1, 2, 3, 255]);
    let mut from_variable = place.command(&["run", "decompose", "in.png", "--out", "out", "--model", &model]);
    let ran = ran(from_variable.env("ACETATE__QWEN_IMAGE__DTYPE", "bf16").output().unwrap());
    let words = "qwen_image.dtype (from ACETATE__QWEN_IMAGE__DTYPE): bf16 is for GPUs";
    assert!(ran.code == Some(2) && ran.stderr.contains(words), "{ran:?}");
    decompose(&["--device", "tpu"], &["`tpu` is not a device; write cpu, cuda or cuda:0"]);
}

#[test]
fn edits_without_sense() {
    let model = checkpoint("edit");
    let edit = ["run", "edit", "in.png", "--out", "out", "--model", &model];
    refused(&[&edit[..], &["--instruction", " "]].concat(), &["--instruction: is empty; say what to change"]);
    refused(&edit, &["--instruction <TEXT>"]);
    let many = ["run", "edit", "in.png", "in.png", "in.png", "in.png", "--out", "out", "--instruction", "x"];
    refused(&many, &["IMAGE: edit takes 1 to 3 pictures, 4 given"]);
    let workflow = ["run", "workflow", "in.png", "--out", "out", "--edit", "5=Make it red"];
    refused(&workflow, &["--edit: 5 is not between 1 and 4"]);
    refused(&["run", "workflow", "in.png", "--out", "out", "--edit", "red"], &["write N=INSTRUCTION"]);
}

#[test]
fn models_that_are_not_there() {
    let missing = ["run", "decompose", "in.png", "--out", "out", "--model", "./nowhere"];
    refused(&missing, &["./nowhere", "there is no such folder", "(--model)"]);
    let place = TestDir::new();
    place.picture("in.png", [1, 2, 3, 255]);
    let mut from_variable = place.command(&["run", "edit", "in.png", "--instruction", "x", "--out", "out"]);
    let ran = ran(from_variable.env("ACETATE__QWEN_IMAGE__EDIT_MODEL_PATH", "./nowhere").output().unwrap());
    let words = "(qwen_image.edit_model_path, from ACETATE__QWEN_IMAGE__EDIT_MODEL_PATH)";
    assert!(ran.code == Some(2) && ran.stderr.contains(words), "{ran:?}");
    let empty = ["run", "decompose", "in.png", "--out", "out", "--model", "/"];
    refused(&empty, &["has no model_index.json"]);
}

#[test]
fn inputs_that_are_not_there() {
    refused(&["run", "composite", "nothing.png", "--out", "out"], &["nothing.png: not found"]);
    refused(&["run", "composite", "", "--out", "out"], &["IMAGE: is empty; give a picture"]);
    refused(&["run", "composite", "job:x", "--out", "out"], &["write job:ID:LAYER"]);
}

#[test]
fn unknown_fields_of_a_request_are_named() {
    let body = |params: &str, more: &str| {
        format!(
            r#"{{"version": 1, "id": "018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21", "kind": "decompose",
                "input": {{"image": "file:///in.png"}}, "output": {{"prefix": "file:///out/"}},
                "params": {{{params}}}{more}}}"#
        )
    };
    assert!(JobRequest::from_json(body("\"layers\": 3", "").as_bytes()).is_ok());
    for (params, more, wanted) in [
        ("\"layer\": 3", "", "unknown field `layer`"),
        ("", ", \"color\": 1", "unknown field `color`"),
        ("\"layers\": 11", "", "params.layers: 11 is not between 0 and 10"),
        ("\"steps\": \"many\"", "", "expected a whole number, 0 or more"),
    ] {
        let error = JobRequest::from_json(body(params, more).as_bytes()).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn mistakes_come_as_json_too() {
    let place = TestDir::new();
    let ran = place.run(&["run", "composite", "nothing.png", "--out", "out", "--json"]);
    assert_eq!(ran.code, Some(2));
    let printed: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(printed["error"]["code"], "input_not_found");

    let ran = place.run(&["run", "decompose", "in.png", "--out", "out", "--seed", "x", "--json"]);
    assert_eq!(ran.code, Some(2));
    let printed: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&printed["error"]["code"], &printed["error"]["class"]), (&"invalid_request".into(), &"invalid".into()));
    assert!(printed["error"]["message"].as_str().unwrap().contains("--seed"), "{printed}");
}

#[test]
fn a_request_that_is_too_long() {
    let prompt = |bytes: usize| {
        let mut request = JobRequest::from_json(
            br#"{"version": 1, "id": "018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21", "kind": "decompose",
                 "input": {"image": "file:///in.png"}, "output": {"prefix": "file:///out/"}}"#,
        )
        .unwrap();
        let Task::Decompose(params) = &mut request.task else { panic!("{request:?}") };
        params.prompt = "x".repeat(bytes);
        request
    };
    prompt(200_000).validate().unwrap();
    let long = prompt(300_000);
    let error = long.validate().unwrap_err().to_string();
    assert!(error.starts_with("params.prompt: is 300000 bytes long"), "{error}");
    // A row of an earlier version, which accepted the value, stays readable.
    assert_eq!(JobRequest::from_stored(&long.to_json()), Ok(long));

    let words = "x".repeat(100_000);
    let negative = ["--negative-prompt", &words];
    let args = ["run", "decompose", "in.png", "--out", "out", "--model", &checkpoint("layered"), "--prompt", &words];
    let place = TestDir::new();
    place.picture("in.png", [1, 2, 3, 255]);
    let label = format!("k={}", "x".repeat(110_000));
    let ran = place.run(&[&args[..], &negative, &["--label", &label]].concat());
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("labels.k: is 110000 bytes long"), "{}", ran.stderr);
    assert_eq!(place.json(&["jobs", "list", "--json"])["jobs"], serde_json::json!([]));
}

#[test]
fn folders_that_cannot_take_results() {
    let place = TestDir::new();
    let picture = place.picture("in.png", [1, 2, 3, 255]);
    let composite = |out: &str| place.run(&["run", "composite", &picture, "--out", out]);

    fs::create_dir(place.path("full")).unwrap();
    fs::write(place.path("full/letter.txt"), "not ours").unwrap();
    let mixed = composite("full");
    assert_eq!(mixed.code, Some(2));
    assert!(mixed.stderr.contains("--out: ") && mixed.stderr.contains("holds other files"), "{}", mixed.stderr);
    assert_eq!(names(&place.path("full")), ["letter.txt"]);

    for out in ["in.png", "in.png/out"] {
        let file = composite(out);
        assert_eq!(file.code, Some(2));
        assert!(file.stderr.contains("--out: in.png is a file; give a folder"), "{}", file.stderr);
    }
}

#[test]
fn unwritable_folders() {
    let place = TestDir::new();
    let picture = place.picture("in.png", [1, 2, 3, 255]);
    let locked = place.path("locked");
    fs::create_dir(&locked).unwrap();
    let mut command = place.command(&["run", "composite", &picture, "--out", "locked"]);
    chmod(&["a-w", "locked"], &place);
    if is_root() {
        // Root may write anywhere; the user `nobody` may not.
        chmod(&["a+rwx", "."], &place);
        command.uid(65534).gid(65534);
    }
    let output = match command.output() {
        Ok(output) => ran(output),
        Err(error) => return skipped("unwritable folders", &format!("the program cannot run as nobody ({error})")),
    };
    chmod(&["u+w", "locked"], &place);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("locked") && output.stderr.contains("permission denied"), "{}", output.stderr);
    assert!(!place.path("data/objects").exists(), "refused before any work");
}

#[test]
fn a_full_disk() {
    let place = TestDir::new();
    let picture = place.picture("in.png", [1, 2, 3, 255]);
    let small = place.path("small");
    fs::create_dir(&small).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(&small).output();
    if !mounted.as_ref().is_ok_and(|output| output.status.success()) {
        return skipped("a full disk", "mounting a small file system is not permitted here");
    }
    let out = place.run(&["run", "composite", &picture, "--out", "small/out"]);
    let mut data = place.command(&["run", "composite", &picture, "--out", "out"]);
    let data = ran(data.env("ACETATE__DATA_DIR", small.join("data")).output().unwrap());
    assert!(Command::new("umount").arg(&small).status().unwrap().success());
    for ran in [out, data] {
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.contains("small") && ran.stderr.contains("not enough disk space"), "{}", ran.stderr);
    }
}

#[test]
fn what_the_configuration_says() {
    let place = TestDir::new();
    fs::write(place.path("acetate.toml"), "[default.qwen_image]\nlayer_num = 3\nedit_model_path = \"\"\n").unwrap();
    let shown = place.json(&["config", "show", "--json"]);
    let settings = shown["settings"].as_array().unwrap();
    let of = |key: &str| settings.iter().find(|setting| setting["key"] == key).unwrap();
    assert_eq!(
        (&of("qwen_image.layer_num")["value"], &of("qwen_image.layer_num")["from"]),
        (&"3".into(), &"acetate.toml".into())
    );
    assert_eq!(of("data_dir")["from"], "ACETATE__DATA_DIR");

    fs::write(place.path("acetate.toml"), "[qwen_image]\nlayers = 3\n").unwrap();
    let ran = place.run(&["config", "show"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("acetate.toml: `qwen_image.layers` is not a setting"), "{}", ran.stderr);
}

#[test]
fn the_doctor_says_who_may_use_the_api() {
    let place = TestDir::new();
    let api = |settings: &str| {
        fs::write(place.path("acetate.toml"), settings).unwrap();
        let report = place.run(&["doctor", "--json"]).stdout;
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        report["checks"].as_array().unwrap().iter().find(|check| check["name"] == "api").unwrap().clone()
    };
    for (settings, state, text) in [
        ("", "ok", "no token is set: everyone on this machine may use the API (127.0.0.1:"),
        (
            "[http]\nbind = \"0.0.0.0:1\"",
            "ok",
            "no token is set: `acetate serve` does not start on 0.0.0.0:1 without one",
        ),
        ("[http]\nbind = \"\"", "ok", "http.bind is empty: nothing serves the API, which `acetate serve` needs"),
        (
            "[http]\ntoken = \"hunter2-hunter2-0\"\n[[http.tokens]]\nname = \"ci\"\nrole = \"submit\"\n\
             token = \"hunter2-hunter2-1\"",
            "ok",
            "requests need a token: http.token (operate), ci (submit)",
        ),
        ("[http]\ntoken = \"hunter2\"", "broken", "http.token: has fewer than 16 characters"),
    ] {
        let check = api(settings);
        assert!(check["state"] == state && check["text"].as_str().unwrap().starts_with(text), "{settings}: {check:#}");
        assert!(!check.to_string().contains("hunter2"), "{check:#}");
    }
}

#[test]
fn the_doctor_and_the_checkpoints() {
    let place = TestDir::new();
    let report = place.json(&["doctor", "--json"]);
    assert_eq!(report["ready"], true, "{report}");
    let report = place.json(&["models", "check", &checkpoint("layered"), "--json"]);
    assert_eq!((&report["pipeline"], &report["sound"]), (&"QwenImageLayeredPipeline".into(), &true.into()));

    let broken = place.path("broken");
    copy(std::path::Path::new(&checkpoint("layered")), &broken);
    let vae = broken.join("vae/diffusion_pytorch_model.safetensors");
    let bytes = fs::read(&vae).unwrap();
    fs::write(&vae, &bytes[..bytes.len() / 2]).unwrap();
    fs::remove_file(broken.join("text_encoder/model.safetensors")).unwrap();
    fs::write(broken.join("text_encoder/pytorch_model.bin"), b"pickle").unwrap();
    let ran = place.run(&["models", "check", "broken"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stdout.contains("the download is not complete") && ran.stdout.contains("pickle"), "{}", ran.stdout);
}

#[test]
fn a_folder_without_a_model_and_a_model_that_no_run_would_take() {
    let place = TestDir::new();
    fs::create_dir(place.path("bad")).unwrap();
    fs::write(place.path("file"), b"").unwrap();
    for (name, said) in [
        ("bad", "error: model bad: the folder has no model_index.json; give the folder of a whole checkpoint"),
        ("file", "error: model file: is neither safetensors nor GGUF: it has fewer than 4 bytes"),
        ("nowhere", "error: model nowhere: there is no such file or folder; `acetate models pull ID`"),
    ] {
        let ran = place.run(&["models", "check", name]);
        assert_eq!(ran.code, Some(2));
        assert!(ran.stderr.starts_with(said), "{}", ran.stderr);
    }

    let broken = place.path("broken");
    copy(std::path::Path::new(&checkpoint("layered")), &broken);
    fs::remove_dir_all(broken.join("tokenizer")).unwrap();
    fs::write(broken.join("scheduler/scheduler_config.json"), b"{").unwrap();
    let config = fs::read_to_string(broken.join("transformer/config.json")).unwrap();
    fs::write(broken.join("transformer/config.json"), config.replace("\"num_layers\": 3", "\"num_layers\": 9"))
        .unwrap();
    let ran = place.run(&["models", "check", "broken", "--json"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["sound"], false);
    let parts = report["components"].as_array().unwrap();
    let broken: Vec<_> = parts.iter().filter(|part| !part["error"].is_null()).map(|part| &part["name"]).collect();
    assert_eq!(broken, ["tokenizer", "transformer", "scheduler"], "{report}");
}

/// A misspelled folder looks like a hub id: the error must come quickly and explain that.
#[test]
fn a_misspelled_folder_is_told_soon_when_there_is_no_network() {
    let place = TestDir::new();
    place.picture("in.png", [1, 2, 3, 255]);
    let args = ["run", "decompose", "in.png", "--out", "out", "--model", "m/typo"];
    let start = std::time::Instant::now();
    let hub = |endpoint: &str| {
        let mut command = place.command(&args);
        ran(command.env("HF_HUB_OFFLINE", "0").env("HF_ENDPOINT", endpoint).output().unwrap())
    };
    let Ran { code, stderr, .. } = hub("http://127.0.0.1:9");
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("download interrupted"), "{stderr}");
    assert!(stderr.contains("there is no folder m/typo, so it was used as a hub id"), "{stderr}");
    assert!(start.elapsed().as_secs() < 30, "it took {:?}", start.elapsed());

    let Ran { code, stderr, .. } = hub("localhost");
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("\"localhost\" is not an http or https address; set HF_ENDPOINT"), "{stderr}");

    let offline = place.run(&args);
    assert!(offline.stderr.contains("HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE, or hub.offline"), "{}", offline.stderr);
    assert!(offline.stderr.contains("there is no folder m/typo"), "{}", offline.stderr);
}

#[test]
fn notes_name_a_picture_once() {
    let place = TestDir::new();
    let deep = image::ImageBuffer::<image::Rgba<u16>, _>::from_pixel(8, 6, image::Rgba([9000, 1, 2, 65535]));
    deep.save(place.path("deep.png")).unwrap();
    let made = place.run(&["run", "composite", "deep.png", "--out", "out"]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(place.path("out/manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["notes"], serde_json::json!(["deep.png: more than 8 bits per channel, rounded to 8"]));
}

fn chmod(args: &[&str], place: &TestDir) {
    assert!(Command::new("chmod").args(args).current_dir(place.folder.path()).status().unwrap().success());
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
