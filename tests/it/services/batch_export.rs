//! `acetate jobs export`: every row once and in order, whatever interrupts it, and files that other programs read.
//!
//! The exports of the embedded world are also written to `target/tmp/export-datasets/`, with what is in them, for
//! `tests/export/check_datasets.py`, which loads them with other projects' readers.

use std::{
    collections::BTreeMap,
    fs,
    future::ready,
    io::Read,
    path::{Path, PathBuf},
    process::Stdio,
};

use acetate::store::path_of;
use serde_json::{Value, json};

use crate::{
    common::{TestDir, checkpoint, is_root, names, ran, until},
    services::{
        datasets::{png, write_parquet},
        world::{World, in_both_worlds},
    },
};

in_both_worlds! {
    every_format_has_the_rows_and_their_columns,
    a_killed_export_goes_on_and_has_every_row_once,
    rows_that_succeed_later_are_added,
    targets_of_something_else_are_refused,
    a_damaged_result_is_told_and_tried_again,
}

pub const FORMATS: [&str; 4] = ["imagefolder", "webdataset", "parquet", "jsonl"];

/// A folder or prefix for an export: its address, and the folder that has its files.
pub fn target(world: &World, name: &str) -> (String, PathBuf) {
    let url = world.output(name);
    let path = world.path(&url);
    match world.service {
        Some(_) => (url, path),
        None => (path.display().to_string(), path),
    }
}

pub async fn export(world: &World, batch: &str, format: &str, out: &str, more: &[&str]) -> Value {
    let args = ["jobs", "export", "--batch", batch, "--as", format, "--out", out, "--json"];
    world.json(&[&args[..], more].concat()).await
}

/// The names in all archives of an export, in their order.
pub fn archived(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for name in names(folder).iter().filter(|name| name.ends_with(".tar")) {
        let mut archive = tar::Archive::new(fs::File::open(folder.join(name)).unwrap());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let (name, mut bytes) = (entry.path().unwrap().display().to_string(), Vec::new());
            entry.read_to_end(&mut bytes).unwrap();
            found.push((name, bytes));
        }
    }
    found
}

