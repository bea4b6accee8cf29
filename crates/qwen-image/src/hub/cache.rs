//! One repository in the cache, laid out as `huggingface_hub` does:
//!
//! ```text
//! models--Org--Name/blobs/{hash}                 contents, named by hash; {hash}.incomplete during a download
//! models--Org--Name/snapshots/{commit}/{path}    relative links into blobs/
//! models--Org--Name/refs/{revision}              the commit that a branch or tag pointed to
//! models--Org--Name/trees/{commit}.json          all files of a commit
//! .locks/models--Org--Name/{hash}.lock           held while a blob is written
//! ```

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use serde_json::Value;

use super::HubError;
use super::filter::INDEX;
use super::hash::ContentHash;
use super::listing::{RemoteFile, RepoListing};
use super::reference::{dataset, is_commit};

pub(super) struct RepoCache {
    cache: Cache,
    kind: RepoType,
    id: String,
    root: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    /// `id` is that of a model, or of a dataset after `datasets/`.
    pub fn new(cache_dir: &Path, id: &str) -> Self {
        let (kind, id) = match dataset(id) {
            Some(id) => (RepoType::Dataset, id),
            None => (RepoType::Model, id),
        };
        let name = Repo::new(id.to_owned(), kind).folder_name();
        Self {
            cache: Cache::new(cache_dir.to_owned()),
            kind,
            id: id.to_owned(),
            root: cache_dir.join(&name),
            locks: cache_dir.join(".locks").join(&name),
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.at(commit).pointer_path(commit)
    }

    /// hf-hub can compute this path too, but only as part of its own downloads.
    pub fn blob(&self, hash: &ContentHash) -> PathBuf {
        self.root.join("blobs").join(hash.as_str())
    }

    pub fn partial(&self, hash: &ContentHash) -> PathBuf {
        self.root.join("blobs").join(format!("{}.incomplete", hash.as_str()))
    }

    /// The commit that this revision pointed to when it was last downloaded.
    pub fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) { Some(revision.to_owned()) } else { self.commit_in_refs(revision) }
    }

    /// The commit that `refs/` has for this revision.
    fn commit_in_refs(&self, revision: &str) -> Option<String> {
        // hf-hub looks a file up, and datasets and LoRAs have none of a known name.
        let Some(index) = self.at(revision).get(INDEX) else {
            let commit = fs::read_to_string(self.root.join("refs").join(revision)).ok()?;
            return Some(commit.trim().to_owned()).filter(|commit| is_commit(commit));
        };
        let commit = index.parent()?.file_name()?.to_str()?;
        is_commit(commit).then(|| commit.to_owned())
    }

    fn at(&self, revision: &str) -> CacheRepo {
        self.cache.repo(Repo::with_revision(self.id.clone(), self.kind, revision.to_owned()))
    }

    pub fn listing(&self, commit: &str) -> Option<RepoListing> {
        RepoListing::from_tree(commit, &fs::read(self.root.join("trees").join(format!("{commit}.json"))).ok()?)
    }

    /// Whether every wanted file of this commit exists and has the right size. Older versions of `huggingface_hub` keep
    /// no list of files; in that case the model's own indexes name its files.
    pub fn is_complete(&self, commit: &str, wanted: &dyn Fn(&str) -> bool) -> bool {
        let folder = self.snapshot(commit);
        match self.listing(commit) {
            Some(listing) => {
                let there = |file: &RemoteFile| has_size(&folder.join(&file.path), file.size);
                let files: Vec<_> = listing.files.iter().filter(|file| wanted(&file.path)).collect();
                !files.is_empty() && files.into_iter().all(there)
            }
            None => indexes_are_satisfied(&folder),
        }
    }

    /// Whether the content has already been downloaded. A blob of the wrong size is removed.
    pub fn has_blob(&self, file: &RemoteFile) -> Result<bool, HubError> {
        let blob = self.blob(&file.hash);
        match fs::metadata(&blob) {
            Ok(meta) if meta.len() == file.size => Ok(true),
            Ok(_) => fs::remove_file(&blob).map(|()| false).map_err(HubError::io(&blob)),
            Err(_) => Ok(false),
        }
    }

    /// Takes the lock of one blob, the same one that `huggingface_hub` takes. Dropping the file releases it. `None` if
    /// another process holds it.
    pub fn try_lock(&self, hash: &ContentHash) -> Result<Option<File>, HubError> {
        let path = self.locks.join(format!("{}.lock", hash.as_str()));
        create_parent(&path)?;
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(HubError::io(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            // Some network file systems have no locks. A download may then be repeated, but its hash is still checked.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => Ok(Some(file)),
            Err(TryLockError::Error(error)) => Err(HubError::io(&path)(error)),
        }
    }

    /// Links a finished blob into the snapshot, replacing an existing file atomically.
    pub fn link(&self, commit: &str, file: &RemoteFile) -> Result<(), HubError> {
        let pointer = self.snapshot(commit).join(&file.path);
        if has_size(&pointer, file.size) {
            return Ok(());
        }
        create_parent(&pointer)?;
        let up = "../".repeat(file.path.matches('/').count() + 2);
        let target = format!("{up}blobs/{}", file.hash.as_str());
        let fresh = beside(&pointer);
        symlink_or_copy(Path::new(&target), &self.blob(&file.hash), &fresh).map_err(HubError::io(&fresh))?;
        fs::rename(&fresh, &pointer).map_err(HubError::io(&pointer))
    }

    pub fn write_listing(&self, listing: &RepoListing) -> Result<(), HubError> {
        let path = self.root.join("trees").join(format!("{}.json", listing.commit));
        if self.listing(&listing.commit).is_some() {
            return Ok(());
        }
        let json = listing.to_tree().map_err(|error| HubError::io(&path)(error.into()))?;
        write_whole(&path, &json)
    }

    /// Records which commit a revision points to. This is the last step of a download, so that a branch never names an
    /// incomplete commit. Commits are recorded too, because hf-hub finds no file of a revision that is not in `refs/`.
    pub fn write_ref(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if self.commit_in_refs(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        // hf-hub writes in place, so a reader could see half a commit id.
        let (refs, fresh) = (self.root.join("refs"), fresh_name(revision));
        let path = refs.join(revision);
        let written = self.at(&fresh).create_ref(commit);
        written.and_then(|()| fs::rename(refs.join(fresh), &path)).map_err(HubError::io(&path))
    }
}

/// Follows links.
fn has_size(path: &Path, size: u64) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() == size)
}

