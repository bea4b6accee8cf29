//! Datasets whose columns or files mean something else than their names say, and commands with wrong flags.

use std::{fs, fs::File};

use serde_json::{Value, json};

use crate::services::{
    datasets::png,
    world::{World, in_both_worlds},
};

in_both_worlds! {
    the_picture_of_an_archive_comes_before_a_path,
    layers_of_jobs_have_short_names_in_rows_too,
}

/// Writes an archive of these files, then links to the first of them.
fn tar(world: &World, name: &str, files: &[(&str, &[u8])], links: &[&str]) {
    let mut archive = tar::Builder::new(File::create(world.place.path(name)).unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    for (name, bytes) in files {
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, *bytes).unwrap();
    }
    header.set_size(0);
    for (at, name) in links.iter().enumerate() {
        header.set_entry_type(if at % 2 == 0 { tar::EntryType::Link } else { tar::EntryType::Symlink });
        archive.append_link(&mut header, name, files[0].0).unwrap();
    }
    archive.into_inner().unwrap();
}

async fn the_picture_of_an_archive_comes_before_a_path(world: World) {
    let local = world.input("a.png", [1, 2, 3, 255]);
    world.place.picture("a.png", [1, 2, 3, 255]);
    let own = png([9, 9, 9, 255]);
    let output = world.output("x");
    for path in ["a.png", "nowhere.png", &local] {
        let row = json!({ "image": path, "input": path, "caption": "c" }).to_string();
        tar(&world, "shadow.tar", &[("1.png", &own), ("1.json", row.as_bytes())], &["2.png", "3.png"]);
        let batch = format!("b{}", path.len());
        let args = ["submit", "composite", "--from", "shadow.tar", "--batch", &batch, "--output", &output];
        let ran = world.run(&args).await;
        assert_eq!(ran.code, Some(0), "{path}: {ran:?}");
        assert!(ran.stderr.contains("skipped 2 files: links 2"), "{}", ran.stderr);
        let results = world.run(&["jobs", "results", "--batch", &batch]).await.stdout;
        let line: Value = serde_json::from_str(results.trim()).unwrap();
        assert!(line["input"][0].as_str().unwrap().contains("own/inputs/"), "{path}: {line}");
        assert_eq!((&line["meta"]["image"], &line["meta"]["caption"]), (&json!(path), &json!("c")));
    }
    // Without a picture of its own, a row may name one elsewhere, and no file of this machine.
    for path in ["a.png", "file:///a.png"] {
        let row = json!({ "image": path }).to_string();
        tar(&world, "paths.tar", &[("1.json", row.as_bytes())], &[]);
        let ran = world.run(&["submit", "composite", "--from", "paths.tar", "--output", &output]).await;
        assert!(ran.code == Some(2) && ran.stderr.contains("is a local file; a row of an archive"), "{ran:?}");
    }
    tar(&world, "latin.tar", &[("1.png", &own), ("1.txt", b"caf\xe9")], &[]);
    let ran = world.run(&["submit", "composite", "--from", "latin.tar", "--output", &output]).await;
    let wanted = "latin.tar, row 1 (1): 1.txt: is not UTF-8; save it as UTF-8";
    assert!(ran.code == Some(2) && ran.stderr.contains(wanted), "{ran:?}");
}

