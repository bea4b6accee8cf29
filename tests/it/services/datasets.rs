//! Datasets from end to end: manifests of other programs, their columns, rows that are wrong, and files with the
//! pictures themselves.

use std::{fs, fs::File, path::Path, sync::Arc};

use parquet::{
    data_type::{ByteArray, ByteArrayType},
    file::writer::SerializedFileWriter,
    schema::parser::parse_message_type,
};
use serde_json::{Value, json};

use crate::services::world::{World, in_both_worlds};

in_both_worlds! {
    hidden_files_are_skipped_and_counted,
    columns_of_other_programs_reach_the_results_in_order,
    invalid_rows_are_left_out_and_written_down,
    rows_with_the_same_id_have_the_same_content,
    a_part_of_a_dataset_belongs_to_the_same_batch,
    pictures_inside_parquet_are_stored_once,
    a_truncated_archive_says_what_was_submitted_and_goes_on,
    a_folder_with_metadata_is_a_dataset,
}

/// The encoded bytes of a picture of one color.
pub fn png(pixel: [u8; 4]) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbaImage::from_pixel(8, 6, image::Rgba(pixel)).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// The lines of `jobs results`.
async fn results(world: &World, batch: &str) -> Vec<Value> {
    let ran = world.run(&["jobs", "results", "--batch", batch]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn hidden_files_are_skipped_and_counted(world: World) {
    let good = world.input("set/a.png", [1, 2, 3, 255]);
    let folder = world.path(good.strip_suffix("a.png").unwrap());
    for name in ["._a.png", "__MACOSX/._a.png", "b.mov", "c.mov", ".git/x.png"] {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }
    let from = good.strip_suffix("a.png").unwrap();
    let from = from.strip_prefix("file://").unwrap_or(from);
    let output = format!("{}{{stem}}/", world.output("hidden"));
    let args = ["submit", "composite", "--from", from, "--output", &output, "--batch", "hidden"];
    let ran = world.run(&[&args[..], &["--dry-run"]].concat()).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stderr.contains("skipped 5 files: .mov 2, hidden 2, __MACOSX 1"), "{}", ran.stderr);
    let report = world.json(&[&args[..], &["--json"]].concat()).await;
    assert_eq!((&report["submitted"], &report["skipped"]), (&json!(1), &json!(5)), "{report}");
    assert_eq!(report["skipped_by_reason"][".mov"], 2);
    if world.service.is_none() {
        fs::write(folder.join("new\nline.png"), "x").unwrap();
        let report = world.json(&[&args[..], &["--json"]].concat()).await;
        assert_eq!((&report["known"], &report["skipped"]), (&json!(1), &json!(6)), "{report}");
        assert_eq!(report["skipped_by_reason"]["with names that a job cannot use"], 1);
    }
}

async fn columns_of_other_programs_reach_the_results_in_order(world: World) {
    let inputs: Vec<_> = (0..3).map(|n| world.input(&format!("{n}.png"), [n, 0, 0, 255])).collect();
    // Semicolons, a byte order mark, a line end in quotes, and rows with the same picture.
    let text = format!(
        "\u{feff}file_name;caption;zip;label.split\r\n{};\"two\nlines\";007;train\r\n{};b;8;\r\n{};c;9;\r\n{};b;10;\r\n",
        inputs[2], inputs[1], inputs[0], inputs[1]
    );
    fs::write(world.place.path("m.csv"), text).unwrap();
    let output = format!("{}{{stem}}/", world.output("columns"));
    let args = ["submit", "composite", "--from", "m.csv", "--output", &output, "--batch", "columns"];
    let ran = world.run(&args).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stderr.contains("carried through to the results: caption, zip"), "{}", ran.stderr);
    assert!(ran.stdout.contains("batch columns: 3 new, 0 already submitted, 1 duplicate"), "{}", ran.stdout);
    let _worker = world.worker();
    assert_eq!(world.run(&["jobs", "watch", "--batch", "columns"]).await.code, Some(0));

    let lines = results(&world, "columns").await;
    let rows: Vec<_> = lines.iter().map(|line| (line["row"].as_u64().unwrap(), &line["input"][0])).collect();
    let wanted: Vec<Value> = [2, 1, 0, 1].into_iter().map(|n| json!(inputs[n])).collect();
    assert_eq!(rows, [(1, &wanted[0]), (2, &wanted[1]), (3, &wanted[2]), (4, &wanted[3])]);
    assert_eq!(lines[0]["meta"], json!({ "caption": "two\nlines", "zip": "007" }));
    assert_eq!((&lines[1]["id"], &lines[3]["meta"]["zip"]), (&lines[3]["id"], &json!("10")));
    assert_eq!((&lines[0]["labels"]["split"], &lines[0]["status"]), (&json!("train"), &json!("succeeded")));

    // The same jobs with another row in front of them.
    let more = world.input("3.png", [3, 0, 0, 255]);
    let text = format!("image,caption,label.split\n{more},new,\n{},old,train\n", inputs[2]);
    fs::write(world.place.path("m.csv"), text).unwrap();
    assert_eq!(world.run(&args).await.code, Some(0));
    let again = results(&world, "columns").await;
    assert_eq!((&again[0]["row"], &again[0]["meta"]["caption"]), (&json!(1), &json!("new")), "{again:#?}");
    let moved: Vec<_> = again.iter().filter(|line| line["input"][0] == inputs[2]).collect();
    assert_eq!((moved.len(), &moved[0]["row"], &moved[0]["meta"]["caption"]), (1, &json!(2), &json!("old")));
}