/// Composites of so many pictures, all succeeded.
async fn composites(world: &World, batch: &str, rows: u8) {
    let lines: String = (0..rows)
        .map(|n| format!("{}\n", json!({ "image": world.input(&format!("{n}.png"), [n, 1, 2, 255]), "n": n })))
        .collect();
    fs::write(world.place.path("m.jsonl"), lines).unwrap();
    let output = world.output("composites");
    let ran = world.run(&["submit", "composite", "--from", "m.jsonl", "--batch", batch, "--output", &output]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let _worker = world.worker();
    assert_eq!(world.run(&["jobs", "watch", "--batch", batch]).await.code, Some(0));
}

async fn every_format_has_the_rows_and_their_columns(world: World) {
    let (a, b) = (world.input("a.png", [200, 30, 90, 255]), world.input("b.png", [20, 30, 190, 255]));
    let bad = world.bytes("bad.png", b"this is no picture");
    let rows = [
        json!({ "image": b, "caption": "zweite, \"with\" ä", "width": 8, "score": 1, "is_train": true, "tags": ["x"] }),
        json!({ "image": bad, "caption": "broken", "width": 9 }),
        json!({ "image": a, "caption": null, "width": 10, "score": 0.5, "is_train": false, "tags": [], "row": 77 }),
        json!({ "image": b, "caption": "again", "width": 11, "tags": ["y", "z"] }),
    ];
    fs::write(world.place.path("m.jsonl"), rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let output = world.output("layers");
    let flags = ["--layers", "2", "--steps", "1", "--prompt", "a sign", "--seed", "7", "--resolution", "128"];
    let args = ["submit", "decompose", "--from", "m.jsonl", "--batch", "signs", "--output", &output];
    let ran = world.run(&[&args[..], &flags].concat()).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let worker = world.worker();
    assert_eq!(world.run(&["jobs", "watch", "--batch", "signs"]).await.code, Some(1), "one row is broken");
    drop(worker);
    let results = world.run(&["jobs", "results", "--batch", "signs"]).await.stdout;
    let results: Vec<Value> = results.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let shared = Path::new(env!("CARGO_TARGET_TMPDIR")).join("export-datasets");
    if world.service.is_none() {
        fs::remove_dir_all(&shared).ok();
        fs::create_dir_all(&shared).unwrap();
        fs::write(shared.join("results.json"), json!(kept(&world, &results, &shared)).to_string()).unwrap();
    }
    let done: Vec<&Value> = results.iter().filter(|line| line["status"] == "succeeded").collect();
    let png = |url: &Value| fs::read(world.path(url.as_str().unwrap())).unwrap();

    for format in FORMATS {
        let (out, folder) = target(&world, &format!("export-{format}"));
        let report = export(&world, "signs", format, &out, &["--shard-rows", "2"]).await;
        assert_eq!((&report["written"], &report["shards"]), (&json!(3), &json!(2)), "{format}: {report:#}");
        assert_eq!(report["failed_by_code"], json!({ "invalid_image": 1 }));
        let again = export(&world, "signs", format, &out, &[]).await;
        assert_eq!((&again["written"], &again["known"]), (&json!(0), &json!(3)), "{format}: {again:#}");
        match format {
            "imagefolder" => {
                let text = fs::read_to_string(folder.join("metadata.jsonl")).unwrap();
                let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
                assert_eq!(lines.len(), 3);
                for (line, result) in lines.iter().zip(&done) {
                    assert_eq!((&line["row"], &line["id"]), (&result["row"], &result["id"]));
                    assert_eq!((&line["seed"], &line["prompt"]), (&json!(7), &json!("a sign")));
                    let file = |name: &Value| fs::read(folder.join(name.as_str().unwrap())).unwrap();
                    assert_eq!(file(&line["regenerated_file_name"]), png(&result["regenerated"]));
                    assert_eq!(line["layers_file_names"].as_array().unwrap().len(), 2);
                    let canvas = &result["fidelity"]["output"];
                    let info = json!({
                        "layer": 2, "name": "Layer 2", "edited": false, "x": 0, "y": 0, "canvas_width": canvas["width"],
                        "canvas_height": canvas["height"],
                    });
                    assert_eq!(line["layer_info"][1], info);
                    for (layer, wanted) in result["layers"].as_array().unwrap().iter().enumerate() {
                        assert_eq!(file(&line["layers_file_names"][layer]), png(wanted));
                    }
                }
                assert_eq!(lines[0]["layers_file_names"][0], "000000/000001.layer_01.png");
                assert_eq!((&lines[1]["row_"], &lines[2]["width"]), (&json!(77), &json!(11)));
            }
            "webdataset" => {
                let files: BTreeMap<_, _> = archived(&folder).into_iter().collect();
                assert_eq!(files.len(), 3 * 4);
                let keys: Vec<&str> = files.keys().map(String::as_str).collect();
                let wanted = ["000001.json", "000001.layer_01.png", "000001.layer_02.png", "000001.regenerated.png"];
                assert_eq!(keys[..4], wanted);
                assert_eq!(files["000003.layer_02.png"], png(&done[1]["layers"][1]));
                let record: Value = serde_json::from_slice(&files["000004.json"]).unwrap();
                assert_eq!((&record["caption_"], &record["tags"]), (&json!("again"), &json!(["y", "z"])));
            }
            "parquet" => {
                let visible: Vec<_> = names(&folder).into_iter().filter(|name| !name.starts_with('.')).collect();
                assert_eq!(visible, ["layers-000000.parquet", "layers-000001.parquet"]);
            }
            _ => {
                let text: String = ["layers-000000.jsonl", "layers-000001.jsonl"]
                    .map(|name| fs::read_to_string(folder.join(name)).unwrap())
                    .concat();
                let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
                for (line, result) in lines.iter().zip(&done) {
                    assert_eq!((&line["layers"], &line["row"]), (&result["layers"], &result["row"]));
                }
            }
        }
        if world.service.is_none() {
            let kept = std::process::Command::new("cp").arg("-r").arg(&folder).arg(shared.join(format)).status();
            assert!(kept.unwrap().success());
        }
    }
}

/// The results with copies of their pictures, which outlive the test.
fn kept(world: &World, results: &[Value], folder: &Path) -> Vec<Value> {
    fs::create_dir_all(folder.join("pictures")).unwrap();
    let keep = |url: &mut Value| {
        let path = world.path(url.as_str().unwrap());
        let name = path.display().to_string().replace('/', "-");
        let copy = folder.join("pictures").join(name.trim_start_matches('-'));
        fs::copy(&path, &copy).unwrap();
        *url = json!(format!("file://{}", copy.display()));
    };
    let mut results = results.to_vec();
    for line in results.iter_mut().filter(|line| line["status"] == "succeeded") {
        keep(&mut line["regenerated"]);
        line["layers"].as_array_mut().unwrap().iter_mut().for_each(keep);
    }
    results
}

async fn a_killed_export_goes_on_and_has_every_row_once(world: World) {
    const ROWS: u8 = 40;
    composites(&world, "many", ROWS).await;
    let (out, folder) = target(&world, "killed");
    let args = ["jobs", "export", "--batch", "many", "--as", "webdataset", "--shard-rows", "2", "--out", &out];
    for signal in ["KILL", "INT", "KILL"] {
        // One that this run wrote, so that it is past its start.
        let shard = |number: usize| folder.join(format!("layers-{number:06}.tar"));
        let wanted = (1..).map(shard).filter(|path| !path.exists()).nth(1).unwrap();
        let mut child = world.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        until(|| {
            let is_there = wanted.exists() || child.try_wait().unwrap().is_some();
            ready(if is_there { Ok(()) } else { Err("no shard yet") })
        })
        .await;
        let pid = child.id().to_string();
        std::process::Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap();
        let code = child.wait().unwrap().code();
        assert!(signal == "KILL" || matches!(code, Some(0 | 130)), "{code:?}");
        // What is visible is whole.
        archived(&folder);
    }
    let report = export(&world, "many", "webdataset", &out, &["--shard-rows", "2"]).await;
    let total = report["written"].as_u64().unwrap() + report["known"].as_u64().unwrap();
    assert_eq!(total, u64::from(ROWS), "{report:#}");
    let rows: Vec<Value> = archived(&folder)
        .iter()
        .filter(|(name, _)| name.ends_with(".json"))
        .map(|(_, bytes)| serde_json::from_slice::<Value>(bytes).unwrap()["n"].clone())
        .collect();
    assert_eq!(rows, (0..ROWS).map(|n| json!(n)).collect::<Vec<_>>());
    let hidden = names(&folder.join(".acetate-export"));
    assert!(hidden.iter().all(|name| !name.starts_with("tmp-")), "{hidden:?}");
}

async fn rows_that_succeed_later_are_added(world: World) {
    let good = world.input("a.png", [1, 2, 3, 255]);
    let late = world.bytes("late.png", b"not yet a picture");
    let lines: String = [&late, &good].iter().map(|url| format!("{}\n", json!({ "image": url }))).collect();
    fs::write(world.place.path("m.jsonl"), lines).unwrap();
    let output = world.output("later");
    world.json(&["submit", "composite", "--from", "m.jsonl", "--batch", "later", "--output", &output, "--json"]).await;
    let alone = world.submit(&["composite", "--input", &good, "--output", &output, "--batch", "later"]).await;
    let _worker = world.worker();
    assert_eq!(world.run(&["jobs", "watch", "--batch", "later"]).await.code, Some(1));
    let (out, folder) = target(&world, "later-export");
    let args = ["jobs", "export", "--batch", "later", "--as", "imagefolder", "--out", &out];
    let ran = world.run(&args).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.contains("2 rows in 1 shard, "), "{}", ran.stdout);
    assert!(ran.stdout.contains("1 left out because their jobs failed (invalid_image 1)"), "{}", ran.stdout);

    fs::copy(world.path(&good), world.path(&late)).unwrap();
    assert_eq!(world.run(&["jobs", "retry", "--batch", "later", "--code", "invalid_image"]).await.code, Some(0));
    assert_eq!(world.run(&["jobs", "watch", "--batch", "later"]).await.code, Some(0));
    let ran = world.run(&args).await;
    assert!(ran.stdout.contains("1 row in 1 shard, ") && ran.stdout.contains("; 2 already there"), "{}", ran.stdout);
    let text = fs::read_to_string(folder.join("metadata.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let rows: Vec<_> = lines.iter().map(|line| &line["row"]).collect();
    assert_eq!(rows, [&json!(2), &Value::Null, &json!(1)]);
    assert_eq!(lines[1]["id"], json!(alone));
    for line in &lines {
        let name = line["composite_file_name"].as_str().unwrap();
        assert!(folder.join(name).is_file() && name.matches('.').count() == 2, "{name}");
    }
}

async fn targets_of_something_else_are_refused(world: World) {
    composites(&world, "one", 1).await;
    let (out, folder) = target(&world, "taken");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("mine.txt"), "x").unwrap();
    let refused = async |batch: &str, format: &str, out: &str, wanted: &str| {
        let ran = world.run(&["jobs", "export", "--batch", batch, "--as", format, "--out", out]).await;
        assert!(ran.code == Some(2) && ran.stderr.contains(wanted), "{wanted}: {ran:?}");
    };
    refused("one", "parquet", &out, "has other files; give an empty or new folder").await;
    refused("none", "parquet", &out, "there is no batch `none`").await;
    refused("one", "parquet", "https://h/x", "cannot be written to; give a folder or s3://").await;
    refused("one", "csv", &out, "possible values: imagefolder, webdataset, parquet, jsonl").await;
    fs::remove_file(folder.join("mine.txt")).unwrap();
    export(&world, "one", "parquet", &out, &[]).await;
    refused("one", "jsonl", &out, "has the export of batch one as parquet; give another folder").await;
    if world.service.is_none() {
        let file = world.place.path("m.jsonl").display().to_string();
        refused("one", "jsonl", &file, "is a file; give a folder").await;
        if !is_root() {
            use std::os::unix::fs::PermissionsExt;
            let locked = world.place.path("locked");
            fs::create_dir(&locked).unwrap();
            fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
            let ran = world.run(&["jobs", "export", "--batch", "one", "--as", "jsonl", "--out", "locked"]).await;
            assert!(ran.code == Some(1) && ran.stderr.contains("permission denied"), "{ran:?}");
        }
    }
}

async fn a_damaged_result_is_told_and_tried_again(world: World) {
    composites(&world, "some", 3).await;
    let results = world.run(&["jobs", "results", "--batch", "some"]).await.stdout;
    let line: Value = serde_json::from_str(results.lines().nth(1).unwrap()).unwrap();
    let url = line["composite"].as_str().unwrap();
    let file = if url.starts_with("file://") { path_of("test", url).unwrap() } else { world.path(url) };
    let whole = fs::read(&file).unwrap();
    fs::write(&file, vec![7; whole.len()]).unwrap();
    let (out, folder) = target(&world, "damaged");
    let args = ["jobs", "export", "--batch", "some", "--as", "webdataset", "--out", &out];
    let ran = world.run(&args).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    // S3's checksum tells it before ours does.
    let damage = ["does not have the bytes that the manifest names", "checksum mismatch"];
    assert!(damage.iter().any(|text| ran.stderr.contains(text)), "{}", ran.stderr);
    for wanted in ["row 2 (job ", "the result of 1 row could not be read; run the same command"] {
        assert!(ran.stderr.contains(wanted), "{wanted}: {}", ran.stderr);
    }
    fs::write(&file, whole).unwrap();
    let ran = world.run(&args).await;
    assert!(ran.code == Some(0) && ran.stdout.contains("1 row in 1 shard"), "{ran:?}");
    assert_eq!(archived(&folder).len(), 6);
}

/// A shard that is too large for one request is sent in parts, from a file.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_shard_is_sent_in_parts() {
    let mut world = World::service().await;
    world.set("ACETATE__STORE__MULTIPART_ABOVE", "8388608");
    let noise = |seed: u32| {
        image::RgbaImage::from_fn(1100, 1100, |x, y| {
            image::Rgba((x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503).wrapping_mul(x + seed)).to_le_bytes())
        })
    };
    let mut lines = String::new();
    for seed in 1..=6 {
        let mut bytes = std::io::Cursor::new(Vec::new());
        noise(seed).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        lines += &format!("{}\n", json!({ "image": world.bytes(&format!("{seed}.png"), bytes.get_ref()) }));
    }
    fs::write(world.place.path("m.jsonl"), lines).unwrap();
    let output = world.output("large");
    world.json(&["submit", "composite", "--from", "m.jsonl", "--batch", "large", "--output", &output, "--json"]).await;
    let _worker = world.worker();
    assert_eq!(world.run(&["jobs", "watch", "--batch", "large"]).await.code, Some(0));
    let (out, folder) = target(&world, "large-export");
    let report = export(&world, "large", "webdataset", &out, &[]).await;
    assert!(report["bytes"].as_u64().unwrap() > 2 * 8_388_608, "{report:#}");
    let results = world.run(&["jobs", "results", "--batch", "large"]).await.stdout;
    let files: BTreeMap<_, _> = archived(&folder).into_iter().collect();
    for line in results.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let key = format!("{:06}.composite.png", line["row"].as_u64().unwrap());
        assert_eq!(files[&key], fs::read(world.path(line["composite"].as_str().unwrap())).unwrap());
    }
}

