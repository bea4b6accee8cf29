//! Jobs by name on the command line, and the one shape that a job has as JSON.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::services::world::{World, in_both_worlds};

in_both_worlds! {
    jobs_are_named_by_a_beginning_or_as_the_last_one,
    a_list_shows_pictures_and_instructions,
    jobs_are_deleted_with_their_files,
    a_job_has_one_shape_everywhere,
    an_upload_is_pruned_once_no_job_names_it,
}

async fn composite(world: &World, more: &[&str]) -> String {
    let (input, output) = (world.input("boat.png", [1, 2, 3, 255]), world.output("named"));
    world.submit(&[&["composite", "--input", &input, "--output", &output], more].concat()).await
}

async fn jobs_are_named_by_a_beginning_or_as_the_last_one(world: World) {
    assert_eq!(world.run(&["migrate"]).await.code, Some(0));
    let missing = world.run(&["jobs", "show", "last"]).await;
    assert!(missing.code == Some(2) && missing.stderr.contains("there are no jobs"), "{missing:?}");
    let ids = ["0badcafe-0000-4000-8000-000000000001", "0badcafe-1000-4000-8000-000000000002"];
    for id in ids {
        assert_eq!(composite(&world, &["--id", id]).await, id);
    }
    let id = async |name: &str| world.json(&["jobs", "show", name, "--json"]).await["id"].clone();
    assert_eq!(id("last").await, ids[1]);
    assert_eq!(id("0badcafe-0").await, ids[0]);
    assert_eq!(id("0BADCAFE-1000").await, ids[1]);
    let several = world.run(&["jobs", "cancel", "0badcafe"]).await;
    assert!(several.code == Some(2) && ids.iter().all(|id| several.stderr.contains(id)), "{several:?}");
    for (name, says) in [
        ("ffff", "there is no job whose id begins with ffff"),
        ("0ba", "`last`"),
        ("latest", "`last`"),
        ("0badcafe-0000-4000-8000-000000000009", "there is no job 0badcafe"),
    ] {
        let ran = world.run(&["jobs", "show", name]).await;
        assert!(ran.code == Some(2) && ran.stderr.contains(says), "{name}: {ran:?}");
    }
    assert_eq!(world.json(&["jobs", "cancel", "last", "--json"]).await["state"], "cancelled");
    assert_eq!(world.json(&["jobs", "retry", "0badcafe-1", "--json"]).await["queued"], json!([ids[1]]));
    let history = world.json(&["jobs", "history", "last", "--json"]).await;
    assert_eq!(history["history"].as_array().unwrap().len(), 3, "{history}");
    assert_eq!(
        world.json(&["audit", "list", "--job", "0badcafe-1", "--json"]).await["actions"][0]["action"],
        "retried"
    );
}

async fn a_list_shows_pictures_and_instructions(world: World) {
    composite(&world, &["--label", "name=x"]).await;
    let (input, output) = (world.input("a-house.png", [1, 2, 3, 255]), world.output("named"));
    let args = [
        "edit",
        "--input",
        &input,
        "--output",
        &output,
        "--instruction",
        "Make the whole house\ngreen, and its door red",
    ];
    let edit = world.submit(&args).await;
    let listed = world.run(&["jobs", "list"]).await.stdout;
    let lines: Vec<_> = listed.lines().collect();
    assert!(lines[0].contains("PICTURE") && lines[0].contains("PROMPT"), "{listed}");
    assert!(lines[1].contains(&edit) && lines[1].contains("a-house.png"), "{listed}");
    assert!(lines[1].contains("Make the whole house green, and…"), "{listed}");
    assert_eq!(lines.len(), 3, "{listed}");
    // A page goes on after its last job was deleted.
    let page = world.json(&["jobs", "list", "--limit", "1", "--json"]).await;
    world.json(&["jobs", "cancel", &edit, "--json"]).await;
    world.json(&["jobs", "delete", &edit, "--json"]).await;
    let next = page["next"].as_str().unwrap();
    assert_eq!(world.json(&["jobs", "list", "--after", next, "--json"]).await["jobs"].as_array().unwrap().len(), 1);
    let gone = world.run(&["jobs", "list", "--after", &edit]).await;
    assert!(gone.code == Some(2) && gone.stderr.contains("may have been deleted"), "{gone:?}");
}