async fn invalid_rows_are_left_out_and_written_down(world: World) {
    let good = world.input("a.png", [1, 2, 3, 255]);
    let output = world.output("x");
    let rows = [
        json!({ "image": good, "note": "fine" }),
        json!({ "image": "nowhere.png", "note": 7 }),
        json!({ "image": good, "layers": 99 }),
        json!({ "text": "no picture" }),
    ];
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(world.place.path("m.jsonl"), format!("{text}{{\"image\": NaN}}\n")).unwrap();
    let args = ["submit", "decompose", "--from", "m.jsonl", "--batch", "b1", "--output", &output];
    let strict = world.run(&args).await;
    assert_eq!(strict.code, Some(2), "{strict:?}");
    for wanted in [
        "nothing was submitted:",
        "m.jsonl:2 (row 2): ",
        "nowhere.png: not found",
        "m.jsonl:3 (row 3): params.layers: 99 is not between 0 and 10",
        "m.jsonl:4 (row 4): input: there is no field `image` (or `images`, `input`, `file_name`",
        "the only one is `text`",
        "m.jsonl:5 (row 5): image: is empty; the row has no picture",
        "--skip-invalid submits the other rows",
    ] {
        assert!(strict.stderr.contains(wanted), "{wanted}: {}", strict.stderr);
    }
    let lenient = [&args[..], &["--skip-invalid", "--rejects", "rejects.jsonl", "--json"]].concat();
    let report = world.json(&[&lenient[..], &["--dry-run"]].concat()).await;
    assert_eq!((&report["submitted"], &report["rejected"]), (&json!(1), &json!(4)), "{report}");
    let report = world.json(&lenient).await;
    assert_eq!((&report["rows"], &report["submitted"], &report["rejected"]), (&json!(5), &json!(1), &json!(4)));
    let lines = fs::read_to_string(world.place.path("rejects.jsonl")).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["row"], &lines[0]["code"]), (&json!(2), &json!("input_not_found")));
    assert_eq!(lines[0]["fields"], rows[1]);
    assert_eq!((lines.len(), &lines[3]["fields"]), (4, &json!({ "image": null })));
    let ran = world.run(&lenient[..lenient.len() - 1]).await;
    let wanted = "left out 4 invalid rows (input_not_found 1, invalid_request 3): rejects.jsonl";
    assert!(ran.stderr.contains(wanted), "{}", ran.stderr);
}

