//! Datasets that are damaged, huge or strange, and submissions that are interrupted.

use std::{
    fs,
    fs::File,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use parquet::{
    data_type::{
        BoolType, ByteArray, ByteArrayType, DoubleType, FixedLenByteArrayType, Int32Type, Int64Type, Int96Type,
    },
    file::writer::SerializedFileWriter,
    schema::parser::parse_message_type,
};
use serde_json::{Value, json};

use crate::{
    common::{is_root, names, skipped, until},
    services::world::{World, in_both_worlds},
};

in_both_worlds! {
    an_interrupted_submission_goes_on_and_loses_nothing,
    a_source_that_disappears_says_what_was_submitted,
}

/// The encoded bytes of a picture of one color.
fn png(pixel: [u8; 4]) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbaImage::from_pixel(8, 6, image::Rgba(pixel)).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// Parquet with pictures and their numbers.
fn pictures(path: &Path, rows: std::ops::Range<u16>) {
    let schema = "message schema { optional group image { optional binary bytes; } required int64 n; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let bytes = |n: u16| ByteArray::from(png([n as u8, (n >> 8) as u8, 3, 255]));
    let bytes: Vec<_> = rows.clone().map(bytes).collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&bytes, Some(&vec![2; bytes.len()]), None).unwrap();
    column.close().unwrap();
    let numbers: Vec<_> = rows.map(i64::from).collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&numbers, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

async fn an_interrupted_submission_goes_on_and_loses_nothing(world: World) {
    const ROWS: u16 = 700;
    pictures(&world.place.path("x.parquet"), 0..ROWS);
    let output = format!("{}{{row}}/", world.output("x"));
    let args = ["submit", "composite", "--from", "x.parquet", "--batch", "x", "--output", &output];
    for (signal, at_least) in [("INT", 1), ("KILL", 200), ("INT", 400)] {
        let mut child = world.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Its tables may not be there yet.
        until(|| {
            let (ended, world) = (child.try_wait().unwrap().is_some(), &world);
            async move {
                let rows = match world.place.path("data/acetate.db").exists() || world.service.is_some() {
                    true => submitted(world).await,
                    false => 0,
                };
                if ended || rows >= at_least { Ok(()) } else { Err(format!("{rows} rows yet")) }
            }
        })
        .await;
        Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
        child.wait().unwrap();
    }
    let report = world.json(&[&args[..], &["--json"]].concat()).await;
    let total = report["submitted"].as_u64().unwrap() + report["known"].as_u64().unwrap();
    assert_eq!(total, u64::from(ROWS), "{report}");
    let results = world.run(&["jobs", "results", "--batch", "x"]).await.stdout;
    let rows: Vec<Value> = results.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let numbers: Vec<_> = rows.iter().map(|row| row["meta"]["n"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..u64::from(ROWS)).collect::<Vec<_>>());
    let stored = names(&world.path(&world.output("own/inputs")));
    assert_eq!(stored.iter().filter(|name| name.ends_with(".png")).count(), usize::from(ROWS));
}

/// The number of jobs; 0 while there are no tables.
async fn submitted(world: &World) -> u64 {
    let ran = world.run(&["jobs", "list", "--batch", "x", "--limit", "1000", "--json"]).await;
    let jobs = serde_json::from_str::<Value>(&ran.stdout).unwrap_or_default();
    jobs["jobs"].as_array().map_or(0, |jobs| jobs.len() as u64)
}

async fn a_source_that_disappears_says_what_was_submitted(world: World) {
    fs::create_dir(world.place.path("set")).unwrap();
    pictures(&world.place.path("set/0.parquet"), 0..5);
    std::os::unix::fs::symlink("gone.parquet", world.place.path("set/1.parquet")).unwrap();
    pictures(&world.place.path("set/2.parquet"), 5..8);
    let output = world.output("x");
    let args = ["submit", "composite", "--from", "set", "--batch", "x", "--output", &output];
    let ran = world.run(&args).await;
    assert!(matches!(ran.code, Some(1 | 2)) && ran.stderr.contains("1.parquet"), "{ran:?}");
    fs::remove_file(world.place.path("set/1.parquet")).unwrap();
    pictures(&world.place.path("set/1.parquet"), 8..10);
    let report = world.json(&[&args[..], &["--json"]].concat()).await;
    let total = report["submitted"].as_u64().unwrap() + report["known"].as_u64().unwrap();
    assert_eq!((total, &report["rows"]), (10, &json!(10)), "{report}");
}

/// The texts of the rows' columns that are carried through, after a submission of composites.
async fn carried(world: &World, from: &str, more: &[&str]) -> Vec<Value> {
    let output = world.output("x");
    let args = ["submit", "composite", "--from", from, "--batch", from, "--output", &output];
    let ran = world.run(&[&args[..], more].concat()).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    let results = world.run(&["jobs", "results", "--batch", from]).await.stdout;
    results.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["meta"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_with_fifty_columns_of_other_types_is_carried_through() {
    let world = World::embedded();
    let kinds: [(&str, &str); 12] = [
        ("boolean", ""),
        ("int32", ""),
        ("int32", "(INT_8)"),
        ("int32", "(UINT_32)"),
        ("int32", "(DATE)"),
        ("int32", "(DECIMAL(9,2))"),
        ("int64", "(TIMESTAMP_MILLIS)"),
        ("int64", "(TIME_MICROS)"),
        ("int96", ""),
        ("double", ""),
        ("fixed_len_byte_array(12)", "(INTERVAL)"),
        ("fixed_len_byte_array(16)", ""),
    ];
    let columns: String = (0..48)
        .map(|n| {
            let (physical, logical) = kinds[n % kinds.len()];
            format!("optional {physical} c{n} {logical};\n")
        })
        .collect();
    let schema = format!(
        "message schema {{ optional group image {{ optional binary bytes; optional binary path (UTF8); }}
         optional binary hash;\n{columns} }}"
    );
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let path = world.place.path("wide.parquet");
    let mut writer = SerializedFileWriter::new(File::create(&path).unwrap(), schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut leaf = 0;
    while let Some(mut column) = group.next_column().unwrap() {
        match leaf {
            0 => drop(column.typed::<ByteArrayType>().write_batch(
                &[png([1; 4]).into(), png([2; 4]).into()],
                Some(&[2, 2]),
                None,
            )),
            1 => drop(column.typed::<ByteArrayType>().write_batch(&["a.png".into()], Some(&[2, 1]), None)),
            2 => drop(column.typed::<ByteArrayType>().write_batch(&[vec![0xff, 0xfe].into()], Some(&[1, 0]), None)),
            n => match (n - 3) % kinds.len() {
                0 => drop(column.typed::<BoolType>().write_batch(&[true], Some(&[1, 0]), None)),
                // A date that no calendar has, and one that it has.
                4 => drop(column.typed::<Int32Type>().write_batch(&[i32::MAX, 19_000], Some(&[1, 1]), None)),
                1..=5 => drop(column.typed::<Int32Type>().write_batch(&[7], Some(&[1, 0]), None)),
                6 | 7 => drop(column.typed::<Int64Type>().write_batch(&[i64::MIN, 1_000], Some(&[1, 1]), None)),
                8 => {
                    let mut time = parquet::data_type::Int96::new();
                    time.set_data(0, 0, 2_440_588);
                    drop(column.typed::<Int96Type>().write_batch(&[time], Some(&[1, 0]), None));
                }
                9 => drop(column.typed::<DoubleType>().write_batch(&[f64::NAN, 2.0], Some(&[1, 1]), None)),
                10 => drop(column.typed::<FixedLenByteArrayType>().write_batch(
                    &[vec![9; 12].into()],
                    Some(&[1, 0]),
                    None,
                )),
                _ => drop(column.typed::<FixedLenByteArrayType>().write_batch(
                    &[vec![0xff; 16].into()],
                    Some(&[1, 0]),
                    None,
                )),
            },
        }
        column.close().unwrap();
        leaf += 1;
    }
    group.close().unwrap();
    writer.close().unwrap();
    let metas = carried(&world, "wide.parquet", &[]).await;
    assert_eq!(metas.len(), 2);
    let first = &metas[0];
    assert_eq!((&first["c0"], &first["c1"], &first["c3"]), (&json!(true), &json!(7), &json!(7)), "{first:#}");
    assert_eq!((&first["c4"], &first["c5"]), (&json!(i32::MAX), &json!("0.07")), "{first:#}");
    assert_eq!((&first["c6"], &first["c7"], &first["c9"]), (&json!(i64::MIN), &json!(i64::MIN), &Value::Null));
    assert!(first.get("c10").is_none(), "intervals are left out: {first:#}");
    assert_eq!((&metas[1]["c4"], &metas[1]["c9"]), (&json!("2022-01-08"), &json!(2)), "{:#}", metas[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_columns_are_carried_through() {
    let world = World::embedded();
    let picture = world.input("a.png", [1, 2, 3, 255]);
    let deep = json!({ "a": { "b": [{ "c": null }, [1, 2.5]] }, "list": [], "text": "ä\u{0}\n\"" });
    fs::write(world.place.path("n.jsonl"), format!("{}\n", json!({ "image": picture, "deep": deep }))).unwrap();
    let metas = carried(&world, "n.jsonl", &[]).await;
    assert_eq!(metas[0]["deep"]["a"], deep["a"], "{metas:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn huge_rows_are_refused_by_their_place() {
    let world = World::embedded();
    let picture = world.input("a.png", [1, 2, 3, 255]);
    let output = world.output("x");
    let submit = async |from: &str, more: &[&str]| {
        let args = ["submit", "composite", "--from", from, "--batch", "huge", "--output", &output, "--dry-run"];
        world.run(&[&args[..], more].concat()).await
    };
    // A line without an end, between two that are good.
    let good = format!("{}\n", json!({ "image": picture }));
    let mut file = File::create(world.place.path("long.jsonl")).unwrap();
    file.write_all(good.as_bytes()).unwrap();
    file.write_all(&vec![b'x'; 40 << 20]).unwrap();
    file.write_all(format!("\n{good}").as_bytes()).unwrap();
    let ran = submit("long.jsonl", &[]).await;
    assert!(ran.code == Some(2) && ran.stderr.contains("long.jsonl:2 (row 2): row: has more than 16 MiB"), "{ran:?}");
    let ran = submit("long.jsonl", &["--skip-invalid"]).await;
    assert!(ran.code == Some(0) && ran.stderr.contains("2 rows valid"), "{ran:?}");
    // A quote that is not closed.
    let mut file = File::create(world.place.path("quote.csv")).unwrap();
    file.write_all(format!("image,note\n{picture},fine\n{picture},\"open\n").as_bytes()).unwrap();
    for _ in 0..40 {
        file.write_all(&format!("{picture},x\n").into_bytes().repeat((1 << 20) / (picture.len() + 3))).unwrap();
    }
    let ran = submit("quote.csv", &[]).await;
    let wanted = "quote.csv, row 2: a row has more than 16 MiB; a quote or a bracket may not be closed";
    assert!(ran.code == Some(2) && ran.stderr.contains(wanted), "{ran:?}");
    // A bracket that is not closed.
    let text = format!("[{}, {{\"image\": [{}", json!({ "image": picture }), "\"x\", ".repeat(6 << 20));
    fs::write(world.place.path("open.json"), text).unwrap();
    let ran = submit("open.json", &[]).await;
    assert!(ran.code == Some(2) && ran.stderr.contains("open.json: a row has more than 16 MiB"), "{ran:?}");
    // A column that is too large to be carried through, and what to do.
    let note = "x".repeat(20_000);
    fs::write(world.place.path("note.jsonl"), format!("{}\n", json!({ "image": picture, "note": note }))).unwrap();
    let ran = submit("note.jsonl", &[]).await;
    assert!(ran.code == Some(2) && ran.stderr.contains("leave it out with --drop-column note"), "{ran:?}");
    assert_eq!(submit("note.jsonl", &["--drop-column", "note"]).await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_and_damaged_files_are_refused_by_name() {
    let world = World::embedded();
    let picture = world.input("a.png", [1, 2, 3, 255]);
    let lines: String = (0..5000).map(|n| format!("{}\n", json!({ "image": picture, "n": n }))).collect();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(lines.as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    let mut damaged = packed.clone();
    for byte in damaged.iter_mut().skip(packed.len() / 2).take(40) {
        *byte ^= 0x55;
    }
    fs::write(world.place.path("cut.jsonl.gz"), &packed[..packed.len() / 2]).unwrap();
    fs::write(world.place.path("bad.jsonl.gz"), &damaged).unwrap();
    fs::write(world.place.path("empty.parquet"), b"").unwrap();
    fs::write(world.place.path("empty.jsonl.gz"), b"\x1f\x8b").unwrap();
    let output = world.output("x");
    for (from, wanted) in [
        ("cut.jsonl.gz", "ends too early: the file is incomplete; copy or download it again"),
        // Where the damage is early, its text is no rows.
        ("bad.jsonl.gz", "nothing was submitted"),
        ("empty.parquet", "copy or download it again"),
        ("empty.jsonl.gz", "ends too early"),
    ] {
        let args = ["submit", "composite", "--from", from, "--batch", "cut", "--output", &output];
        let ran = world.run(&args).await;
        assert!(ran.code == Some(2) && ran.stderr.contains(from) && ran.stderr.contains(wanted), "{from}: {ran:?}");
    }
    assert_eq!(world.json(&["jobs", "list", "--json"]).await["jobs"], json!([]), "nothing was submitted");
}

/// The disk that an export is written to is full.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_target_loses_nothing_and_the_same_command_goes_on() {
    let world = World::embedded();
    let small = world.place.path("small");
    fs::create_dir(&small).unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=20m", "tmpfs"]).arg(&small).output();
    if !is_root() || !mount.is_ok_and(|output| output.status.success()) {
        skipped("an export to a full disk", "this user cannot mount a small one");
        return;
    }
    let noise = image::RgbaImage::from_fn(900, 900, |x, y| {
        image::Rgba((x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503).wrapping_mul(x + 1)).to_le_bytes())
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    noise.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    let inputs: Vec<_> = (0..8).map(|n| world.bytes(&format!("{n}.png"), bytes.get_ref())).collect();
    let lines: String = inputs.iter().map(|url| format!("{}\n", json!({ "image": url }))).collect();
    fs::write(world.place.path("m.jsonl"), lines).unwrap();
    let output = world.output("x");
    world.json(&["submit", "composite", "--from", "m.jsonl", "--batch", "x", "--output", &output, "--json"]).await;
    let worker = world.worker();
    assert_eq!(world.run(&["jobs", "watch", "--batch", "x"]).await.code, Some(0));
    drop(worker);
    for format in ["webdataset", "parquet", "imagefolder"] {
        let out = format!("small/{format}");
        let args = ["jobs", "export", "--batch", "x", "--as", format, "--out", &out, "--shard-rows", "1"];
        let full = world.run(&args).await;
        assert_eq!(full.code, Some(1), "{format}: {full:?}");
        assert!(full.stderr.contains("disk") && full.stderr.contains("small"), "{format}: {}", full.stderr);
        let grown = Command::new("mount").args(["-o", "remount,size=200m"]).arg(&small).status().unwrap();
        assert!(grown.success());
        let report = world.json(&[&args[..], &["--json"]].concat()).await;
        let total = report["written"].as_u64().unwrap() + report["known"].as_u64().unwrap();
        assert_eq!(total, 8, "{format}: {report:#}");
        fs::remove_dir_all(world.place.path(&out)).unwrap();
        Command::new("mount").args(["-o", "remount,size=20m"]).arg(&small).status().unwrap();
    }
    Command::new("umount").arg(&small).status().unwrap();
}

/// What every worker would refuse is refused before anything is submitted.
#[tokio::test(flavor = "multi_thread")]
async fn pictures_that_cannot_exist_are_refused_when_they_are_submitted() {
    let mut world = World::embedded();
    world.set("ACETATE__STORE__HTTP_INPUTS", "true");
    let output = world.output("none");
    let composite = ["composite", "--input", &world.input("a.png", [1, 2, 3, 255]), "--output", &output];
    let first = world.submit(&composite).await;
    let worker = world.worker();
    world.until(&first, &["succeeded"]).await;
    drop(worker);
    let nobody = acetate::job::JobId::new().to_string();
    for (input, wanted) in [
        (format!("job:{first}:-1"), "names no picture of a job"),
        (format!("job:{first}:99999999999"), "names no picture of a job"),
        (format!("job:{first}:edited.jpg"), "names no picture of a job"),
        (format!("job:{first}:9"), "a composite job has no layers"),
        (format!("job:{first}:edited.png"), "its pictures are composite.png"),
        (format!("job:{nobody}:1"), "there is no such job, or it was deleted"),
        ("http://127.0.0.1/a.png".to_owned(), "its host has the address 127.0.0.1; inputs from the web must"),
        ("http://0x7f.1:8080/a.png".to_owned(), "its host has the address 127.0.0.1"),
        ("https://[::1]/a.png".to_owned(), "its host has the address ::1"),
        ("http://169.254.169.254/latest".to_owned(), "its host has the address 169.254.169.254"),
        ("https://localhost/a.png".to_owned(), "a name of this machine or its network"),
    ] {
        let row = json!({ "image": input }).to_string() + "\n";
        fs::write(world.place.path("p.jsonl"), row).unwrap();
        let from = ["submit", "composite", "--from", "p.jsonl", "--output", &output];
        for args in [
            &["submit", "composite", "--input", &input, "--output", &output][..],
            &from,
            &[&from[..], &["--dry-run"]].concat(),
        ] {
            let ran = world.run(args).await;
            assert!(ran.code.is_some_and(|code| code != 0) && ran.stderr.contains(wanted), "{args:?}: {ran:?}");
        }
    }
    assert_eq!(world.json(&["jobs", "list", "--json"]).await["jobs"].as_array().unwrap().len(), 1);

    // What is there is taken; and a job that was submitted may be submitted again after its picture was deleted.
    let row = json!({ "image": format!("job:{first}:composite.png") }).to_string() + "\n";
    fs::write(world.place.path("p.jsonl"), row).unwrap();
    let from = ["submit", "composite", "--from", "p.jsonl", "--output", &output, "--batch", "b", "--json"];
    assert_eq!(world.json(&from).await["submitted"], 1);
    assert_eq!(world.run(&["jobs", "delete", &first]).await.code, Some(0));
    assert_eq!(world.json(&from).await["known"], 1);
}
