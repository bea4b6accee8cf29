//! `jobs export` of rows that differ: variants, results that were reused, layers that were taken apart again, columns
//! that begin without values.
//!
//! The exports of the embedded world are also written to `target/tmp/export-varied/`, for
//! `tests/export/check_datasets.py`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::{Value, json};

use crate::services::{
    batch_export::{FORMATS, archived, export, target},
    world::{World, in_both_worlds},
};

in_both_worlds! {
    all_pictures_of_rows_that_differ_are_exported,
    an_export_that_goes_on_takes_the_rows_that_fit,
}

const QUICK: [&str; 6] = ["--steps", "1", "--prompt", "a sign", "--resolution", "128"];

/// Jobs of all kinds in the batch `varied`; returns the id of the job that the first row takes its result from, and
/// that of the nested one.
async fn varied(world: &World) -> (String, String) {
    let picture = |n: u8| world.input(&format!("{n}.png"), [n, 30, 90, 255]);
    let output = world.output("layers");
    let first =
        [&["decompose", "--input", &picture(1), "--output", &output, "--seed", "7", "--layers", "2"], &QUICK[..]];
    let source = world.submit(&first.concat()).await;
    world.until(&source, &["succeeded"]).await;
    let mut rows: Vec<Value> = (1..=6).map(|n| json!({ "image": picture(n), "layers": 2, "note": null })).collect();
    rows[4]["boxes"] = json!([[1, 2], [3.5]]);
    rows.push(json!({ "image": picture(7), "layers": 3, "note": "late", "boxes": { "other": "type" }, "count": 2 }));
    fs::write(world.place.path("v.jsonl"), rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let args = ["submit", "decompose", "--from", "v.jsonl", "--batch", "varied", "--output", &output, "--seed", "7"];
    let ran = world.run(&[&args[..], &["--reuse"], &QUICK].concat()).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let layer = format!("job:{source}:2");
    let nested = ["decompose", "--input", &layer, "--output", &output, "--batch", "varied", "--layers", "2"];
    let nested = world.submit(&[&nested[..], &QUICK].concat()).await;
    world.submit(&["composite", "--input", &picture(1), "--output", &output, "--batch", "varied"]).await;
    let watched = world.run(&["jobs", "watch", "--batch", "varied"]).await;
    assert_eq!(watched.code, Some(0), "{watched:?}");
    (source, nested)
}

async fn all_pictures_of_rows_that_differ_are_exported(world: World) {
    let _worker = world.worker();
    let (source, nested) = varied(&world).await;
    let shared = Path::new(env!("CARGO_TARGET_TMPDIR")).join("export-varied");
    if world.service.is_none() {
        fs::remove_dir_all(&shared).ok();
        fs::create_dir_all(&shared).unwrap();
    }
    for format in FORMATS {
        let (out, folder) = target(&world, &format!("varied-{format}"));
        // The last row has two variants, and there are two jobs that are of no row.
        let report = export(&world, "varied", format, &out, &["--shard-rows", "4"]).await;
        assert_eq!((&report["written"], &report["unreadable"]), (&json!(10), &json!(0)), "{format}: {report:#}");
        let again = export(&world, "varied", format, &out, &[]).await;
        assert_eq!((&again["written"], &again["known"]), (&json!(0), &json!(10)), "{format}: {again:#}");
        let records: Vec<Value> = match format {
            "imagefolder" => lines(&folder.join("metadata.jsonl")),
            "jsonl" => (0..3).flat_map(|shard| lines(&folder.join(format!("layers-{shard:06}.jsonl")))).collect(),
            "webdataset" => {
                let files = archived(&folder);
                let names: BTreeSet<_> = files.iter().map(|(name, _)| name).collect();
                assert_eq!(names.len(), files.len(), "a name is there twice: {names:?}");
                // Six rows with two layers, two variants with three, one nested, and a composite.
                let pictures = files.iter().filter(|(name, _)| name.ends_with(".png")).count();
                assert_eq!(pictures, 6 * 3 + 2 * 4 + 3 + 1);
                let files: BTreeMap<_, _> = files.iter().map(|(name, bytes)| (name.as_str(), bytes)).collect();
                let of = |variant: u8| files[format!("000007-variant-{variant:02}.layer_03.png").as_str()];
                assert_ne!(of(1), of(2));
                let json = files.iter().filter(|(name, _)| name.ends_with(".json"));
                json.map(|(_, bytes)| serde_json::from_slice(bytes).unwrap()).collect()
            }
            _ => Vec::new(),
        };
        if format != "parquet" {
            let of = |row: u64| records.iter().filter(|line| line["row"] == json!(row)).collect::<Vec<_>>();
            assert_eq!(of(1)[0]["reused_from"], json!(source), "{format}");
            assert_eq!(of(2)[0]["reused_from"], Value::Null);
            let seeds: Vec<_> = of(7).iter().map(|line| (&line["variant"], &line["seed"])).collect();
            assert_eq!(seeds, [(&json!(1), &json!(7)), (&json!(2), &json!(8))], "{format}");
            assert_eq!(of(7)[1]["layer_info"].as_array().unwrap().len(), 3);
            assert_eq!(
                (&of(5)[0]["boxes"], &of(7)[0]["boxes"]),
                (&json!("[[1,2],[3.5]]"), &json!("{\"other\":\"type\"}"))
            );
            let part = records.iter().find(|line| line["id"] == json!(nested)).unwrap();
            assert_eq!(part["input"], json!([format!("job:{source}:2")]), "{format}");
            let from = |record: &Value| ["job", "layer", "variant"].map(|name| record[format!("from_{name}")].clone());
            assert_eq!(from(part), [json!(source), json!(2), json!(1)], "{format}");
            assert_eq!(from(of(2)[0]), [Value::Null, Value::Null, Value::Null], "{format}");
        }
        if world.service.is_none() {
            let kept = std::process::Command::new("cp").arg("-r").arg(&folder).arg(shared.join(format)).status();
            assert!(kept.unwrap().success());
        }
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The first row has the columns of `first`; each of the others is a row that comes later, with whether it fits them.
async fn an_export_that_goes_on_takes_the_rows_that_fit(world: World) {
    let _worker = world.worker();
    let first = json!({ "empty": null, "score": 1.5, "size": 1, "note": "x", "box": { "a": [1] } });
    let later = [
        (json!({ "other": null, "empty": 3, "score": 2, "box": { "a": [2.5], "b": "new" } }), true),
        (json!({ "other": 1 }), false),
        (json!({ "size": "many" }), false),
        (json!({ "size": 1.5 }), false),
        (json!({ "note": 7 }), false),
        (json!({ "box": { "a": ["text"] } }), false),
    ];
    let output = world.output("parts");
    for (number, (row, fits)) in later.iter().enumerate() {
        let batch = format!("parts-{number}");
        let with_picture = |row: &Value, n: u8| {
            let mut row = row.clone();
            row["image"] = json!(world.input(&format!("{n}.png"), [n, 1, 2, 255]));
            format!("{row}\n")
        };
        fs::write(world.place.path("p.jsonl"), with_picture(&first, 1) + &with_picture(row, 2)).unwrap();
        let submit = ["submit", "composite", "--from", "p.jsonl", "--batch", &batch, "--output", &output];
        let formats: Vec<_> =
            FORMATS.map(|format| (format, target(&world, &format!("parts-{number}-{format}")))).into();
        for limit in [&["--limit", "1"][..], &[]] {
            let ran = world.run(&[&submit[..], limit].concat()).await;
            assert_eq!(ran.code, Some(0), "{ran:?}");
            assert_eq!(world.run(&["jobs", "watch", "--batch", &batch]).await.code, Some(0));
            for (format, (out, folder)) in &formats {
                let ran = world.run(&["jobs", "export", "--batch", &batch, "--as", format, "--out", out]).await;
                // Lists and objects are texts in Parquet, and archives have the JSON of each row.
                let taken = *fits || !limit.is_empty() || *format == "webdataset";
                let taken = taken || (*format == "parquet" && row.get("box").is_some());
                assert_eq!(ran.code == Some(0), taken, "{format} {row}: {ran:?}");
                assert!(taken || ran.stderr.contains("; export the batch to another folder"), "{ran:?}");
                if *format == "jsonl" {
                    check_card(folder);
                }
            }
        }
    }
}

/// The card names the columns of every row, no more and no fewer: otherwise readers refuse all of them.
fn check_card(folder: &Path) {
    let card = fs::read_to_string(folder.join("README.md")).unwrap();
    let features: BTreeSet<&str> = card.lines().filter_map(|line| line.strip_prefix("  - name: ")).collect();
    assert!(features.contains("\"empty\""), "{card}");
    for shard in (0..).map(|shard| folder.join(format!("layers-{shard:06}.jsonl"))).take_while(|path| path.exists()) {
        for row in lines(&shard) {
            let names: Vec<_> = row.as_object().unwrap().keys().map(|name| format!("\"{name}\"")).collect();
            assert_eq!(names.iter().map(String::as_str).collect::<BTreeSet<_>>(), features, "{row}");
        }
    }
}