/// The same id twice is one job if the rows are equal, and a mistake otherwise.
async fn rows_with_the_same_id_have_the_same_content(world: World) {
    let input = world.input("a.png", [1, 2, 3, 255]);
    let id = acetate::job::JobId::new();
    let row = |label: &str| format!("{}\n", json!({ "image": input, "id": id, "label.x": label }));
    let rows = [row("a"), row("a"), row("b"), row("a")].concat();
    fs::write(world.place.path("m.jsonl"), rows).unwrap();
    let args = ["submit", "composite", "--from", "m.jsonl", "--output", &world.output("ids"), "--batch", "ids"];
    let strict = world.run(&args).await;
    let wanted = format!("m.jsonl:3 (row 3): id: {id} is the id of an earlier row with another content");
    assert!(strict.code == Some(2) && strict.stderr.contains(&wanted), "{strict:?}");
    let report = world.json(&[&args[..], &["--skip-invalid", "--json"]].concat()).await;
    let counts = (&report["submitted"], &report["duplicates"], &report["rejected"]);
    assert_eq!(counts, (&json!(1), &json!(2), &json!(1)), "{report}");
    // Another batch of the same rows says what to do.
    let more = world.run(&[&args[..6], &["--batch", "more"]].concat()).await;
    assert!(more.code == Some(2) && more.stderr.contains("--drop-column id leaves out the ids"), "{more:?}");
    let more = world.run(&[&args[..6], &["--batch", "more", "--drop-column", "id"]].concat()).await;
    assert!(more.code == Some(0) && more.stdout.contains("batch more: 2 new"), "{more:?}");
    // A row may choose its kind, and the command says so.
    fs::write(world.place.path("k.jsonl"), json!({ "image": input, "kind": "decompose" }).to_string()).unwrap();
    let args = ["submit", "composite", "--from", "k.jsonl", "--output", &world.output("kinds"), "--dry-run"];
    let kinds = world.run(&args).await;
    assert!(kinds.stderr.contains("other jobs than composite, by the column `kind`: decompose 1"), "{kinds:?}");
}

