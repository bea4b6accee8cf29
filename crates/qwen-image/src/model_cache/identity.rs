//! What the weights of a checkpoint are, found out without reading them.

use std::{
    fs,
    io::Error,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use sha2::{Digest, Sha256};

use super::find::is_replaced;
use crate::{
    hub::{self, HubConfig, ModelRef},
    models::WeightOptions,
};

/// Files up to this size, in bytes, are known by their content, larger ones by their size and the time of their last
/// change.
const READ_WHOLE: u64 = 1 << 20;

/// The identity of a checkpoint that is complete on this machine; none if a first use would download it.
pub fn local_weights(hub: &HubConfig, model: &ModelRef, files: &WeightOptions) -> Option<(PathBuf, String)> {
    let wanted = |path: &str| hub::diffusers_files(path) && !is_replaced(path, files);
    let folder = hub::find_local(hub, model, &wanted)?;
    let commit = match model {
        // The cache's folder of a snapshot is named after its commit.
        ModelRef::Hub { .. } => Some(folder.file_name()?.to_str()?.to_owned()),
        ModelRef::Folder(_) | ModelRef::Small { .. } => None,
    };
    let weights = weights_of(&folder, commit.as_deref(), files).ok()?;
    Some((folder, weights))
}

/// The identity of a checkpoint and of the files that replace weights of it: of a hub's snapshot its commit, of a
/// folder its files.
pub fn weights_of(folder: &Path, commit: Option<&str>, files: &WeightOptions) -> Result<String, Error> {
    let mut hash = Sha256::new();
    let mut line = |text: String| {
        hash.update(text.as_bytes());
        hash.update(b"\n");
    };
    match commit {
        Some(commit) => line(format!("commit {commit}")),
        None => {
            for name in names_in(folder)? {
                line(format!("{name} {}", stamp(&folder.join(&name))?));
            }
        }
    }
    let WeightOptions { transformer, text_encoder, text_encoder_fp8 } = files;
    for file in [transformer, text_encoder] {
        line(file.as_deref().map_or(Ok("own".to_owned()), stamp)?);
    }
    line(format!("text_encoder_fp8 {text_encoder_fp8}"));
    Ok(hex::encode(hash.finalize()))
}

/// What a file is, without reading a large one.
pub fn stamp(path: &Path) -> Result<String, Error> {
    let meta = fs::metadata(path)?;
    if meta.len() <= READ_WHOLE {
        return Ok(hex::encode(Sha256::digest(fs::read(path)?)));
    }
    let changed = meta.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(format!("{} bytes of {}", meta.len(), changed.as_nanos()))
}

/// The files of a checkpoint in diffusers' layout, relative to its folder and sorted.
fn names_in(folder: &Path) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if fs::metadata(entry.path())?.is_dir() {
            let inner = fs::read_dir(entry.path())?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            names.extend(inner.map(|inner| format!("{name}/{inner}")));
        } else {
            names.push(name);
        }
    }
    names.retain(|name| hub::diffusers_files(name));
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_another_one_when_a_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("transformer")).unwrap();
        fs::write(at("model_index.json"), "{}").unwrap();
        fs::write(at("transformer/a.safetensors"), vec![1; (READ_WHOLE + 1) as usize]).unwrap();
        let weights = |files: &WeightOptions| weights_of(folder.path(), None, files).unwrap();
        let none = WeightOptions::default();
        let before = weights(&none);
        fs::write(at("README.md"), "words").unwrap();
        assert_eq!(weights(&none), before, "what is not part of a model does not matter");
        let mut seen = vec![before];
        let mut differs = |now: String| {
            assert!(!seen.contains(&now));
            seen.push(now);
        };
        fs::write(at("model_index.json"), "{ }").unwrap();
        differs(weights(&none));
        let later = UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        fs::File::options().write(true).open(at("transformer/a.safetensors")).unwrap().set_modified(later).unwrap();
        differs(weights(&none));
        fs::write(at("x.gguf"), "x").unwrap();
        differs(weights(&WeightOptions { transformer: Some(at("x.gguf")), ..none.clone() }));
        differs(weights(&WeightOptions { text_encoder: Some(at("x.gguf")), ..none.clone() }));
        differs(weights(&WeightOptions { text_encoder_fp8: true, ..none.clone() }));
        differs(weights_of(folder.path(), Some("abc"), &none).unwrap());
        differs(weights_of(folder.path(), Some("abd"), &none).unwrap());
        assert!(weights_of(&at("nowhere"), None, &none).is_err());
    }
}