/// The commands of docs/datasets.md, as they are written there.
#[test]
fn the_documented_commands_make_a_webdataset_of_a_hugging_face_dataset() {
    let place = TestDir::new();
    fs::create_dir(place.path("posters")).unwrap();
    let rows = [(png([200, 0, 0, 255]), "red.png", "a red one"), (png([0, 0, 200, 255]), "blue.png", "a blue one")];
    write_parquet(&place.path("posters/train-00000-of-00001.parquet"), &rows);
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/datasets.md")).unwrap();
    let (_, section) = page.split_once("### From a Hugging Face dataset to a WebDataset of layers").unwrap();
    let commands = section.split("```").nth(1).unwrap().strip_prefix("sh\n").unwrap();
    assert_eq!(commands.lines().count(), 4, "{commands}");
    let script = format!("set -e\ntrap 'kill -INT %1; wait' EXIT\n{commands}");
    let program = Path::new(env!("CARGO_BIN_EXE_acetate")).parent().unwrap().display();
    let output = place
        .command_of(Path::new("bash"), &["-c", &script])
        .env("PATH", format!("{program}:{}", std::env::var("PATH").unwrap()))
        .env("ACETATE__HTTP__BIND", "127.0.0.1:0")
        .env("ACETATE__QWEN_IMAGE__MODEL_PATH", checkpoint("layered"))
        .env("ACETATE__QWEN_IMAGE__NUM_INFERENCE_STEPS", "2")
        .output()
        .unwrap();
    let ran = ran(output);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let found: Vec<String> = archived(&place.path("posters-layers")).into_iter().map(|(name, _)| name).collect();
    for wanted in ["000001.json", "000001.regenerated.png", "000001.layer_01.png", "000002.layer_04.png"] {
        assert!(found.iter().any(|name| name == wanted), "{wanted}: {found:?}");
    }
}
