//! Parts of datasets that meet in one batch: shards, limits, and several sources with the same pictures.

use std::fs;

use serde_json::{Value, json};

use crate::services::world::{World, in_both_worlds};

in_both_worlds! {
    equal_rows_stay_when_parts_meet,
    a_row_that_moves_is_listed_once,
    results_come_dataset_by_dataset,
    a_dataset_at_another_place_is_listed_once,
}

/// The numbers and captions of `jobs results`.
async fn captions(world: &World, batch: &str) -> Vec<(u64, String)> {
    let ran = world.run(&["jobs", "results", "--batch", batch]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let lines = ran.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let row = |line: Value| (line["row"].as_u64().unwrap(), line["meta"]["caption"].as_str().unwrap().to_owned());
    lines.map(row).collect()
}

fn numbered(captions: &[&str]) -> Vec<(u64, String)> {
    (1..).zip(captions.iter().map(|caption| (*caption).to_owned())).collect()
}

async fn equal_rows_stay_when_parts_meet(world: World) {
    let inputs: Vec<_> = (0..3).map(|n| world.input(&format!("{n}.png"), [n, 0, 0, 255])).collect();
    let [a, b, c] = inputs.as_slice() else { unreachable!() };
    let text = format!("image,caption\n{a},first\n{a},second\n{b},third\n{c},fourth\n");
    fs::write(world.place.path("m.csv"), text).unwrap();
    let output = world.output("parts");
    let all = numbered(&["first", "second", "third", "fourth"]);
    let submit = async |from: &str, more: &[&str]| {
        let args = ["submit", "composite", "--from", from, "--batch", "parts", "--output", &output, "--json"];
        world.json(&[&args[..], more].concat()).await
    };
    submit("m.csv", &["--shard", "1/2"]).await;
    submit("m.csv", &["--shard", "2/2"]).await;
    assert_eq!(captions(&world, "parts").await, all);
    for more in [&["--limit", "1"][..], &["--sample", "2"], &["--shard", "2/3"], &[], &["--shard", "1/2"], &[]] {
        assert_eq!(submit("m.csv", more).await["submitted"], 0);
        assert_eq!(captions(&world, "parts").await, all, "{more:?}");
    }
    // Another manifest with some of the same pictures, one of them in the same row.
    fs::write(world.place.path("n.csv"), format!("image,caption\n{a},fifth\n{c},sixth\n")).unwrap();
    let in_order = ["first", "second", "third", "fourth", "fifth", "sixth"];
    for _ in 0..2 {
        assert_eq!(submit("n.csv", &[]).await["submitted"], 0);
        let found: Vec<_> = captions(&world, "parts").await.into_iter().map(|row| row.1).collect();
        assert_eq!(found, in_order);
    }

    // An export has them all, also when it is continued.
    let _worker = world.worker();
    assert_eq!(world.run(&["jobs", "watch", "--batch", "parts"]).await.code, Some(0));
    for format in ["imagefolder", "jsonl"] {
        for written in [6, 0] {
            let args = ["jobs", "export", "--batch", "parts", "--as", format, "--out", format, "--json"];
            assert_eq!(world.json(&args).await["written"], written, "{format}");
        }
        let name = if format == "jsonl" { "jsonl/layers-000000.jsonl" } else { "imagefolder/metadata.jsonl" };
        let text = fs::read_to_string(world.place.path(name)).unwrap();
        let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let found: Vec<_> = rows.iter().map(|row| row["caption_"].as_str().unwrap()).collect();
        assert_eq!(found, in_order, "{format}");
        assert!(!text.contains("nth"), "{text}");
    }
}

async fn a_row_that_moves_is_listed_once(world: World) {
    let inputs: Vec<_> = (0..3).map(|n| world.input(&format!("{n}.png"), [n, 0, 0, 255])).collect();
    let output = world.output("moved");
    let submit = async |rows: &[(usize, &str)], more: &[&str]| {
        let row = |(input, caption): &(usize, &str)| json!({ "image": inputs[*input], "caption": caption }).to_string();
        let text = rows.iter().map(row).collect::<Vec<_>>().join("\n");
        fs::write(world.place.path("m.jsonl"), text).unwrap();
        let args = ["submit", "composite", "--from", "m.jsonl", "--batch", "moved", "--output", &output, "--json"];
        world.json(&[&args[..], more].concat()).await;
        captions(&world, "moved").await
    };
    assert_eq!(submit(&[(0, "a"), (1, "b"), (1, "c")], &[]).await, numbered(&["a", "b", "c"]));
    assert_eq!(submit(&[(2, "new"), (0, "a"), (1, "b"), (1, "c")], &[]).await, numbered(&["new", "a", "b", "c"]));
    // Shorter again, in two parts.
    let rows = [(0, "a"), (1, "b"), (1, "c")];
    submit(&rows, &["--shard", "1/2"]).await;
    submit(&rows, &["--shard", "2/2"]).await;
    let found = submit(&rows, &[]).await;
    assert_eq!(
        found.iter().map(|row| row.1.as_str()).filter(|caption| *caption != "new").collect::<Vec<_>>(),
        ["a", "b", "c"]
    );
}

/// In the order in which they were first submitted, whatever they are called.
async fn results_come_dataset_by_dataset(world: World) {
    let output = world.output("several");
    let submit = async |from: &str, more: &[&str]| {
        let args = ["submit", "composite", "--from", from, "--batch", "several", "--output", &output, "--json"];
        world.json(&[&args[..], more].concat()).await
    };
    let mut wanted = Vec::new();
    for (manifest, name) in ["z", "b", "y", "a", "x"].into_iter().enumerate() {
        let mut lines = "image,caption\n".to_owned();
        for number in 1..=3 {
            let picture = world.input(&format!("{name}-{number}.png"), [manifest as u8, number, 0, 255]);
            lines += &format!("{picture},{name} {number}\n");
            wanted.push((u64::from(number), format!("{name} {number}")));
        }
        fs::write(world.place.path(&format!("{name}.csv")), lines).unwrap();
        submit(&format!("{name}.csv"), if name == "b" { &["--limit", "1"] } else { &[] }).await;
    }
    submit("b.csv", &[]).await;
    submit("z.csv", &[]).await;
    assert_eq!(captions(&world, "several").await, wanted);
    let _worker = world.worker();
    assert_eq!(world.run(&["jobs", "watch", "--batch", "several"]).await.code, Some(0));
    let args = ["jobs", "export", "--batch", "several", "--as", "jsonl", "--out", "jsonl", "--json"];
    assert_eq!(world.json(&args).await["written"], wanted.len());
    let text = fs::read_to_string(world.place.path("jsonl/layers-000000.jsonl")).unwrap();
    let exported = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let exported: Vec<_> = exported.map(|row| row["caption_"].as_str().unwrap().to_owned()).collect();
    assert_eq!(exported, wanted.into_iter().map(|row| row.1).collect::<Vec<_>>());
}

async fn a_dataset_at_another_place_is_listed_once(world: World) {
    let inputs: Vec<_> = (0..4).map(|n| world.input(&format!("{n}.png"), [n, 0, 0, 255])).collect();
    let output = world.output("places");
    let submit = async |from: &str, rows: &[(usize, &str)], more: &[&str]| {
        let row = |(input, caption): &(usize, &str)| json!({ "image": inputs[*input], "caption": caption }).to_string();
        let path = world.place.path(from);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, rows.iter().map(row).collect::<Vec<_>>().join("\n")).unwrap();
        let args = ["submit", "composite", "--from", from, "--batch", "places", "--output", &output];
        let ran = world.run(&[&args[..], more].concat()).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
        (captions(&world, "places").await, ran.stderr)
    };
    let rows = [(0, "a"), (1, "b"), (2, "c")];
    let all = numbered(&["a", "b", "c"]);
    submit("before/m.jsonl", &rows[..2], &[]).await;
    submit("other.jsonl", &[(3, "d")], &[]).await;
    let with_other = |all: &[(u64, String)]| [all, &numbered(&["d"])].concat();
    // A longer one, by another path, and at another place; also in parts.
    let whole = world.place.text("after/m.jsonl");
    for (from, more) in [
        ("before/../before/m.jsonl", &[][..]),
        ("after/m.jsonl", &[]),
        (&whole, &[]),
        ("again/m.jsonl", &["--shard", "2/2"]),
        ("again/m.jsonl", &["--shard", "1/2"]),
        ("before/m.jsonl", &[]),
    ] {
        let (found, said) = submit(from, &rows, more).await;
        let is_part = more == ["--shard", "2/2"];
        assert_eq!(said.contains("have the same jobs, and the results list both"), is_part, "{from}: {said}");
        if !is_part {
            assert_eq!(found, with_other(&all), "{from} {more:?}");
        }
    }
    // Another dataset with the same pictures, and other columns.
    let (found, said) = submit("else.jsonl", &[(0, "x"), (1, "y")], &[]).await;
    assert_eq!(found, [with_other(&all), numbered(&["x", "y"])].concat());
    let wanted = "2 rows of another source of this batch (3 rows) have the same jobs";
    assert!(said.contains(wanted) && said.matches("have the same jobs").count() == 1, "{said}");
}

