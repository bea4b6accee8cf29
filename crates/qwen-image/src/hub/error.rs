//! Why a model is not available, and how to fix it.

use std::path::{Path, PathBuf};

use super::Small;

#[derive(Debug, thiserror::Error)]
pub enum HubError {
    #[error(
        "{text:?} is not the name of a model: {reason}; give a folder, or a hub id such as Qwen/Qwen-Image-Layered"
    )]
    Reference { text: String, reason: String },
    #[error(
        "{text:?} is not a LoRA: {reason}; give a .safetensors file, or one on the hub, such as \
         ORG/NAME:FILE.safetensors, and its strength after =, such as style.safetensors=0.8"
    )]
    LoraReference { text: String, reason: String },
    #[error("{id}@{revision} does not have this LoRA; name one of its files with {id}:FILE ({})", listed(found))]
    NoLora {
        id: String,
        revision: String,
        /// The .safetensors files that it has, or the first of them.
        found: Vec<String>,
    },
    #[error("{text:?} is not the name of a data set: {reason}; write hf://datasets/ORG/NAME")]
    DataSetReference { text: String, reason: String },
    #[error("{id}@{revision} has no files that were asked for; check the path behind the name")]
    NoFiles { id: String, revision: String },
    #[error("{}: {reason}; give the folder that contains model_index.json", folder.display())]
    Folder { folder: PathBuf, reason: String },
    #[error(
        "{}: no model was chosen, and the small default was not found in {looked}; give {} a folder in \
         diffusers' layout or a hub id such as {id}, or set {} in the configuration; `acetate models pull {id}` \
         downloads it, about 58 GB",
        small.name(), flag(*small), setting(*small), id = small.full_model()
    )]
    NoSmallModel { small: Small, looked: String },
    #[error(
        "{}: this model is part of the program and cannot be unpacked to {} ({source}); it needs {} in a folder that can \
         be written: set XDG_CACHE_HOME to one, or give another model with {}",
        small.name(), folder.display(), human_bytes(*needed), flag(*small)
    )]
    Unpack { small: Small, folder: PathBuf, needed: u64, source: std::io::Error },
    #[error(
        "{}: this model is part of the program, and there is no home folder with a cache to unpack it to: set \
         XDG_CACHE_HOME to a folder that can be written, or give another model with {}",
        small.name(), flag(*small)
    )]
    NoCacheFolder { small: Small },
    #[error(
        "{endpoint:?} is not an http or https address; set HF_ENDPOINT, or hub.endpoint in the configuration, to one \
         such as https://huggingface.co, or remove it"
    )]
    Endpoint { endpoint: String },
    #[error("{id} has no revision {revision} at {endpoint}; check the spelling of both ({})", taken_for_id(id))]
    NotFound { id: String, revision: String, endpoint: String },
    #[error(
        "{endpoint} denies access to {id} ({reason}): if the name is right, the repository is private or gated; accept \
         its license at {endpoint}/{id} and set HF_TOKEN to a token that can read it ({})",
        taken_for_id(id)
    )]
    Unauthorized { id: String, endpoint: String, reason: String },
    #[error(
        "{id}@{revision} is not complete in {} and the hub is offline; go online (HF_HUB_OFFLINE, \
         TRANSFORMERS_OFFLINE, or hub.offline in the configuration), or run `acetate models pull {id}@{revision}` \
         on a machine with a network and copy the cache here ({})",
        cache.display(), taken_for_id(id)
    )]
    Offline { id: String, revision: String, cache: PathBuf },
    #[error(
        "{id} needs {} more in {} and {} are free; free some space, or set HF_HOME to a larger disk",
        human_bytes(*needed), folder.display(), human_bytes(*available)
    )]
    NoSpace { id: String, needed: u64, available: u64, folder: PathBuf },
    #[error("{id}: {file} arrived twice with the wrong content: expected {expected}, got {actual}")]
    Checksum { id: String, file: String, expected: String, actual: String },
    #[error("{id}: {reason}; check the network and the spelling: {}", taken_for_id(id))]
    Unreachable { id: String, reason: String },
    #[error("{id}: {reason}; the downloaded part is kept, and the next download resumes there")]
    Network { id: String, reason: String },
    #[error("{id}: the hub's list of files cannot be used: {reason}")]
    Listing { id: String, reason: String },
    #[error(
        "{id}@{revision} keeps weights only as pickle ({example}), which can run arbitrary code when it is loaded; use \
         a repository with .safetensors files"
    )]
    Pickle { id: String, revision: String, example: String },
    #[error("{id}@{revision} is not a diffusers model: it has no model_index.json")]
    NotAModel { id: String, revision: String },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("the download was cancelled; the downloaded part is kept")]
    Cancelled,
}

impl HubError {
    /// For `map_err`: an I/O error at this path.
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        |source| Self::Io { path: path.to_owned(), source }
    }
}

/// Explains why a name that may have been meant as a path is looked up on the hub.
fn taken_for_id(id: &str) -> String {
    format!("there is no folder {id}, so it was used as a hub id")
}

fn listed(files: &[String]) -> String {
    if files.is_empty() { "it has no .safetensors files".to_owned() } else { format!("it has {}", files.join(", ")) }
}

fn flag(small: Small) -> &'static str {
    match small {
        Small::Layered => "--model",
        Small::Edit => "--model (--edit-model of a workflow)",
    }
}

fn setting(small: Small) -> &'static str {
    match small {
        Small::Layered => "qwen_image.model_path",
        Small::Edit => "qwen_image.edit_model_path",
    }
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
