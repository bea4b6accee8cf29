//! Models by name: a folder, or a hub id that is downloaded into the cache on first use. Without a name, a small one
//! that comes with acetate ([`Small`]).
//!
//! [`resolve`] does everything. It asks the hub once, for the commit of a revision and the size and hash of every file
//! at that commit; everything is then downloaded at that commit, so that a moving branch cannot mix two versions. A
//! file gets its name in the cache only after its hash was checked, a snapshot contains only such files, and the branch
//! is updated last. An interrupted download leaves `.incomplete` files, which the next one resumes.
//!
//! The cache is the one of Python's `huggingface_hub`, including its locks: each program finds what the other has
//! downloaded. All calls block and use no async runtime.

mod cache;
mod config;
mod download;
mod embedded_models;
mod error;
mod event;
mod filter;
mod hash;
mod http;
mod list;
mod listing;
mod lora;
mod reference;
mod retry;
mod small;
mod trust;

pub use config::{HubConfig, Retry, Token};
pub use embedded_models::EmbeddedModels;
pub use error::{HubError, human_bytes};
pub use event::{DownloadEvent, Events};
pub use filter::diffusers_files;
pub use list::{CachedModel, CachedRevision, list, size_of};
pub use lora::{LORA_STRENGTH, Lora, LoraSource, lora_in_folder, resolve_lora};
pub use reference::{DatasetRef, ModelRef};
pub use small::{Small, SmallModelPaths};

use std::fs;
use std::path::{Path, PathBuf};

use cache::RepoCache;
use download::Download;
use event::emit;
use http::Client;
use listing::{RemoteFile, RepoListing};

/// A complete model on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The folder with `model_index.json`.
    pub folder: PathBuf,
    /// The hub id, or the folder as given.
    pub id: String,
    /// The commit; a plain folder has none.
    pub revision: Option<String>,
}

/// Finds a model, and downloads what is missing.
///
/// It does not use the network for a folder or a small model, offline, or if the revision is a full commit that is
/// complete in the cache. A branch is looked up each time; if the hub cannot be reached, a complete copy from the cache
/// is used, and [`DownloadEvent::Unreachable`] reports it. `wanted` selects files by path: [`diffusers_files`].
///
/// # Errors
/// See [`HubError`]; each says how to fix it.
pub fn resolve(
    config: &HubConfig,
    model: &ModelRef,
    wanted: &dyn Fn(&str) -> bool,
    events: &mut Events<'_>,
) -> Result<Snapshot, HubError> {
    let snapshot = match model {
        ModelRef::Folder(folder) => local_folder(folder)?,
        ModelRef::Hub { id, revision } => from_hub(config, id, revision, wanted, false, events)?,
        ModelRef::Small { which, paths } => local_folder(&paths.find(*which)?)?,
    };
    emit(events, DownloadEvent::Finished { folder: snapshot.folder.clone() })?;
    Ok(snapshot)
}

/// The folder of a model that is complete on this machine; none if a first use would download it, or could not find it.
/// Does not use the network.
pub fn find_local(config: &HubConfig, model: &ModelRef, wanted: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    match model {
        ModelRef::Folder(folder) => folder.is_dir().then(|| folder.clone()),
        ModelRef::Small { which, paths } => paths.find(*which).ok(),
        ModelRef::Hub { id, revision } => {
            let cache = RepoCache::new(&config.cache_dir, id);
            cache
                .commit_of(revision)
                .filter(|commit| cache.is_complete(commit, wanted))
                .map(|commit| cache.snapshot(&commit))
        }
    }
}

