//! The cache as others see it: Python's `huggingface_hub`, the crate hf-hub, and `acetate models list`.

use std::fs;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use qwen_image::hub::{CachedRevision, HubError, diffusers_files, list};

use super::server::{COMMIT, Fault, ID, git_sha1, sha256};
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
    fs::create_dir_all(repo.join("refs")).unwrap();
    fs::write(repo.join("refs/main"), COMMIT).unwrap();
    let snapshot = repo.join("snapshots").join(COMMIT);
    write_files(&repo, &snapshot, skip);
    snapshot
}

/// Blobs, and links to them. Neither program keeps more without being asked.
fn write_files(repo: &Path, snapshot: &Path, skip: &str) {
    fs::create_dir_all(repo.join("blobs")).unwrap();
    for (path, bytes) in model_files().into_iter().filter(|(path, _)| *path != skip && !path.ends_with(".md")) {
        let name = if path.ends_with(".safetensors") { sha256(&bytes) } else { git_sha1(&bytes) };
        fs::write(repo.join("blobs").join(&name), bytes).unwrap();
        let pointer = snapshot.join(path);
        fs::create_dir_all(pointer.parent().unwrap()).unwrap();
        let up = if path.contains('/') { "../../../blobs" } else { "../../blobs" };
        std::os::unix::fs::symlink(Path::new(up).join(name), pointer).unwrap();
    }
}

fn by_hf_hub(fixture: &Fixture, revision: &str) -> CacheRepo {
    let repo = Repo::with_revision(ID.to_owned(), RepoType::Model, revision.to_owned());
    Cache::new(fixture.cache().to_owned()).repo(repo)
}

#[test]
fn hf_hub_finds_what_was_fetched() {
    for revision in ["main", "refs/pr/5", COMMIT] {
        let fixture = Fixture::new();
        let theirs = by_hf_hub(&fixture, revision);
        assert_eq!(theirs.get("model_index.json"), None);
        fixture.hub.fault("vae/config.json", Fault::Status(401, ""));
        fixture.pull_revision(revision).0.unwrap_err();
        assert_eq!(theirs.get("model_index.json"), None, "nothing is shown before all of it is there");

        let snapshot = fixture.pull_revision(revision).0.unwrap();
        assert_eq!(snapshot.folder, theirs.pointer_path(COMMIT));
        for (path, bytes) in model_files() {
            let found = theirs.get(path).map(|file| fs::read(file).unwrap());
            assert!(found == diffusers_files(path).then_some(bytes), "{path} of {revision}");
        }
        // A commit that is noted for hf-hub is no branch.
        let names: Vec<_> = [revision].into_iter().filter(|name| *name != COMMIT).collect();
        assert_eq!(list(&fixture.config).unwrap()[0].revisions[0].names, names);
    }
}

#[test]
fn what_hf_hub_has_noted_is_found() {
    for revision in ["main", "refs/pr/5", COMMIT] {
        let mut fixture = Fixture::new();
        fixture.config.offline = true;
        let theirs = by_hf_hub(&fixture, revision);
        let snapshot = theirs.pointer_path(COMMIT);
        write_files(&fixture.repo(), &snapshot, "vae/preview.png");
        if revision != COMMIT {
            assert!(matches!(fixture.pull_revision(revision).0, Err(HubError::Offline { .. })), "not noted yet");
        }
        theirs.create_ref(COMMIT).unwrap();
        let found = fixture.pull_revision(revision).0.unwrap();
        assert_eq!(found.folder, snapshot);
        assert_whole(&found);
        assert_eq!(fixture.hub.log().len(), 0);
    }
}

#[test]
fn a_branch_is_moved_in_one_step() {
    let fixture = Fixture::new();
    fixture.pull().unwrap();
    let moved = "ffff456789abcdef0123456789abcdef01234567";
    fixture.hub.set_commit(moved);
    assert_eq!(fixture.pull().unwrap().folder, by_hf_hub(&fixture, "main").pointer_path(moved));
    let refs = fixture.repo().join("refs");
    assert_eq!(fs::read_to_string(refs.join("main")).unwrap(), moved);
    assert_eq!(fs::read_dir(refs).unwrap().count(), 1, "nothing is left beside it");
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
    let bytes: usize = model_files().iter().filter(|(p, _)| diffusers_files(p)).map(|(_, b)| b.len()).sum();
    assert_eq!(models[0].bytes, bytes as u64);
}
