//! Columns of datasets: pictures and masks inside of rows, and names that are wrong.

use std::{fs, fs::File, path::Path, sync::Arc};

use parquet::{
    data_type::{ByteArray, ByteArrayType},
    file::{reader::SerializedFileReader, writer::SerializedFileWriter},
    record::{Field, Row},
    schema::parser::parse_message_type,
};
use serde_json::{Value, json};

use crate::{
    common::names,
    services::{
        datasets::png,
        world::{World, in_both_worlds},
    },
};

in_both_worlds! {
    masks_and_lists_of_pictures_inside_rows_are_used,
}

/// Writes an archive of these files.
fn tar(path: &Path, files: &[(&str, Vec<u8>)]) {
    let mut archive = tar::Builder::new(File::create(path).unwrap());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        archive.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    archive.into_inner().unwrap();
}

/// A leaf of one row: its values, definition levels and repetition levels.
type Leaf<'a> = (Vec<Vec<u8>>, &'a [i16], Option<&'a [i16]>);

/// Writes Parquet with leaves of bytes.
fn parquet(path: &Path, schema: &str, leaves: &[Leaf<'_>]) {
    let schema = Arc::new(parse_message_type(&format!("message schema {{ {schema} }}")).unwrap());
    let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for (values, levels, repeats) in leaves {
        let mut column = group.next_column().unwrap().unwrap();
        let values: Vec<ByteArray> = values.iter().map(|value| value.clone().into()).collect();
        column.typed::<ByteArrayType>().write_batch(&values, Some(levels), *repeats).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

const IMAGE: &str = "{ optional binary bytes; optional binary path (UTF8); }";

/// The request of a batch with one job.
async fn request(world: &World, batch: &str) -> Value {
    let listed = world.json(&["jobs", "list", "--batch", batch, "--json"]).await;
    let id = listed["jobs"][0]["id"].as_str().unwrap_or_else(|| panic!("{listed}")).to_owned();
    let id: acetate::job::JobId = id.parse().unwrap();
    let row = world.rows().await.get(id).await.unwrap().unwrap();
    serde_json::to_value(row.request).unwrap()
}

async fn masks_and_lists_of_pictures_inside_rows_are_used(world: World) {
    let (red, blue, white) = (png([200, 0, 0, 255]), png([0, 0, 200, 255]), png([255; 4]));
    let output = world.output("x");
    let at = |name: &str| world.place.path(name);
    let both = format!("optional group image {IMAGE} optional group mask {IMAGE}");
    let named =
        |bytes: &Vec<u8>, path: &str| [(vec![bytes.clone()], &[2_i16][..], None), (vec![path.into()], &[2][..], None)];
    parquet(&at("mask.parquet"), &both, &[named(&red, "a.png"), named(&white, "m.png")].concat());
    tar(&at("mask.tar"), &[("1.image.png", red.clone()), ("1.mask.png", white.clone())]);
    tar(&at("other.tar"), &[("1.photo.png", red.clone()), ("1.area.png", white.clone()), ("1.x.png", blue.clone())]);
    for (from, more) in [
        ("mask.parquet", &[][..]),
        ("mask.parquet", &["--column", "image=image", "--column", "mask=mask"]),
        ("mask.tar", &[]),
        ("mask.tar", &["--column", "image=image.png", "--column", "mask=mask.png"]),
        ("other.tar", &["--column", "image=photo.png", "--column", "mask=area.png"]),
    ] {
        let batch = format!("{from}-{}", more.len());
        let args = ["submit", "edit", "--from", from, "--instruction", "x", "--batch", &batch, "--output", &output];
        let ran = world.run(&[&args[..], more].concat()).await;
        assert_eq!(ran.code, Some(0), "{from}: {ran:?}");
        let input = &request(&world, &batch).await["input"];
        let (image, mask) = (input["images"][0].as_str().or(input["image"].as_str()), input["mask"].as_str());
        assert_eq!(fs::read(world.path(image.unwrap())).unwrap(), red, "{from}: {input}");
        assert_eq!(fs::read(world.path(mask.unwrap())).unwrap(), white, "{from}: {input}");
    }
    // Both are there once, whatever they are in.
    assert_eq!(names(&world.path(&world.output("own/inputs"))).iter().filter(|name| name.ends_with(".png")).count(), 2);

    // Lists of structs, and of bytes.
    let structs =
        format!("optional group images (LIST) {{ repeated group list {{ optional group element {IMAGE} }} }}");
    let three = || vec![blue.clone(), red.clone(), white.clone()];
    let repeats: Option<&[i16]> = Some(&[0, 1, 1]);
    let paths = (vec![b"b.png".to_vec(), b"r.png".to_vec(), b"w.png".to_vec()], &[4_i16, 4, 4][..], repeats);
    parquet(&at("structs.parquet"), &structs, &[(three(), &[4, 4, 4], repeats), paths]);
    let plain =
        "optional group photos (LIST) { repeated group list { optional binary element; } } optional binary phash;";
    parquet(&at("plain.parquet"), plain, &[(three(), &[3, 3, 3], repeats), (vec![vec![0xff, 0xfe]], &[1], None)]);
    for from in ["structs.parquet", "plain.parquet"] {
        for kind in ["composite", "edit"] {
            let batch = format!("{from}-{kind}");
            let args = ["submit", kind, "--from", from, "--batch", &batch, "--output", &output];
            let more: &[&str] = if kind == "edit" { &["--instruction", "x"] } else { &[] };
            let ran = world.run(&[&args[..], more].concat()).await;
            assert_eq!(ran.code, Some(0), "{from} {kind}: {ran:?}");
            let input = request(&world, &batch).await["input"]["images"].clone();
            let found: Vec<_> = input
                .as_array()
                .unwrap()
                .iter()
                .map(|url| fs::read(world.path(url.as_str().unwrap())).unwrap())
                .collect();
            assert_eq!(found, three(), "{from} {kind}: {input}");
        }
        let args = ["submit", "decompose", "--from", from, "--output", &output, "--dry-run"];
        let ran = world.run(&args).await;
        assert!(ran.code == Some(2) && ran.stderr.contains("choose one with --column image="), "{ran:?}");
    }
}

/// Structs in another order, with more fields, and without bytes; bytes that are no picture beside a path.
#[tokio::test(flavor = "multi_thread")]
async fn parquet_of_other_shapes_is_read() {
    let world = World::embedded();
    let at = |name: &str| world.place.path(name);
    world.place.picture("a.png", [1, 2, 3, 255]);
    let (output, red) = (world.output("x"), png([200, 0, 0, 255]));
    let one = |bytes: &[u8]| (vec![bytes.to_vec()], &[2_i16][..], None);
    let none = (Vec::new(), &[1_i16][..], None);
    let turned =
        "optional group image { optional binary path (UTF8); optional binary note (UTF8); optional binary bytes; }";
    parquet(&at("turned.parquet"), turned, &[one(b"x.png"), one(b"y"), one(&red)]);
    parquet(&at("path.parquet"), turned, &[one(b"a.png"), one(b"y"), none.clone()]);
    parquet(&at("plain.parquet"), &format!("optional group image {IMAGE}"), &[none.clone(), one(b"a.png")]);
    let hash = "optional binary file_name (UTF8); optional binary phash;";
    let flat = |bytes: &[u8]| (vec![bytes.to_vec()], &[1_i16][..], None);
    parquet(&at("hash.parquet"), hash, &[flat(b"a.png"), flat(b"\xff\xfe\x01\x02")]);
    for (from, is_stored) in
        [("turned.parquet", true), ("path.parquet", false), ("plain.parquet", false), ("hash.parquet", false)]
    {
        let args = ["submit", "composite", "--from", from, "--upload", "--batch", from, "--output", &output];
        let ran = world.run(&args).await;
        assert_eq!(ran.code, Some(0), "{from}: {ran:?}");
        let input = request(&world, from).await["input"].clone();
        let input = input["images"][0].as_str().or(input["image"].as_str()).unwrap().to_owned();
        let bytes = fs::read(world.path(&input)).unwrap();
        assert_eq!(bytes == red, is_stored, "{from}: {input}");
    }
    // Bytes never reach the terminal, neither as a path nor as a picture that is missing.
    parquet(&at("raw.parquet"), "optional binary image;", &[flat(b"\x01\x02\x1b[31mraw")]);
    parquet(&at("text.parquet"), "optional binary image (UTF8);", &[flat(b"\x01\x02\x1b[31mraw")]);
    parquet(&at("empty.parquet"), &format!("optional group image {IMAGE}"), &[none.clone(), none]);
    for from in ["raw.parquet", "text.parquet", "empty.parquet"] {
        let ran = world.run(&["submit", "composite", "--from", from, "--output", &output, "--dry-run"]).await;
        assert_eq!(ran.code, Some(2), "{from}: {ran:?}");
        assert!(!ran.stderr.contains(['\x1b', '\x01', '\u{fffd}']), "{from}: {ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_are_not_there_are_mistakes() {
    let world = World::embedded();
    let good = world.input("a.png", [1, 2, 3, 255]);
    let (output, at) = (world.output("x"), |name: &str| world.place.path(name));
    fs::write(at("m.csv"), format!("image,w,seed\n{good},3,4\n")).unwrap();
    fs::write(at("m.tsv"), format!("image\tw\n{good}\t3\n")).unwrap();
    fs::write(at("m.jsonl"), format!("{}\n{}\n", json!({ "image": good }), json!({ "image": good, "w": 3 }))).unwrap();
    tar(&at("m.tar"), &[("1.png", png([1; 4])), ("1.json", b"{\"w\": 3}".to_vec())]);
    parquet(
        &at("m.parquet"),
        "optional binary url (UTF8); optional binary w (UTF8);",
        &[(vec![good.clone().into()], &[1], None), (vec![b"3".to_vec()], &[1], None)],
    );
    for from in ["m.csv", "m.tsv", "m.jsonl", "m.tar", "m.parquet"] {
        for (flag, value, name) in [
            ("--column", "instruction=nope", "nope"),
            ("--column", "seed=W", "W"),
            ("--column", "mask=nope", "nope"),
            ("--drop-column", "nope", "nope"),
        ] {
            for more in [&["--dry-run"][..], &[], &["--skip-invalid"]] {
                let args = ["submit", "edit", "--instruction", "x", "--from", from, "--output", &output, flag, value];
                let ran = world.run(&[&args[..], more].concat()).await;
                assert_eq!(ran.code, Some(2), "{from} {value} {more:?}: {ran:?}");
                let said =
                    ran.stderr.contains(&format!("{flag}: ")) && ran.stderr.contains(&format!("column `{name}`"));
                assert!(said, "{from} {value}: {}", ran.stderr);
            }
        }
        let args = ["submit", "edit", "--instruction", "x", "--from", from, "--output", &output, "--dry-run"];
        let ran = world.run(&[&args[..], &["--column", "seed=w"]].concat()).await;
        assert_eq!(ran.code, Some(0), "{from}: {ran:?}");
        assert!(!ran.stderr.contains("if you mean seeds"), "{}", ran.stderr);
        assert_eq!(world.run(&[&args[..], &["--drop-column", "w"]].concat()).await.code, Some(0), "{from}");
    }
    // A part may be without an optional column, and says so.
    let args = ["submit", "edit", "--instruction", "x", "--from", "m.jsonl", "--output", &output, "--dry-run"];
    let ran = world.run(&[&args[..], &["--limit", "1", "--column", "seed=w"]].concat()).await;
    assert!(ran.code == Some(0) && ran.stderr.contains("no row of this part has a column `w`"), "{ran:?}");
    // Two files of a row with the same extension cannot be told apart.
    tar(&at("twice.tar"), &[("1.png", png([1; 4])), ("1.PNG", png([2; 4]))]);
    for more in [&[][..], &["--column", "image=png"]] {
        let args = ["submit", "composite", "--from", "twice.tar", "--output", &output, "--dry-run"];
        let ran = world.run(&[&args[..], more].concat()).await;
        let wanted = "two files with the extension `png`, 1.png and 1.PNG; give them different ones";
        assert!(ran.code == Some(2) && ran.stderr.contains(wanted), "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_without_rows_is_no_mistake() {
    let world = World::embedded();
    let good = world.input("a.png", [1, 2, 3, 255]);
    fs::write(world.place.path("m.csv"), format!("image,label.n\n{good},1\n{good},2\n")).unwrap();
    fs::write(world.place.path("bad.csv"), "image\nnowhere.png\n").unwrap();
    let output = world.output("x");
    for more in [&["--shard", "3/4"][..], &["--limit", "0"], &["--sample", "0"], &["--shard", "4/4", "--dry-run"]] {
        let args = ["submit", "composite", "--from", "m.csv", "--batch", "none", "--output", &output];
        let ran = world.run(&[&args[..], more].concat()).await;
        assert_eq!(ran.code, Some(0), "{more:?}: {ran:?}");
        assert!(ran.stdout.contains("batch none: 0 "), "{ran:?}");
        assert!(ran.stderr.contains("no row is in this part") && !ran.stderr.contains("jobs watch"), "{ran:?}");
    }
    let args = ["submit", "composite", "--from", "bad.csv", "--skip-invalid", "--batch", "none", "--output", &output];
    let ran = world.run(&args).await;
    assert!(ran.code == Some(2) && ran.stderr.contains("no row is valid; nothing was submitted. The first"), "{ran:?}");
    fs::write(world.place.path("empty.csv"), "image\n").unwrap();
    let ran = world.run(&["submit", "composite", "--from", "empty.csv", "--shard", "1/2", "--output", &output]).await;
    assert!(ran.code == Some(2) && ran.stderr.contains("has no rows"), "{ran:?}");
}

/// What img2dataset writes in its three forms: each picture is there once, and its address, too.
#[tokio::test(flavor = "multi_thread")]
async fn downloads_of_img2dataset_are_taken_once() {
    let world = World::embedded();
    let at = |name: &str| world.place.path(name);
    let text = |text: &str| (vec![text.as_bytes().to_vec()], &[1_i16][..], None);
    let table = |path: &str, key: &str| {
        let schema = "optional binary url (UTF8); optional binary caption (UTF8); optional binary key (UTF8);
                      optional binary status (UTF8);";
        parquet(&at(path), schema, &[text("https://h.example/a.jpg"), text("a"), text(key), text("success")]);
    };
    for shard in ["00000", "00001"] {
        fs::create_dir_all(at(&format!("files/{shard}"))).unwrap();
        for folder in ["tars", "parquet"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        let picture = png([shard.as_bytes()[4], 2, 3, 255]);
        let row = format!("{{\"url\": \"https://h.example/a.jpg\", \"key\": \"{shard}0000\"}}");
        let key = format!("{shard}0000");
        tar(
            &at(&format!("tars/{shard}.tar")),
            &[
                (&format!("{key}.png"), picture.clone()),
                (&format!("{key}.json"), row.clone().into()),
                (&format!("{key}.txt"), b"a".to_vec()),
            ],
        );
        fs::write(at(&format!("files/{shard}/{key}.png")), &picture).unwrap();
        fs::write(at(&format!("files/{shard}/{key}.json")), &row).unwrap();
        for folder in ["tars", "files"] {
            table(&format!("{folder}/{shard}.parquet"), &key);
        }
        for folder in ["tars", "files", "parquet"] {
            fs::write(at(&format!("{folder}/{shard}_stats.json")), "{}").unwrap();
        }
        // The second row could not be downloaded.
        let two = |text: &str| (vec![text.as_bytes().to_vec(); 2], &[1_i16, 1][..], None);
        let schema = "optional binary url (UTF8); optional binary key (UTF8); optional binary status (UTF8);
                      optional binary jpg;";
        let leaves = [two("https://h.example/a.jpg"), two(&key), two("success"), (vec![picture], &[1, 0][..], None)];
        parquet(&at(&format!("parquet/{shard}.parquet")), schema, &leaves);
    }
    let output = world.output("x");
    for (from, why) in [
        ("tars", "skipped 2 files: .parquet about the archives 2"),
        ("files", ".parquet 2"),
        ("parquet", "rows whose download failed 2"),
    ] {
        let args = ["submit", "composite", "--from", from, "--batch", from, "--upload", "--output", &output];
        let ran = world.run(&args).await;
        assert!(ran.code == Some(0) && ran.stdout.contains("2 new"), "{from}: {ran:?}");
        assert!(ran.stderr.contains(why), "{from}: {}", ran.stderr);
        let input = request(&world, from).await["input"].to_string();
        assert!(input.contains("own/inputs"), "{from}: {input}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_whole_numbers_stay_exact_in_exports() {
    let world = World::embedded();
    let good = world.input("a.png", [1, 2, 3, 255]);
    let (large, wide) = (u64::MAX, (1_u64 << 53) + 1);
    let rows = [
        json!({ "image": good, "label.n": "1", "id64": large, "mixed": large, "wide": wide, "small": 1, "ids": [large] }),
        json!({ "image": good, "label.n": "2", "id64": 7, "mixed": -1, "wide": 0.5, "small": 0.5, "ids": [] }),
    ];
    fs::write(world.place.path("m.jsonl"), rows.map(|row| format!("{row}\n")).concat()).unwrap();
    let output = world.output("x");
    world.json(&["submit", "composite", "--from", "m.jsonl", "--batch", "x", "--output", &output, "--json"]).await;
    let _worker = world.worker();
    assert_eq!(world.run(&["jobs", "watch", "--batch", "x"]).await.code, Some(0));
    for format in ["jsonl", "imagefolder", "parquet"] {
        world.json(&["jobs", "export", "--batch", "x", "--as", format, "--out", format, "--json"]).await;
        let values = match format {
            "parquet" => {
                let file = File::open(world.place.path("parquet/layers-000000.parquet")).unwrap();
                let value = |field: &Field| match field {
                    Field::ULong(number) => json!(number),
                    Field::Double(number) => json!(number),
                    Field::Str(text) => json!(text),
                    _ => Value::Null,
                };
                let row = |row: Row| row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect();
                let rows = SerializedFileReader::new(file).unwrap().into_iter();
                rows.map(|read| row(read.unwrap())).collect::<Vec<Value>>()
            }
            _ => {
                let name = if format == "jsonl" { "layers-000000.jsonl" } else { "metadata.jsonl" };
                let text = fs::read_to_string(world.place.path(&format!("{format}/{name}"))).unwrap();
                text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
            }
        };
        let of = |name: &str| values.iter().map(|row| row[name].clone()).collect::<Vec<_>>();
        // Readers of JSON fail at such numbers.
        match format {
            "parquet" => assert_eq!(of("id64"), [json!(large), json!(7)]),
            _ => assert_eq!(of("id64"), [json!(large.to_string()), json!("7")], "{format}"),
        }
        assert_eq!(of("ids"), [json!(format!("[{large}]")), json!("[]")], "{format}");
        assert_eq!(of("mixed"), [json!(large.to_string()), json!("-1")], "{format}");
        assert_eq!(of("wide"), [json!(wide.to_string()), json!("0.5")], "{format}");
        assert_eq!(of("small"), [json!(1.0), json!(0.5)], "{format}");
    }
}
