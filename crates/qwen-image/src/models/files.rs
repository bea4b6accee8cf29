//! The safetensors files of a component, and their headers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
};

use super::{LoadResult, ModelError, read_json};

/// The files of a component, from the index if there is one. The stem differs between diffusers and transformers.
pub(super) fn find_files(folder: &Path) -> Result<Vec<PathBuf>, ModelError> {
    if !folder.is_dir() {
        return Err(ModelError::invalid(folder, "is missing; the checkpoint is not complete"));
    }
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let forms = forms_in(folder)?;
    if let [one, another, ..] = forms.as_slice() {
        return Err(ModelError::MixedForms { path: folder.to_owned(), forms: [one.clone(), another.clone()] });
    }
    if let Some(path) = forms.into_iter().next().map(|name| folder.join(name)) {
        let is = |kind: &str| path.extension().is_some_and(|extension| extension == kind);
        if is("safetensors") {
            return Ok(vec![path]);
        }
        if is("gguf") {
            let reason = "is GGUF, which a checkpoint's folder does not have; put it elsewhere, and give \
                          it as the file that replaces the transformer's weights (--transformer, or \
                          qwen_image.transformer_path)";
            return Err(ModelError::invalid(path, reason));
        }
        let names: BTreeSet<String> = read_json::<Index>(&path)?.weight_map.into_values().collect();
        if let Some(name) = names.iter().find(|name| !is_plain(name)) {
            return Err(ModelError::invalid(&path, format!("names the shard {name:?}, which is not a file's name")));
        }
        let paths: Vec<_> = names.iter().map(|name| folder.join(name)).collect();
        return match paths.iter().find(|path| !path.is_file()) {
            None => Ok(paths),
            Some(path) => Err(ModelError::invalid(
                path,
                format!("is missing; the index lists {} shards, so the download is not complete", names.len()),
            )),
        };
    }
    let entries = fs::read_dir(folder).map_err(|error| ModelError::invalid(folder, error.to_string()))?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let of = |kinds: &[&str]| {
        let is =
            |path: &&PathBuf| path.extension().is_some_and(|extension| kinds.iter().any(|kind| extension == *kind));
        paths.iter().find(is)
    };
    Err(if let Some(path) = of(&["safetensors"]) {
        let names = WHOLE.join(" or ");
        let reason = format!("has another name than the weights that are read, {names}; a variant must be renamed");
        ModelError::invalid(path, reason)
    } else if let Some(path) = of(&["bin", "pt", "pth", "pkl", "ckpt"]) {
        let reason = "is a pickle, which can run code when it is loaded; convert the checkpoint to safetensors";
        ModelError::invalid(path, reason)
    } else {
        ModelError::invalid(folder, "has no safetensors files; the checkpoint is not complete")
    })
}

/// The names of weights in one file; that of an index of shards ends in `.index.json`.
const WHOLE: [&str; 2] = ["diffusion_pytorch_model.safetensors", "model.safetensors"];

fn is_read(name: &str) -> bool {
    WHOLE.contains(&name.strip_suffix(".index.json").unwrap_or(name))
}

/// Whether it names a file of the same folder.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
}

/// The forms in which a folder holds a component's weights, each represented by one file name: a single file, an index
/// of shards, or GGUF.
fn forms_in(folder: &Path) -> LoadResult<Vec<String>> {
    let entries = fs::read_dir(folder).map_err(|error| ModelError::invalid(folder, error.to_string()))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut forms: Vec<String> = names.filter(|name| is_read(name) || name.ends_with(".gguf")).collect();
    forms.sort();
    Ok(forms)
}

pub(super) type SafetensorsHeader = serde_json::Map<String, serde_json::Value>;

/// Reads a file's header, with the offset at which the tensors start, and compares the file's length with it to detect
/// incomplete downloads.
pub(super) fn read_header_and_start(path: &Path) -> LoadResult<(SafetensorsHeader, u64)> {
    use std::io::Read;
    let fail = |reason: String| ModelError::invalid(path, reason);
    let mut file = fs::File::open(path).map_err(|error| fail(error.to_string()))?;
    let length = file.metadata().map_err(|error| fail(error.to_string()))?.len();
    let mut size = [0; 8];
    let not_safetensors = || fail("is not a safetensors file, or only a part of one".to_owned());
    file.read_exact(&mut size).map_err(|_| not_safetensors())?;
    let header_length = u64::from_le_bytes(size);
    if header_length > 100 << 20 {
        return Err(not_safetensors());
    }
    if header_length + 8 > length {
        return Err(fail("ends inside its header; the download is not complete".to_owned()));
    }
    let mut header = vec![0; header_length as usize];
    file.read_exact(&mut header).map_err(|error| fail(error.to_string()))?;
    let header: SafetensorsHeader = serde_json::from_slice(&header).map_err(|_| not_safetensors())?;
    let end = header.values().filter_map(|tensor| tensor.get("data_offsets")?.get(1)?.as_u64()).max().unwrap_or(0);
    let promised = end.saturating_add(8 + header_length);
    let is_backwards = |name: &str, tensor: &serde_json::Value| {
        let at = |index: usize| tensor.get("data_offsets")?.get(index)?.as_i64();
        (name != "__metadata__").then(|| at(0).zip(at(1)))?.filter(|(first, end)| *first < 0 || end < first)
    };
    let backwards = header.iter().find_map(|(name, tensor)| Some((name, is_backwards(name, tensor)?)));
    if let Some((name, (first, end))) = backwards {
        return Err(fail(format!(
            "tensor `{name}`: begins at byte {first} and ends at byte {end}; the file is damaged"
        )));
    }
    if promised != length {
        return Err(fail(format!("has {length} of {promised} bytes; the download is not complete")));
    }
    Ok((header, 8 + header_length))
}
