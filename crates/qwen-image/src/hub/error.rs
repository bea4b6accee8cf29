//! Why a model is not available, and how to fix it in terms of [`HubConfig`](super::HubConfig). A program whose users
//! do not set that type must say it in the terms of its own settings.

use std::path::{Path, PathBuf};

use super::Small;
use super::reference::dataset;

/// Why a model, a LoRA or a dataset is not available.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// A text that names no model.
    #[error(
        "{text:?} is not the name of a model: {reason}; give a folder, or a hub id such as Qwen/Qwen-Image-Layered"
    )]
    Reference {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A text that names no LoRA.
    #[error(
        "{text:?} is not a LoRA: {reason}; give a .safetensors file, or one on the hub, such as \
         ORG/NAME:FILE.safetensors, and its strength after =, such as style.safetensors=0.8"
    )]
    LoraReference {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A repository without the LoRA.
    #[error("{id}@{revision} does not have this LoRA; name one of its files with {id}:FILE ({})", listed(found))]
    NoLora {
        /// The hub id.
        id: String,
        /// The branch, tag or commit.
        revision: String,
        /// The .safetensors files that it has, or the first of them.
        found: Vec<String>,
    },
    /// A text that names no dataset.
    #[error("{text:?} is not the name of a dataset: {reason}; write hf://datasets/ORG/NAME")]
    DatasetReference {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A dataset without files below the path.
    #[error("{id}@{revision} has no files that were asked for; check the path behind the name")]
    NoFiles {
        /// The hub id.
        id: String,
        /// The branch, tag or commit.
        revision: String,
    },
    /// A folder without a checkpoint.
    #[error("{}: {reason}; give the folder that contains model_index.json", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// A small checkpoint that is in none of the places.
    #[error(
        "{}: this small model was not found in {looked}; give a folder in diffusers' layout or a hub id such as {}",
        small.name(), small.full_model()
    )]
    NoSmallModel {
        /// The checkpoint.
        small: Small,
        /// The searched folders, in words.
        looked: String,
    },
    /// A checkpoint inside the program that cannot be unpacked.
    #[error(
        "{}: this model is part of the program and cannot be unpacked to {} ({source}); it needs {} in a folder that can \
         be written: set `EmbeddedModels::cache` to one, or give another model",
        small.name(), folder.display(), human_bytes(*needed)
    )]
    Unpack {
        /// The checkpoint.
        small: Small,
        /// The folder to unpack it to.
        folder: PathBuf,
        /// The space that it needs there, in bytes.
        needed: u64,
        /// The cause.
        source: std::io::Error,
    },
    /// A checkpoint inside the program, without a folder to unpack it to.
    #[error(
        "{}: this model is part of the program, and there is no cache to unpack it to: set `EmbeddedModels::cache` to a \
         folder that can be written, or give another model",
        small.name()
    )]
    NoCacheFolder {
        /// The checkpoint.
        small: Small,
    },
    /// [`HubConfig::endpoint`](super::HubConfig::endpoint) is not an address.
    #[error(
        "{endpoint:?} is not an http or https address; set `HubConfig::endpoint` to one such as https://huggingface.co"
    )]
    Endpoint {
        /// Its value.
        endpoint: String,
    },
    /// The hub does not have the repository or the revision.
    #[error("{id} has no revision {revision} at {endpoint}; check the spelling of both{}", taken_for_id(id))]
    NotFound {
        /// The hub id.
        id: String,
        /// The branch, tag or commit.
        revision: String,
        /// The hub's address.
        endpoint: String,
    },
    /// The hub denies access: the repository is private or gated, or does not exist.
    #[error(
        "{endpoint} denies access to {id} ({reason}): if the name is right, the repository is private or gated; accept \
         its license at {endpoint}/{id} and set `HubConfig::token` to a token that can read it{}",
        taken_for_id(id)
    )]
    Unauthorized {
        /// The hub id.
        id: String,
        /// The hub's address.
        endpoint: String,
        /// The hub's response.
        reason: String,
    },
    /// Files are missing, and [`HubConfig::offline`](super::HubConfig::offline) is set.
    #[error(
        "{id}@{revision} is not complete in {} and `HubConfig::offline` is set; go online, or download it on a machine \
         with a network and copy the cache here{}",
        cache.display(), taken_for_id(id)
    )]
    Offline {
        /// The hub id.
        id: String,
        /// The branch, tag or commit.
        revision: String,
        /// The searched cache.
        cache: PathBuf,
    },
    /// The disk is too full for a download.
    #[error(
        "{id} needs {} more in {} and {} are free; free some space, or set `HubConfig::cache_dir` to a folder on a larger \
         disk",
        human_bytes(*needed), folder.display(), human_bytes(*available)
    )]
    NoSpace {
        /// The hub id.
        id: String,
        /// Bytes that are missing on disk.
        needed: u64,
        /// Free bytes.
        available: u64,
        /// The cache.
        folder: PathBuf,
    },
    /// A file whose content is not that of the listing, twice.
    #[error("{id}: {file} arrived twice with the wrong content: expected {expected}, got {actual}")]
    Checksum {
        /// The hub id.
        id: String,
        /// The file's path in the repository.
        file: String,
        /// The hash in the listing.
        expected: String,
        /// The hash of what arrived.
        actual: String,
    },
    /// The hub does not respond.
    #[error("{id}: {reason}; check the network and the spelling{}", taken_for_id(id))]
    Unreachable {
        /// The hub id.
        id: String,
        /// The last failure.
        reason: String,
    },
    /// A download that failed after all retries.
    #[error("{id}: {reason}; the downloaded part is kept, and the next download resumes there")]
    Network {
        /// The hub id.
        id: String,
        /// The last failure.
        reason: String,
    },
    /// The hub's list of files cannot be used.
    #[error("{id}: the hub's list of files cannot be used: {reason}")]
    Listing {
        /// The hub id.
        id: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A repository without safetensors.
    #[error(
        "{id}@{revision} keeps weights only as pickle ({example}), which can run arbitrary code when it is loaded; use \
         a repository with .safetensors files"
    )]
    Pickle {
        /// The hub id.
        id: String,
        /// The branch, tag or commit.
        revision: String,
        /// One of its pickle files.
        example: String,
    },
    /// A repository without `model_index.json`.
    #[error("{id}@{revision} is not a diffusers model: it has no model_index.json")]
    NotAModel {
        /// The hub id.
        id: String,
        /// The branch, tag or commit.
        revision: String,
    },
    /// A file or folder that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Its path.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The caller stopped the download, through [`Events`](super::Events).
    #[error("the download was cancelled; the downloaded part is kept")]
    Cancelled,
}

impl HubError {
    /// For `map_err`: an I/O error at this path.
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        |source| Self::Io { path: path.to_owned(), source }
    }
}

/// Explains why a name that may have been meant as a path is looked up on the hub. A dataset's is none.
fn taken_for_id(id: &str) -> String {
    match dataset(id) {
        Some(_) => String::new(),
        None => format!(" (there is no folder {id}, so it was used as a hub id)"),
    }
}

fn listed(files: &[String]) -> String {
    if files.is_empty() { "it has no .safetensors files".to_owned() } else { format!("it has {}", files.join(", ")) }
}

/// Decimal units, as disks and the hub's pages count: `57.7 GB`.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}