/// `model_index.json` names the components, and each `*.safetensors.index.json` names its shards.
fn indexes_are_satisfied(folder: &Path) -> bool {
    let Some(Value::Object(index)) = read_json(&folder.join("model_index.json")) else {
        return false;
    };
    // A component is `"vae": ["diffusers", "AutoencoderKLQwenImage"]`; an omitted one is `[null, null]`.
    let components = index.iter().filter(|(_, value)| value.get(0).is_some_and(Value::is_string));
    components.map(|(name, _)| folder.join(name)).all(|component| component_is_complete(&component))
}

fn component_is_complete(component: &Path) -> bool {
    let Ok(entries) = fs::read_dir(component) else {
        return false;
    };
    let names: Vec<_> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let exists = |name: &str| component.join(name).exists();
    let shards_exist = |index: &str| match read_json(&component.join(index)).as_ref().map(|json| &json["weight_map"]) {
        Some(Value::Object(map)) => map.values().all(|shard| shard.as_str().is_some_and(exists)),
        _ => false,
    };
    let name = component.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let needs_weights = ["transformer", "text_encoder", "vae"].contains(&name);
    !names.is_empty()
        && names.iter().all(|name| exists(name))
        && names.iter().filter(|name| name.ends_with(".safetensors.index.json")).all(|name| shards_exist(name))
        && (!needs_weights || names.iter().any(|name| name.ends_with(".safetensors")))
}

fn read_json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

pub(super) fn create_parent(path: &Path) -> Result<(), HubError> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(HubError::io(parent))
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), HubError> {
    create_parent(path)?;
    let fresh = beside(path);
    let written = File::create(&fresh).and_then(|mut file| file.write_all(bytes));
    written.and_then(|()| fs::rename(&fresh, path)).map_err(HubError::io(path))
}

/// A path in the same folder that no other process uses.
fn beside(path: &Path) -> PathBuf {
    path.with_file_name(fresh_name(&path.file_name().unwrap_or_default().to_string_lossy()))
}

fn fresh_name(name: &str) -> String {
    format!("{name}.{}.tmp", uuid::Uuid::now_v7().simple())
}

#[cfg(unix)]
fn symlink_or_copy(target: &Path, _blob: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

/// Symbolic links need a privilege on some systems. A hard link costs as little, and a copy always works.
#[cfg(not(unix))]
fn symlink_or_copy(_target: &Path, blob: &Path, link: &Path) -> std::io::Result<()> {
    fs::hard_link(blob, link).or_else(|_| fs::copy(blob, link).map(|_| ()))
}