async fn a_part_of_a_dataset_belongs_to_the_same_batch(world: World) {
    let input = world.input("a.png", [1, 2, 3, 255]);
    let rows: String = (0..10).map(|n| format!("{}\n", json!({ "image": input, "label.n": n.to_string() }))).collect();
    fs::write(world.place.path("m.jsonl"), rows).unwrap();
    let output = world.output("parts");
    let submit = async |more: &[&str]| {
        let args = ["submit", "composite", "--from", "m.jsonl", "--output", &output, "--json"];
        world.json(&[&args[..], more].concat()).await
    };
    let first = submit(&["--limit", "3"]).await;
    assert_eq!((&first["rows"], &first["submitted"]), (&json!(3), &json!(3)));
    let sample = submit(&["--sample", "4", "--dry-run"]).await;
    assert_eq!(sample["rows"], 4);
    let shard = submit(&["--shard", "2/3"]).await;
    assert_eq!((&shard["submitted"], &shard["known"]), (&json!(2), &json!(1)), "rows 2, 5 and 8");
    let all = submit(&[]).await;
    assert_eq!((&all["submitted"], &all["known"], &all["batch"]), (&json!(5), &json!(5), &first["batch"]));
    let rows: Vec<_> = results(&world, all["batch"].as_str().unwrap()).await;
    assert_eq!(rows.iter().map(|row| row["row"].as_u64().unwrap()).collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
}

/// Writes a file as the hub has them: a struct with the picture's bytes and its path, and a caption.
pub fn write_parquet(path: &Path, rows: &[(Vec<u8>, &str, &str)]) {
    let schema = "message schema {
        optional group image { optional binary bytes; optional binary path (UTF8); }
        optional binary text (UTF8);
    }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let columns: [Vec<ByteArray>; 3] = [
        rows.iter().map(|row| row.0.clone().into()).collect(),
        rows.iter().map(|row| row.1.into()).collect(),
        rows.iter().map(|row| row.2.into()).collect(),
    ];
    for (values, level) in columns.iter().zip([2, 2, 1]) {
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(values, Some(&vec![level; rows.len()]), None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

async fn pictures_inside_parquet_are_stored_once(world: World) {
    let folder = world.place.path("shards");
    fs::create_dir(&folder).unwrap();
    let (red, blue) = (png([200, 0, 0, 255]), png([0, 0, 200, 255]));
    write_parquet(&folder.join("train-00000.parquet"), &[(red.clone(), "x/red.png", "a"), (blue, "blue.png", "b")]);
    write_parquet(
        &folder.join("train-00001.parquet"),
        &[(red, "x/red.png", "c"), (b"\xff\xfe".to_vec(), "bad.png", "d")],
    );
    let output = format!("{}{{path}}/", world.output("parquet"));
    let args = ["submit", "composite", "--from", "shards", "--output", &output, "--batch", "parquet"];
    let strict = world.run(&args).await;
    assert_eq!(strict.code, Some(2), "{strict:?}");
    let wanted = "train-00001.parquet, row 2: bad.png";
    assert!(strict.stderr.contains(wanted) && strict.stderr.contains("nothing was submitted"), "{}", strict.stderr);
    let lenient = [&args[..], &["--skip-invalid", "--json"]].concat();
    let dry = world.json(&[&lenient[..], &["--dry-run"]].concat()).await;
    assert_eq!((&dry["submitted"], &dry["duplicates"]), (&json!(2), &json!(1)), "{dry}");
    let report = world.json(&lenient).await;
    assert_eq!((&report["rows"], &report["submitted"], &report["rejected"]), (&json!(4), &json!(2), &json!(1)));
    let again = world.json(&lenient).await;
    assert_eq!((&again["submitted"], &again["known"]), (&json!(0), &json!(2)), "{again}");
    let own = world.output("own/inputs");
    assert_eq!(fs::read_dir(world.path(&own)).unwrap().count(), 2, "each picture is there once");

    let _worker = world.worker();
    assert_eq!(world.run(&["jobs", "watch", "--batch", "parquet"]).await.code, Some(0));
    let lines = results(&world, "parquet").await;
    let rows: Vec<_> = lines.iter().map(|line| (line["row"].as_u64(), line["meta"]["text"].as_str())).collect();
    assert_eq!(rows, [(Some(1), Some("a")), (Some(2), Some("b")), (Some(3), Some("c"))]);
    assert!(lines[0]["manifest"].as_str().unwrap().starts_with(&world.output("parquet/x/red")), "{:#}", lines[0]);
    assert_eq!(lines[0]["id"], lines[2]["id"]);
}

async fn a_truncated_archive_says_what_was_submitted_and_goes_on(world: World) {
    let path = world.place.path("set.tar");
    let mut archive = tar::Builder::new(Vec::new());
    for n in 0..3_u8 {
        let caption = format!("{{\"caption\": \"number {n}\"}}");
        for (name, bytes) in [(format!("{n:04}.png"), png([n, 9, 9, 255])), (format!("{n:04}.json"), caption.into())] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            archive.append_data(&mut header, name, bytes.as_slice()).unwrap();
        }
    }
    let whole = archive.into_inner().unwrap();
    // Each file has a header of 512 bytes, and as much for its content. The last picture is cut off.
    fs::write(&path, &whole[..4 * 1024 + 512 + 20]).unwrap();
    let output = format!("{}{{stem}}/", world.output("tar"));
    let args = ["submit", "composite", "--from", "set.tar", "--output", &output, "--batch", "tar"];
    let ran = world.run(&args).await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    for wanted in
        ["set.tar: ends too early, at or after 0002", "2 jobs submitted before it; run the same command to continue"]
    {
        assert!(ran.stderr.contains(wanted), "{wanted}: {}", ran.stderr);
    }
    fs::write(&path, &whole).unwrap();
    let report = world.json(&[&args[..], &["--json"]].concat()).await;
    assert_eq!((&report["submitted"], &report["known"]), (&json!(1), &json!(2)), "{report}");
    let _worker = world.worker();
    assert_eq!(world.run(&["jobs", "watch", "--batch", "tar"]).await.code, Some(0));
    let lines = results(&world, "tar").await;
    let metas: Vec<_> = lines.iter().map(|line| line["meta"].clone()).collect();
    assert_eq!(metas[2], json!({ "__key__": "0002", "caption": "number 2" }));
    assert!(lines[1]["manifest"].as_str().unwrap().starts_with(&world.output("tar/0001")), "{:#}", lines[1]);
}

async fn a_folder_with_metadata_is_a_dataset(world: World) {
    for name in ["set/train/a.png", "set/train/b.png", "set/test/c.png"] {
        fs::create_dir_all(world.place.path(name).parent().unwrap()).unwrap();
        world.place.picture(name, [1, 2, 3, 255]);
    }
    let train = "{\"file_name\": \"b.png\", \"text\": \"b\"}\n{\"file_name\": \"a.png\", \"text\": \"a\"}\n";
    fs::write(world.place.path("set/train/metadata.jsonl"), train).unwrap();
    fs::write(world.place.path("set/test/metadata.csv"), "file_name,text\nc.png,c\n").unwrap();
    let output = format!("{}{{stem}}/", world.output("folder"));
    let args = ["submit", "composite", "--from", "set", "--upload", "--output", &output, "--batch", "folder", "--json"];
    let report = world.json(&args).await;
    assert_eq!((&report["rows"], &report["submitted"]), (&json!(3), &json!(3)), "{report}");
    let lines = results(&world, "folder").await;
    let texts: Vec<_> = lines.iter().map(|line| (line["row"].as_u64(), line["meta"]["text"].as_str())).collect();
    assert_eq!(texts, [(Some(1), Some("c")), (Some(2), Some("b")), (Some(3), Some("a"))]);

    // A folder with files of rows, and what `save_to_disk` writes.
    for (name, wanted) in [
        ("rows.csv", "(skipped 1 file: .csv 1); name the manifest itself"),
        ("data-00000-of-00001.arrow", "write the dataset as Parquet: load_from_disk(FOLDER).to_parquet"),
    ] {
        let folder = world.place.path("rows");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), "x").unwrap();
        let ran = world.run(&["submit", "composite", "--from", "rows", "--output", &output, "--dry-run"]).await;
        assert!(ran.code == Some(2) && ran.stderr.contains(wanted), "{wanted}: {ran:?}");
    }

    // Nothing is left out in silence: pictures without a row, and links.
    world.place.picture("set/train/d.png", [1, 2, 3, 255]);
    let ran = world.run(&args).await;
    assert!(ran.code == Some(0) && ran.stderr.contains("skipped 1 file: not in the metadata 1"), "{ran:?}");
    fs::write(world.place.path("set/test/metadata.jsonl"), "{\"file_name\": \"c.png\"}\n").unwrap();
    let ran = world.run(&args).await;
    assert!(ran.code == Some(2) && ran.stderr.contains("has metadata.csv and metadata.jsonl"), "{ran:?}");
    #[cfg(unix)]
    {
        let link =
            |to: &str, name: &str| std::os::unix::fs::symlink(world.place.path(to), world.place.path(name)).unwrap();
        fs::create_dir(world.place.path("links")).unwrap();
        world.place.picture("links/a.png", [1, 2, 3, 255]);
        link("set/train", "links/more");
        link("nowhere.png", "links/b.png");
        let args = ["submit", "composite", "--from", "links", "--upload", "--output", &output, "--dry-run"];
        let ran = world.run(&args).await;
        let wanted = "skipped 2 files: broken links 1, linked folders 1";
        assert!(ran.code == Some(0) && ran.stderr.contains(wanted), "{ran:?}");
    }
}