/// Finds a dataset, and downloads what is missing, as [`resolve`] does for models. Of a dataset with a path, only
/// what is below it.
///
/// # Errors
/// See [`HubError`].
pub fn resolve_dataset(
    config: &HubConfig,
    dataset: &DatasetRef,
    wanted: &dyn Fn(&str) -> bool,
    events: &mut Events<'_>,
) -> Result<Snapshot, HubError> {
    let DatasetRef { id, revision, path } = dataset;
    let below = |file: &str| {
        let rest = file.strip_prefix(path.as_str());
        path.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let wanted = |file: &str| below(file) && wanted(file);
    let snapshot = from_hub(config, &format!("datasets/{id}"), revision, &wanted, true, events)?;
    emit(events, DownloadEvent::Finished { folder: snapshot.folder.clone() })?;
    Ok(snapshot)
}

fn local_folder(folder: &Path) -> Result<Snapshot, HubError> {
    let refuse = |reason: &str| HubError::Folder { folder: folder.to_owned(), reason: reason.to_owned() };
    match fs::metadata(folder) {
        Ok(meta) if meta.is_dir() => {}
        Ok(_) => return Err(refuse("is a file")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(refuse("there is no such folder")),
        Err(error) => return Err(HubError::io(folder)(error)),
    }
    Ok(Snapshot { folder: folder.to_owned(), id: folder.display().to_string(), revision: None })
}

/// `plain_files`: it is not a checkpoint, so any of the wanted files will do.
fn from_hub(
    config: &HubConfig,
    id: &str,
    revision: &str,
    wanted: &dyn Fn(&str) -> bool,
    plain_files: bool,
    events: &mut Events<'_>,
) -> Result<Snapshot, HubError> {
    let cache = RepoCache::new(&config.cache_dir, id);
    let snapshot = |commit: &str| Snapshot {
        folder: cache.snapshot(commit),
        id: id.to_owned(),
        revision: Some(commit.to_owned()),
    };
    let cached = cache.commit_of(revision).filter(|commit| cache.is_complete(commit, wanted));
    match &cached {
        Some(commit) if config.offline || reference::is_commit(revision) => return Ok(snapshot(commit)),
        None if config.offline => {
            let (id, revision) = (id.to_owned(), revision.to_owned());
            return Err(HubError::Offline { id, revision, cache: config.cache_dir.clone() });
        }
        _ => {}
    }

    let client = Client::new(config)?;
    let mut retry = config.retry;
    if cached.is_some() {
        retry.attempts = 1;
    }
    let mut download = Download { client: &client, cache: &cache, id, revision, retry, done: 0 };
    let listing = match (download.listing(events), &cached) {
        // An unreadable list is most often the sign-in page of a network.
        (
            Err(
                HubError::Unreachable { reason, .. }
                | HubError::Network { reason, .. }
                | HubError::Listing { reason, .. },
            ),
            Some(commit),
        ) => {
            emit(events, DownloadEvent::Unreachable { reason })?;
            return Ok(snapshot(commit));
        }
        (listing, _) => listing?,
    };
    download.retry = config.retry;
    let files = filter::select(&listing, wanted, id, plain_files)?;
    if !cache.is_complete(&listing.commit, wanted) {
        fetch(config, &mut download, &listing, &files, events)?;
    }
    cache.write_ref(revision, &listing.commit)?;
    Ok(snapshot(&listing.commit))
}

/// Checks the free space, then downloads what is missing.
fn fetch(
    config: &HubConfig,
    download: &mut Download<'_>,
    listing: &RepoListing,
    files: &[&RemoteFile],
    events: &mut Events<'_>,
) -> Result<(), HubError> {
    let (cache, commit) = (download.cache, listing.commit.as_str());
    let blobs = listing::distinct(files);
    let bytes: u64 = blobs.iter().map(|file| file.size).sum();
    let mut missing = Vec::new();
    for file in &blobs {
        if cache.has_blob(file)? {
            download.done += file.size;
        } else {
            let partial = fs::metadata(cache.partial(&file.hash)).map_or(0, |meta| meta.len()).min(file.size);
            download.done += partial;
            missing.push((*file, partial));
        }
    }
    let present = download.done;
    let plan = (download.id.to_owned(), listing.commit.clone());
    emit(events, DownloadEvent::Planned { id: plan.0, commit: plan.1, files: files.len(), bytes, present })?;

    let folder = cache.root();
    fs::create_dir_all(folder).map_err(HubError::io(folder))?;
    let needed = bytes - present;
    let available = (config.available_space)(folder).map_err(HubError::io(folder))?;
    if needed > available {
        let (id, folder) = (download.id.to_owned(), config.cache_dir.clone());
        return Err(HubError::NoSpace { id, needed, available, folder });
    }

    cache.write_listing(listing)?;
    for (file, counted) in missing {
        download.file(commit, file, counted, events)?;
    }
    files.iter().try_for_each(|file| cache.link(commit, file))
}
