//! The safetensors files of a component, and their headers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
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
            let reason = "is GGUF, which is not read from a checkpoint folder; use safetensors";
            return Err(ModelError::invalid(path, reason));
        }
        let names: BTreeSet<String> = read_json::<Index>(&path)?.weight_map.into_values().collect();
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
    let pickle = entries.flatten().map(|entry| entry.path()).find(|path| {
        path.extension()
            .is_some_and(|extension| ["bin", "pt", "pth", "pkl", "ckpt"].iter().any(|kind| extension == *kind))
    });
    match pickle {
        Some(path) => Err(ModelError::invalid(
            path,
            "is a pickle, which can run code when it is loaded; convert the checkpoint to safetensors",
        )),
        None => Err(ModelError::invalid(folder, "has no safetensors files; the checkpoint is not complete")),
    }
}

/// The forms in which a folder holds a component's weights, each represented by one file name: a single file, an index
/// of shards, or GGUF.
fn forms_in(folder: &Path) -> LoadResult<Vec<String>> {
    const NAMES: [&str; 4] = [
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.safetensors.index.json",
        "model.safetensors",
        "model.safetensors.index.json",
    ];
    let entries = fs::read_dir(folder).map_err(|error| ModelError::invalid(folder, error.to_string()))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut forms: Vec<String> =
        names.filter(|name| NAMES.contains(&name.as_str()) || name.ends_with(".gguf")).collect();
    forms.sort();
    Ok(forms)
}

pub(super) type Header = serde_json::Map<String, serde_json::Value>;

/// Reads a file's header, with the offset at which the tensors start, and compares the file's length with it to detect
/// incomplete downloads.
pub(super) fn read_header_and_start(path: &Path) -> LoadResult<(Header, u64)> {
    use std::io::Read;
    let fail = |reason: String| ModelError::invalid(path, reason);
    let mut file = fs::File::open(path).map_err(|error| fail(error.to_string()))?;
    let length = file.metadata().map_err(|error| fail(error.to_string()))?.len();
    let mut size = [0; 8];
    let not_safetensors = || fail("is not a safetensors file; download it again".to_owned());
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
    let header: Header = serde_json::from_slice(&header).map_err(|_| not_safetensors())?;
    let end = header.values().filter_map(|tensor| tensor.get("data_offsets")?.get(1)?.as_u64()).max().unwrap_or(0);
    let promised = 8 + header_length + end;
    if promised != length {
        return Err(fail(format!("has {length} of {promised} bytes; the download is not complete")));
    }
    Ok((header, 8 + header_length))
}
