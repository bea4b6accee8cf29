//! The cache as others see it: Python's `huggingface_hub`, and `acetate models list`.

use std::fs;
use std::path::{Path, PathBuf};

use qwen_image::hub::{CachedRevision, HubError, list};

use super::server::{COMMIT, Fault, git_sha1, sha256};
use super::{Fixture, SHARD, SHARD_BYTES, assert_whole, model_files, noise};

#[test]
fn the_layout_is_that_of_huggingface_hub() {
    let fixture = Fixture::new();
    let snapshot = fixture.pull().unwrap();
    let repo = fixture.repo();
    assert_eq!(snapshot.folder, repo.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    let link = fs::read_link(snapshot.folder.join(SHARD)).unwrap();
    assert_eq!(link, Path::new("../../../blobs").join(sha256(&noise(SHARD_BYTES, 1))));
    let link = fs::read_link(snapshot.folder.join("model_index.json")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(git_sha1(&model_files()[1].1)));
    assert!(fixture.cache().join(".locks/models--Org--Model").is_dir());

    let tree: serde_json::Value =
        serde_json::from_slice(&fs::read(repo.join(format!("trees/{COMMIT}.json"))).unwrap()).unwrap();
    assert_eq!(tree["format_version"], 1);
    assert_eq!(tree["files"][SHARD]["lfs_sha256"], sha256(&noise(SHARD_BYTES, 1)));
    assert_eq!(tree["files"][SHARD]["lfs_size"], SHARD_BYTES);
    assert_eq!(tree["files"]["vae/config.json"], serde_json::json!({"size": 2, "blob_id": git_sha1(b"{}")}));
    assert_eq!(tree["files"].as_object().unwrap().len(), model_files().len());
    let strays = fs::read_dir(repo.join("blobs")).unwrap().flatten().filter(|e| e.path().extension().is_some());
    assert_eq!(strays.count(), 0);
}

/// The cache as versions of `huggingface_hub` without `trees/` leave it.
fn write_as_python_does(fixture: &Fixture, skip: &str) -> PathBuf {
    let repo = fixture.repo();
    let snapshot = repo.join("snapshots").join(COMMIT);
    fs::create_dir_all(repo.join("blobs")).unwrap();
    fs::create_dir_all(repo.join("refs")).unwrap();
    fs::write(repo.join("refs/main"), COMMIT).unwrap();
    for (path, bytes) in model_files().into_iter().filter(|(path, _)| *path != skip && !path.ends_with(".md")) {
        let name = if path.ends_with(".safetensors") { sha256(&bytes) } else { git_sha1(&bytes) };
        fs::write(repo.join("blobs").join(&name), bytes).unwrap();
        let pointer = snapshot.join(path);
        fs::create_dir_all(pointer.parent().unwrap()).unwrap();
        let up = if path.contains('/') { "../../../blobs" } else { "../../blobs" };
        std::os::unix::fs::symlink(Path::new(up).join(name), pointer).unwrap();
    }
    snapshot
}

#[test]
fn what_python_has_fetched_is_found() {
    let mut fixture = Fixture::new();
    let folder = write_as_python_does(&fixture, "");
    fs::remove_file(folder.join("vae/preview.png")).unwrap();
    fixture.config.offline = true;
    assert_whole(&fixture.pull().unwrap());

    fixture.config.offline = false;
    assert_whole(&fixture.pull().unwrap());
    assert!(fixture.hub.log().iter().all(|request| !request.path.contains("/resolve/")), "nothing is fetched again");
}

#[test]
fn what_python_has_fetched_in_part_is_completed() {
    let mut fixture = Fixture::new();
    let folder = write_as_python_does(&fixture, SHARD);
    fs::remove_file(folder.join("vae/preview.png")).unwrap();
    fixture.config.offline = true;
    assert!(matches!(fixture.pull(), Err(HubError::Offline { .. })));
    fixture.config.offline = false;
    assert_whole(&fixture.pull().unwrap());
    let fetched = fixture.hub.log().iter().filter(|request| request.path.contains("/resolve/")).count();
    assert_eq!(fetched, 1);
}

#[test]
fn a_missing_shard_of_an_index_is_noticed_without_a_list() {
    let mut fixture = Fixture::new();
    let folder = write_as_python_does(&fixture, "");
    fixture.config.offline = true;
    let index = folder.join("transformer/diffusion_pytorch_model.safetensors.index.json");
    fs::write(&index, r#"{"weight_map": {"a": "diffusion_pytorch_model.safetensors", "b": "other.safetensors"}}"#)
        .unwrap();
    assert!(matches!(fixture.pull(), Err(HubError::Offline { .. })));
    fs::write(folder.join("transformer/other.safetensors"), b"").unwrap();
    fixture.pull().unwrap();
}

#[test]
fn a_blob_of_the_wrong_length_is_fetched_again() {
    let fixture = Fixture::new();
    let snapshot = fixture.pull().unwrap();
    let blob = fs::canonicalize(snapshot.folder.join(SHARD)).unwrap();
    fs::write(&blob, b"short").unwrap();
    assert_whole(&fixture.pull().unwrap());
    assert_eq!(fixture.hub.fetches(SHARD).len(), 2);
}

#[test]
fn the_list_says_what_is_complete() {
    let fixture = Fixture::new();
    assert_eq!(list(&fixture.config).unwrap(), []);

    fixture.hub.always(SHARD, Fault::CutAfter(50_000));
    fixture.pull().unwrap_err();
    let models = list(&fixture.config).unwrap();
    assert_eq!(models.len(), 1);
    assert_eq!(models[0].id, "Org/Model");
    let revision = |names: &[&str], complete| CachedRevision {
        commit: COMMIT.to_owned(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        complete,
    };
    assert_eq!(models[0].revisions, [revision(&[], false)]);
    assert!((200_000..201_000).contains(&models[0].bytes), "{}", models[0].bytes);

    fixture.hub.heal();
    fixture.pull().unwrap();
    fixture.pull_revision("refs/pr/5").0.unwrap();
    // Another program's model in the same cache is none of ours.
    let other = fixture.cache().join("models--org--bert/snapshots").join(COMMIT);
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("config.json"), "{}").unwrap();
    let models = list(&fixture.config).unwrap();
    assert_eq!(models.len(), 1);
    assert_eq!(models[0].revisions, [revision(&["main", "refs/pr/5"], true)]);
    let bytes: usize =
        model_files().iter().filter(|(p, _)| qwen_image::hub::diffusers_files(p)).map(|(_, b)| b.len()).sum();
    assert_eq!(models[0].bytes, bytes as u64);
}