/// Without settings, on one machine: what its user names, its worker may read and write.
#[tokio::test(flavor = "multi_thread")]
async fn a_users_own_files_are_split_without_any_setting() {
    let mut world = World::embedded();
    for name in ["ACETATE__STORE__URL", "ACETATE__STORE__INPUTS", "ACETATE__STORE__OUTPUTS"] {
        world.set(name, "");
    }
    fs::create_dir(world.place.path("mine")).unwrap();
    world.place.picture("mine/a.png", [1, 2, 3, 255]);
    let args = ["submit", "composite", "--from", "mine", "--output", "out/{stem}", "--batch", "mine", "--json"];
    assert_eq!(world.json(&args).await["submitted"], 1);
    let _worker = world.worker();
    let watched = world.run(&["jobs", "watch", "--batch", "mine"]).await;
    assert_eq!(watched.code, Some(0), "{watched:?}");
    let lines = results(&world, "mine").await;
    let wanted = format!("file://{}/", world.place.path("out/a").canonicalize().unwrap().display());
    assert!(lines[0]["manifest"].as_str().unwrap().starts_with(&wanted), "{:#}", lines[0]);
}

/// In a service, the refusal comes at once, with what to set.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_refuses_forbidden_addresses_when_they_are_submitted() {
    let world = World::service().await;
    let (input, output) = (world.input("a.png", [1, 2, 3, 255]), world.output("x"));
    let single = world.run(&["submit", "composite", "--input", "s3://secrets/x/a.png", "--output", &output]).await;
    assert_eq!(single.code, Some(2), "{single:?}");
    let wanted = "set ACETATE__STORE__INPUTS='s3://pictures/,s3://results/,s3://secrets/x' for the workers";
    assert!(single.stderr.contains(wanted), "{}", single.stderr);
    let web = world.run(&["submit", "composite", "--input", "https://h.example/a.png", "--output", &output]).await;
    assert!(web.code == Some(2) && web.stderr.contains("ACETATE__STORE__HTTP_INPUTS=true"), "{web:?}");

    fs::write(world.place.path("m.txt"), format!("{input}\ns3://secrets/a.png\n")).unwrap();
    let args = ["submit", "composite", "--from", "m.txt", "--output", &output, "--dry-run"];
    let ran = world.run(&args).await;
    assert!(ran.code == Some(2) && ran.stderr.contains("m.txt:2 (row 2): s3://secrets/a.png: "), "{ran:?}");
    let elsewhere = world.run(&["submit", "composite", "--input", &input, "--output", "s3://pictures/x/"]).await;
    let wanted = "set ACETATE__STORE__OUTPUTS='s3://results/,s3://pictures'";
    assert!(elsewhere.code == Some(2) && elsewhere.stderr.contains(wanted), "{}", elsewhere.stderr);
    assert_eq!(world.json(&["jobs", "list", "--json"]).await["jobs"], json!([]));
}