async fn jobs_are_deleted_with_their_files(world: World) {
    let _worker = world.worker();
    let (first, second) = (composite(&world, &[]).await, composite(&world, &["--label", "n=2"]).await);
    let mut manifests = Vec::new();
    for id in [&first, &second] {
        let job = world.until(id, &["succeeded"]).await;
        manifests.push(world.path(job["manifest"].as_str().unwrap()));
    }
    assert!(manifests.iter().all(|manifest| manifest.is_file()));
    let deleted = world.json(&["jobs", "delete", &first, "last", "--json"]).await;
    assert_eq!(deleted, json!({"deleted": [first, second], "files": 4}));
    assert!(manifests.iter().all(|manifest| !manifest.exists()));
    assert_eq!(world.run(&["jobs", "delete", &first]).await.code, Some(2));
    // One that has not ended keeps all of them.
    world.json(&["queue", "pause", "--json"]).await;
    let waiting = composite(&world, &["--label", "n=3"]).await;
    let refused = world.run(&["jobs", "delete", &waiting]).await;
    assert!(refused.code == Some(2) && refused.stderr.contains("acetate jobs cancel"), "{refused:?}");
    assert_eq!(world.show(&waiting).await["state"], "queued");
}

async fn a_job_has_one_shape_everywhere(world: World) {
    let _worker = world.worker();
    let id = composite(&world, &["--batch", "shapes"]).await;
    let watched = world.json(&["jobs", "watch", &id, "--json"]).await;
    let shown = world.show(&id).await;
    let listed = world.json(&["jobs", "list", "--json"]).await["jobs"][0].clone();
    let keys = |job: &Value| -> BTreeSet<String> {
        job.as_object().unwrap().keys().filter(|key| *key != "history" && *key != "queued").cloned().collect()
    };
    assert_eq!(keys(&watched), keys(&shown));
    assert_eq!(keys(&listed), keys(&shown));
    for field in
        ["id", "kind", "state", "params", "input", "priority", "labels", "outputs", "manifest", "started_at", "request"]
    {
        assert!(shown.get(field).is_some(), "{field}: {shown:#}");
    }
    let output = &shown["outputs"][0];
    assert_eq!(
        (&output["role"], &output["width"], &output["height"]),
        (&json!("composite"), &json!(16), &json!(12)),
        "{output}"
    );
    assert!(output["bounding_box"]["width"].is_u64(), "{output}");
    let retried = world.run(&["jobs", "retry", &id, "--json"]).await;
    assert_eq!(retried.code, Some(1), "it has succeeded");
}

async fn an_upload_is_pruned_once_no_job_names_it(world: World) {
    let _worker = world.worker();
    let (local, output) = (world.place.picture("local.png", [7, 8, 9, 255]), world.output("uploaded"));
    let id = world.submit(&["composite", "--input", &local, "--upload", "--output", &output]).await;
    let job = world.until(&id, &["succeeded"]).await;
    let upload = world.path(job["request"]["input"]["image"].as_str().unwrap());
    assert!(upload.is_file(), "{job:#}");
    let kept = world.json(&["jobs", "prune", "--older-than", "0s", "--state", "failed", "--json"]).await;
    assert_eq!((&kept["uploads"], upload.is_file()), (&json!(0), true), "{kept}");
    crate::common::until(async || {
        world.json(&["jobs", "prune", "--older-than", "0s", "--json"]).await;
        if upload.exists() { Err("the upload stays") } else { Ok(()) }
    })
    .await;
}