async fn layers_of_jobs_have_short_names_in_rows_too(world: World) {
    let (input, output) = (world.input("a.png", [1, 2, 3, 255]), world.output("x"));
    let id = "0badcafe-0000-4000-8000-000000000001";
    world.submit(&["composite", "--input", &input, "--output", &output, "--id", id]).await;
    let _worker = world.worker();
    world.until(id, &["succeeded"]).await;
    fs::write(world.place.path("m.csv"), "image\njob:last:composite.png\njob:0badcafe:composite.png\n").unwrap();
    let rows = [json!({ "images": ["job:last:composite.png", input] }), json!({ "input": "job:0BAD:composite.png" })];
    fs::write(world.place.path("m.jsonl"), rows.map(|row| format!("{row}\n")).concat()).unwrap();
    for from in ["m.jsonl", "m.csv"] {
        let args = ["submit", "composite", "--from", from, "--batch", from, "--output", &output, "--dry-run"];
        let ran = world.run(&args).await;
        assert_eq!(ran.code, Some(0), "{from}: {ran:?}");
    }
    let args = ["submit", "composite", "--from", "m.csv", "--batch", "c", "--output", &output, "--label", "n=1"];
    let ran = world.run(&args).await;
    assert!(ran.code == Some(0) && ran.stdout.contains("1 new, 0 already submitted, 1 duplicate"), "{ran:?}");
    let results = world.run(&["jobs", "results", "--batch", "c"]).await.stdout;
    assert_eq!(results.matches(&format!("job:{id}:composite.png")).count(), 2, "{results}");
    for (name, wanted) in [
        ("ffff", "image: there is no job whose id begins with ffff"),
        ("zzz", "image: `job:zzz:1`: `zzz` is not a UUID"),
    ] {
        fs::write(world.place.path("bad.csv"), format!("image\njob:{name}:1\n")).unwrap();
        let ran = world.run(&["submit", "composite", "--from", "bad.csv", "--output", &output]).await;
        assert!(ran.code == Some(2) && ran.stderr.contains(wanted), "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_output_is_one_mistake_of_the_command() {
    let world = World::embedded();
    let good = world.input("a.png", [1, 2, 3, 255]);
    fs::write(world.place.path("m.csv"), format!("image\n{good}\n{good}?\n{good}\n")).unwrap();
    fs::write(world.place.path("good.csv"), format!("image\n{good}\n")).unwrap();
    for (output, wanted) in [
        (None, "output: is missing; give --output, or each row an `output`"),
        (Some("ftp://h/{stem}"), "--output: "),
        (Some("file:///a/{stem}/../x"), "--output: "),
    ] {
        for more in [&[][..], &["--dry-run"]] {
            let output: Vec<_> = output.iter().flat_map(|output| ["--output", output]).collect();
            let ran = world.run(&[&["submit", "decompose", "--from", "m.csv"][..], more, &output].concat()).await;
            assert!(ran.code == Some(2) && ran.stderr.matches(wanted).count() == 1, "{more:?}: {ran:?}");
        }
    }
    let ran = world.run(&["submit", "decompose", "--from", "m.csv", "--skip-invalid"]).await;
    assert!(ran.code == Some(2) && ran.stderr.contains("no row is valid; nothing was submitted"), "{ran:?}");
    let ran = world.run(&["submit", "decompose", "--from", "good.csv", "--output", "../o2", "--dry-run"]).await;
    assert!(ran.code == Some(0) && ran.stdout.contains("1 would be new"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_with_the_names_of_parameters_are_told() {
    let world = World::embedded();
    let good = world.input("a.png", [1, 2, 3, 255]);
    let output = world.output("x");
    let run = async |text: String, more: &[&str]| {
        fs::write(world.place.path("m.csv"), text).unwrap();
        let args = ["submit", "decompose", "--from", "m.csv", "--output", &output, "--dry-run"];
        world.run(&[&args[..], more].concat()).await
    };
    let ran = run(format!("image,count,trim,w\n{good},2,true,3\n"), &[]).await;
    let wanted = ["carried through to the results: w\n", "taken as parameters: count, trim\n"];
    assert!(ran.code == Some(0) && wanted.iter().all(|text| ran.stderr.contains(text)), "{ran:?}");
    for (text, wanted, remedy) in [
        (
            format!("image,resolution\n{good},1920x1080\n"),
            "if the column `resolution` is about something else, --drop-column resolution ignores it",
            &["--drop-column", "resolution"][..],
        ),
        (
            format!("image,output\n{good},a caption\n"),
            "if the column `output` is about something else, --drop-column output ignores it",
            &["--drop-column", "output"],
        ),
        (
            format!("file_name,input\n{good},make it red\n"),
            "if the picture is in the column `file_name`, give --column image=file_name",
            &["--column", "image=file_name"],
        ),
    ] {
        let ran = run(text.clone(), &[]).await;
        assert!(ran.code == Some(2) && ran.stderr.contains(wanted), "{ran:?}");
        let ran = run(text, remedy).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    let ran = run(format!("image,layers\n{good},99\n"), &[]).await;
    assert!(ran.stderr.contains("99 is not between 0 and 10; most checkpoints make 2 and more\n"), "{ran:?}");
}