/// A dataset that is in the cache of the hub's tools already.
#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_of_the_hub_is_a_source() {
    let mut world = World::embedded();
    let (commit, hash) = ("0123456789abcdef0123456789abcdef01234567", "a".repeat(40));
    let repo = world.place.path("hub/datasets--Org--Set");
    let (snapshot, blob) = (repo.join("snapshots").join(commit), repo.join("blobs").join(&hash));
    for folder in [snapshot.join("train"), repo.join("refs"), repo.join("trees"), repo.join("blobs")] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(repo.join("refs/main"), commit).unwrap();
    fs::write(&blob, png([9, 8, 7, 255])).unwrap();
    std::os::unix::fs::symlink(format!("../../../blobs/{hash}"), snapshot.join("train/a.png")).unwrap();
    fs::create_dir(snapshot.join("list")).unwrap();
    let lists = [("list/m.json", "[{\"image\": \"../train/a.png\"}]"), ("list/n.txt", "c.png\n")];
    for (name, text) in lists {
        fs::write(snapshot.join(name), text).unwrap();
    }
    let metadata = "{\"file_name\": \"a.png\", \"text\": \"first\"}\n";
    fs::write(snapshot.join("train/metadata.jsonl"), metadata).unwrap();
    let size = fs::metadata(&blob).unwrap().len();
    let files = json!({
        "train/a.png": {"size": size, "blob_id": hash}, "train/metadata.jsonl": {"size": metadata.len(), "blob_id": hash},
        "README.md": {"size": 5, "blob_id": hash}, "list/m.json": {"size": lists[0].1.len(), "blob_id": hash},
        "list/n.txt": {"size": lists[1].1.len(), "blob_id": hash}, "list/c.png": {"size": 9, "blob_id": "b".repeat(40)},
    });
    let tree = json!({ "format_version": 1, "files": files }).to_string();
    fs::write(repo.join(format!("trees/{commit}.json")), tree).unwrap();
    world.set("HF_HUB_CACHE", &world.place.text("hub"));
    let output = format!("{}{{stem}}/", world.output("hub"));
    // A manifest, with the pictures that it names and no others; one of the second is not here.
    let args = ["submit", "composite", "--from", "hf://datasets/Org/Set/list/m.json", "--output", &output];
    let report = world.json(&[&args[..], &["--dry-run", "--json"]].concat()).await;
    assert_eq!((&report["rows"], &report["submitted"]), (&json!(1), &json!(1)), "{report}");
    let ran =
        world.run(&["submit", "composite", "--from", "hf://datasets/Org/Set/list/n.txt", "--output", &output]).await;
    let wanted = format!("acetate submit KIND --from hf://datasets/Org/Set@{commit} --dry-run");
    assert!(ran.code == Some(2) && ran.stderr.contains(&wanted) && !ran.stderr.contains("model"), "{ran:?}");
    let args = ["submit", "composite", "--from", "hf://datasets/Org/Set/train", "--output", &output, "--json"];
    let report = world.json(&args).await;
    assert_eq!(report["submitted"], 1, "{report}");
    let batch = report["batch"].as_str().unwrap();
    assert!(batch.starts_with("train-"), "{batch}");
    let _worker = world.worker();
    assert_eq!(world.run(&["jobs", "watch", "--batch", batch]).await.code, Some(0));
    let lines = results(&world, batch).await;
    assert_eq!(lines[0]["meta"]["text"], "first");
    assert!(lines[0]["manifest"].as_str().unwrap().starts_with(&world.output("hub/a")), "{:#}", lines[0]);
    for (from, wanted) in [
        ("hf://datasets/Set", "it is not ORG/NAME"),
        ("hf://Org/Set", "write hf://datasets/ORG/NAME"),
        ("hf://datasets/Org/Other", "the hub is offline"),
    ] {
        let ran = world.run(&["submit", "composite", "--from", from, "--output", &output]).await;
        assert!(ran.code != Some(0) && ran.stderr.contains(wanted), "{from}: {ran:?}");
    }
}

