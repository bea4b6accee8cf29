//! Selects the files of a repository that belong to a model, and refuses some repositories.

use super::HubError;
use super::listing::{RemoteFile, RepoListing};
use super::reference::dataset;

/// Names the components of a model in diffusers' layout.
pub(super) const INDEX: &str = "model_index.json";
const FOLDERS: [&str; 6] = ["scheduler", "transformer", "text_encoder", "vae", "tokenizer", "processor"];
const ENDINGS: [&str; 4] = [".json", ".safetensors", ".txt", ".jinja"];
/// How many names an error lists.
const MOST_LISTED: usize = 10;
const PICKLES: [&str; 6] = [".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"];

/// Only diffusers' layout: no READMEs, no pictures, no pickles, no fp16 variants of the weights.
pub fn diffusers_files(path: &str) -> bool {
    match path.split_once('/') {
        None => matches!(path, INDEX | "acetate.json"),
        Some((folder, name)) => {
            FOLDERS.contains(&folder)
                && !name.contains('/')
                && !name.contains(".fp16")
                && ENDINGS.iter().any(|ending| name.ends_with(ending))
        }
    }
}

/// The files to download.
///
/// # Errors
/// [`HubError::NoFiles`] or [`HubError::NoLora`] if there are none; for models, [`HubError::NotAModel`] without a
/// `model_index.json`; [`HubError::Pickle`] if a wanted folder has weights only as pickle.
pub(super) fn select<'a>(
    listing: &'a RepoListing,
    wanted: &dyn Fn(&str) -> bool,
    id: &str,
    plain_files: bool,
) -> Result<Vec<&'a RemoteFile>, HubError> {
    let files: Vec<_> = listing.files.iter().filter(|file| wanted(&file.path)).collect();
    if plain_files {
        let (id, revision) = (id.to_owned(), listing.commit.clone());
        return match (files.is_empty(), dataset(&id)) {
            (false, _) => Ok(files),
            (true, Some(_)) => Err(HubError::NoFiles { id, revision }),
            (true, None) => {
                let all = listing.files.iter().filter(|file| is_safe(&file.path)).take(MOST_LISTED);
                let found = all.map(|file| file.path.clone()).collect();
                Err(HubError::NoLora { id, revision, found })
            }
        };
    }
    let safe = |folder: &str| files.iter().any(|file| folder_of(&file.path) == folder && is_safe(&file.path));
    let any_safe = files.iter().any(|file| is_safe(&file.path));
    for file in listing.files.iter().filter(|file| is_pickle(&file.path)) {
        let folder = folder_of(&file.path);
        // A stray training_args.bin at the root is harmless if the weights are elsewhere.
        let is_only_weights = if folder.is_empty() { !any_safe } else { FOLDERS.contains(&folder) && !safe(folder) };
        if is_only_weights {
            let (id, revision, example) = (id.to_owned(), listing.commit.clone(), file.path.clone());
            return Err(HubError::Pickle { id, revision, example });
        }
    }
    if !files.iter().any(|file| file.path == INDEX) {
        return Err(HubError::NotAModel { id: id.to_owned(), revision: listing.commit.clone() });
    }
    Ok(files)
}

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn is_safe(path: &str) -> bool {
    path.ends_with(".safetensors")
}

fn is_pickle(path: &str) -> bool {
    PICKLES.iter().any(|ending| path.ends_with(ending))
}