/// The file of rejected rows may not be the source, by whatever name.
#[tokio::test(flavor = "multi_thread")]
async fn rejected_rows_are_not_written_over_the_source() {
    let world = World::embedded();
    let good = world.input("a.png", [1, 2, 3, 255]);
    let text = format!("{}\n{}\n", json!({ "image": good }), json!({ "image": "nowhere.png" }));
    let at = |name: &str| world.place.path(name);
    fs::create_dir(at("set")).unwrap();
    world.place.picture("set/a.png", [1, 2, 3, 255]);
    for name in ["rejects.jsonl", "set/metadata.jsonl"] {
        fs::write(at(name), &text).unwrap();
    }
    std::os::unix::fs::symlink("rejects.jsonl", at("link.jsonl")).unwrap();
    fs::hard_link(at("rejects.jsonl"), at("hard.jsonl")).unwrap();
    let whole = world.place.text("rejects.jsonl");
    let picture = fs::read(at("set/a.png")).unwrap();
    let output = world.output("x");
    for (from, rejects) in [
        ("rejects.jsonl", "rejects.jsonl"),
        ("rejects.jsonl", "./rejects.jsonl"),
        ("rejects.jsonl", &whole),
        ("rejects.jsonl", "link.jsonl"),
        ("link.jsonl", "rejects.jsonl"),
        ("rejects.jsonl", "hard.jsonl"),
        ("set", "set/metadata.jsonl"),
        ("set", "set/a.png"),
    ] {
        for more in [&[][..], &["--dry-run"]] {
            let args = ["submit", "composite", "--from", from, "--skip-invalid", "--rejects", rejects];
            let ran = world.run(&[&args[..], &["--batch", "x", "--output", &output], more].concat()).await;
            assert!(ran.code == Some(2) && ran.stderr.contains("is a file of the source"), "{rejects}: {ran:?}");
            assert_eq!(fs::read_to_string(at("rejects.jsonl")).unwrap(), text, "{from} {rejects}");
            assert_eq!(fs::read_to_string(at("set/metadata.jsonl")).unwrap(), text, "{from} {rejects}");
            assert_eq!(fs::read(at("set/a.png")).unwrap(), picture);
        }
    }
    assert_eq!(world.json(&["jobs", "list", "--json"]).await["jobs"], json!([]));
    let args = ["submit", "composite", "--from", "rejects.jsonl", "--skip-invalid", "--rejects", "others.jsonl"];
    let report = world.json(&[&args[..], &["--output", &output, "--json"]].concat()).await;
    assert_eq!((&report["submitted"], &report["rejected"]), (&json!(1), &json!(1)));
}