/// A manifest in a bucket; its paths are relative to where it lies.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_may_be_in_the_store() {
    let world = World::service().await;
    let input = world.input("set/a.png", [1, 2, 3, 255]);
    let manifest = world.bytes("set/m.csv", b"file_name;note\na.png;x\n");
    let output = format!("{}{{path}}/", world.output("remote"));
    let args = ["submit", "composite", "--from", &manifest, "--output", &output, "--json"];
    let report = world.json(&args).await;
    assert_eq!(report["submitted"], 1, "{report}");
    let batch = report["batch"].as_str().unwrap();
    assert!(batch.starts_with("m-"), "{batch}");
    let lines = results(&world, batch).await;
    assert_eq!((&lines[0]["input"][0], &lines[0]["meta"]["note"]), (&json!(input), &json!("x")));
    assert_eq!(world.json(&args).await["known"], 1);
    // Messages and rejected rows name it by its address.
    let bad = world.bytes("set/bad.csv", b"file_name,note\r\n../set/a.png,x\r\n,y\r\n");
    let args = ["submit", "composite", "--from", &bad, "--output", &output, "--skip-invalid", "--rejects", "r.jsonl"];
    assert_eq!(world.json(&[&args[..], &["--json"]].concat()).await["submitted"], 1);
    let rejected = fs::read_to_string(world.place.path("r.jsonl")).unwrap();
    assert!(rejected.contains(&format!("\"place\":\"{bad}:3 (row 2)\"")), "{rejected}");
    let ran = world.run(&args[..args.len() - 3]).await;
    assert!(ran.code == Some(2) && ran.stderr.contains(&format!("{bad}:3 (row 2): ")), "{ran:?}");
    let open = world.bytes("set/open.csv", b"file_name,note\na.png,\"x\n");
    let ran = world.run(&["submit", "composite", "--from", &open, "--output", &output]).await;
    assert!(ran.code == Some(2) && ran.stderr.contains(&format!("{open}:2 (row 1): a quote is not closed")), "{ran:?}");
    for (from, wanted) in [
        ("https://h.example/m.csv", "store.http_inputs"),
        ("https://h.example/m.php?list=1", "is not a manifest"),
        ("s3://pictures/set/none.csv", "not found"),
    ] {
        let ran = world.run(&["submit", "composite", "--from", from, "--output", &output]).await;
        assert!(ran.code == Some(2) && ran.stderr.contains(wanted), "{from}: {ran:?}");
    }
}
