//! Lists the models in the cache, with their sizes.

use std::fs;
use std::path::{Path, PathBuf};

use super::cache::RepoCache;
use super::filter::diffusers_files;
use super::reference::is_commit;
use super::{HubConfig, HubError};

/// A repository with a `model_index.json` in at least one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedModel {
    /// The hub id.
    pub id: String,
    /// Its folder in the cache.
    pub folder: PathBuf,
    /// The size on disk, including partial files. Commits share equal files.
    pub bytes: u64,
    /// The commits with files or with a list of files.
    pub revisions: Vec<CachedRevision>,
}

/// A commit of a repository in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedRevision {
    /// The commit's hash.
    pub commit: String,
    /// The branches and tags that pointed to this commit at the last update.
    pub names: Vec<String>,
    /// Whether all files that acetate needs exist.
    pub complete: bool,
}

/// All models in the cache, by id. A cache that does not exist is empty.
///
/// # Errors
/// [`HubError::Io`] if a folder cannot be read.
pub fn list(config: &HubConfig) -> Result<Vec<CachedModel>, HubError> {
    let mut models = Vec::new();
    for name in names_in(&config.cache_dir)? {
        let Some(id) = name.strip_prefix("models--").map(|id| id.replacen("--", "/", 1)) else {
            continue;
        };
        let cache = RepoCache::new(&config.cache_dir, &id);
        let revisions = revisions(&cache)?;
        if !revisions.is_empty() {
            let bytes = size_of(&cache.root().join("blobs"))?;
            models.push(CachedModel { id, folder: cache.root().to_owned(), bytes, revisions });
        }
    }
    models.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(models)
}

/// The total size of all files in a folder, recursively; 0 if it does not exist.
///
/// # Errors
/// [`HubError::Io`] if a folder cannot be read.
pub fn size_of(folder: &Path) -> Result<u64, HubError> {
    let mut bytes = 0;
    for path in names_in(folder)?.iter().map(|name| folder.join(name)) {
        bytes += if path.is_dir() { size_of(&path)? } else { fs::metadata(&path).map_or(0, |meta| meta.len()) };
    }
    Ok(bytes)
}

/// Commits with a folder, and those with only a list of files so far.
fn revisions(cache: &RepoCache) -> Result<Vec<CachedRevision>, HubError> {
    let lists = names_in(&cache.root().join("trees"))?;
    let mut commits: Vec<String> =
        lists.iter().filter_map(|name| name.strip_suffix(".json")).map(String::from).collect();
    commits.extend(names_in(&cache.root().join("snapshots"))?);
    commits.retain(|commit| is_commit(commit) && is_model(cache, commit));
    commits.sort();
    commits.dedup();

    let mut refs = Vec::new();
    collect_refs(&cache.root().join("refs"), "", &mut refs)?;
    refs.retain(|name| !is_commit(name));
    let revision = |commit: String| {
        let is_named = |name: &&String| cache.commit_of(name).as_ref() == Some(&commit);
        let names = refs.iter().filter(is_named).cloned().collect();
        CachedRevision { names, complete: cache.is_complete(&commit, &diffusers_files), commit }
    };
    Ok(commits.into_iter().map(revision).collect())
}

fn is_model(cache: &RepoCache, commit: &str) -> bool {
    cache.snapshot(commit).join("model_index.json").exists()
        || cache.listing(commit).is_some_and(|list| list.files.iter().any(|file| file.path == "model_index.json"))
}

/// Names below `refs/`, where a branch such as `refs/pr/5` is a path.
fn collect_refs(folder: &Path, prefix: &str, refs: &mut Vec<String>) -> Result<(), HubError> {
    for name in names_in(folder)? {
        let path = folder.join(&name);
        if path.is_dir() {
            collect_refs(&path, &format!("{prefix}{name}/"), refs)?;
        } else {
            refs.push(format!("{prefix}{name}"));
        }
    }
    Ok(())
}

/// Sorted names in a folder; empty if it does not exist.
fn names_in(folder: &Path) -> Result<Vec<String>, HubError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(HubError::io(folder)(error)),
    };
    let mut names: Vec<_> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}
