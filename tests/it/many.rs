//! `acetate run decompose` for several pictures and folders, and `acetate export --batch`.

use std::{ffi::OsStr, fs, io::Read, os::unix::ffi::OsStrExt, process::Stdio};

use serde_json::{Value, json};

use crate::common::{TestDir, blocking_until, checkpoint, names};

const QUICK: [&str; 8] = ["--layers", "2", "--steps", "1", "--prompt", "x", "--seed", "7"];

fn run(place: &TestDir, images: &[&str], more: &[&str]) -> crate::common::Ran {
    let model = checkpoint("layered");
    place.run(&[&["run", "decompose"], images, &["--out", "out", "--model", &model], &QUICK[..], more].concat())
}

#[test]
fn a_folder_is_split_and_one_bad_picture_does_not_end_it() {
    let place = TestDir::new();
    for folder in ["in/deep", "in/.hidden", "in/__MACOSX"] {
        fs::create_dir_all(place.path(folder)).unwrap();
    }
    place.picture("in/a.png", [200, 10, 10, 255]);
    place.picture("in/deep/b.png", [10, 200, 10, 255]);
    place.picture("in/.hidden/c.png", [10, 10, 200, 255]);
    fs::write(place.path("in/__MACOSX/._a.png"), "x").unwrap();
    fs::write(place.path("in/bad.png"), "no picture").unwrap();
    for odd in [&b"new\nline.png"[..], b"tab\t.png", b"not-utf8-\xff.png"] {
        fs::write(place.path("in").join(OsStr::from_bytes(odd)), "x").unwrap();
    }
    let ran = run(&place, &["in"], &["--export", "psd"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let skipped = "skipped 5 files: with names that a job cannot use 3, __MACOSX 1, hidden 1 (control characters, a part . \
                   or .., or not UTF-8: new\\nline.png, not-utf8-";
    for wanted in [skipped, "bad.png: ", "(invalid_image)", "1 picture failed"] {
        assert!(ran.stderr.contains(wanted), "{wanted}: {}", ran.stderr);
    }
    assert!(ran.stdout.contains("3 pictures: 2 split, 0 already there, 1 failed (invalid_image 1)"), "{}", ran.stdout);
    assert_eq!(names(&place.path("out")), ["a", "a.psd", "bad", "deep"]);
    assert_eq!(names(&place.path("out/deep")), ["b", "b.psd"]);
    assert_eq!(place.manifest("out/deep/b")["files"].as_array().unwrap().len(), 3);

    // The same command does only what is missing: the repaired picture, a removed file and a changed picture.
    let before = place.manifest("out/a")["job"].clone();
    place.picture("in/bad.png", [9, 9, 9, 255]);
    fs::remove_file(place.path("out/deep/b/layer-01.png")).unwrap();
    fs::remove_file(place.path("out/a.psd")).unwrap();
    let ran = run(&place, &["in"], &["--export", "psd", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&report["pictures"], &report["failed"]), (&json!(3), &json!(0)), "{report:#}");
    assert!(place.path("out/deep/b/layer-01.png").is_file() && place.path("out/a.psd").is_file());
    assert_eq!(place.manifest("out/a")["job"], before);
    let ran = run(&place, &["in"], &[]);
    assert!(ran.stdout.contains("3 pictures: 0 split, 3 already there, 0 failed"), "{}", ran.stdout);
    let bigger = image::RgbaImage::from_pixel(16, 12, image::Rgba([1, 1, 1, 255]));
    bigger.save(place.path("in/a.png")).unwrap();
    let ran = run(&place, &["in"], &[]);
    assert!(ran.stdout.contains("3 pictures: 1 split, 2 already there, 0 failed"), "{}", ran.stdout);
    assert_ne!(place.manifest("out/a")["job"], before);

    // The batch can be exported, as any other.
    let batch = report["batch"].as_str().unwrap();
    let wrote = place.run(&["export", "--batch", batch, "--out", "files", "--format", "ora"]);
    assert_eq!(wrote.code, Some(0), "{wrote:?}");
    assert!(wrote.stdout.contains("4 written, 0 already there"), "{}", wrote.stdout);
    let files = names(&place.path("files"));
    assert!(
        files.contains(&"b.ora".to_owned()) && files.iter().filter(|name| name.starts_with("a-")).count() == 2,
        "{files:?}"
    );
    let again = place.run(&["export", "--batch", batch, "--out", "files", "--format", "ora"]);
    assert!(again.stdout.contains("0 written, 4 already there"), "{}", again.stdout);
    let rows = place.run(&["jobs", "results", "--batch", batch]).stdout;
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let pictures: Vec<_> = rows.iter().map(|row| (row["row"].as_u64(), row["meta"]["picture"].as_str())).collect();
    assert!(pictures.contains(&(Some(3), Some("deep/b.png"))) && pictures.contains(&(Some(2), Some("bad.png"))));
    let report = place.json(&["jobs", "export", "--batch", batch, "--as", "webdataset", "--out", "set", "--json"]);
    assert_eq!((&report["written"], &report["shards"]), (&json!(4), &json!(1)), "{report:#}");
    assert_eq!(names(&place.path("set")), [".acetate-export", "README.md", "layers-000000.tar"]);
    let none = place.run(&["export", "--batch", "none", "--out", "files"]);
    assert!(none.code == Some(2) && none.stderr.contains("there is no batch `none`"), "{none:?}");
}

#[test]
fn several_files_each_get_a_folder() {
    let place = TestDir::new();
    let (a, b) = (place.picture("a.png", [200, 10, 10, 255]), place.picture("a.bmp", [10, 10, 200, 255]));
    let ran = run(&place, &[&a, &b], &[]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(names(&place.path("out")), ["a-bmp", "a-png"]);
    let sheet = run(&place, &[&a], &["--export", "ora", "--sheet", "a.png"]);
    assert!(sheet.code == Some(2) && sheet.stderr.contains("--sheet cannot be combined with --export"), "{sheet:?}");
    let same = run(&place, &[&a, &b], &["--id", "018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21"]);
    assert!(same.code == Some(2) && same.stderr.contains("--id is for one picture"), "{same:?}");
    let empty = run(&place, &["out/../out"], &[]);
    assert!(empty.code == Some(2) && empty.stderr.contains("has the pictures; give another folder"), "{empty:?}");
}

#[test]
fn a_picture_keeps_its_folder_when_others_come() {
    let place = TestDir::new();
    fs::create_dir(place.path("in")).unwrap();
    place.picture("in/q.png", [200, 10, 10, 255]);
    let first = run(&place, &["in"], &["--json"]);
    assert_eq!(first.code, Some(0), "{first:?}");
    place.picture("in/q.bmp", [10, 10, 200, 255]);
    let ran = run(&place, &["in"], &[]);
    assert!(ran.stdout.contains("2 pictures: 1 split, 1 already there, 0 failed"), "{ran:?}");
    assert_eq!(names(&place.path("out")), ["q", "q-bmp"]);
    let report: Value = serde_json::from_str(&first.stdout).unwrap();
    let rows = place.run(&["jobs", "results", "--batch", report["batch"].as_str().unwrap()]).stdout;
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let pictures: Vec<_> = rows.iter().map(|row| (row["row"].as_u64(), row["meta"]["picture"].as_str())).collect();
    assert_eq!(pictures, [(Some(1), Some("q.bmp")), (Some(2), Some("q.png"))]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_and_the_same_command_continues() {
    let place = TestDir::new();
    fs::create_dir(place.path("in")).unwrap();
    for name in ["in/a.png", "in/b.png", "in/c.png"] {
        place.picture(name, [name.as_bytes()[3], 10, 10, 255]);
    }
    let model = checkpoint("layered");
    let slow = [
        "run",
        "decompose",
        "in",
        "--out",
        "out",
        "--model",
        &model,
        "--layers",
        "2",
        "--steps",
        "300",
        "--prompt",
        "x",
    ];
    let mut child = place.command(&slow).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    blocking_until(|| if place.path("out/a/manifest.json").is_file() { Ok(()) } else { Err("a is not there") });
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let code = child.wait().unwrap().code();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(code, Some(130), "{stderr}");
    assert!(stderr.contains("of 3 pictures; run the same command to continue"), "{stderr}");
    let ran = place.run(&slow);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!ran.stdout.contains(" 0 already there") && ran.stdout.contains("0 failed"), "{}", ran.stdout);
    assert_eq!(names(&place.path("out")), ["a", "b", "c"]);
}
