//! The safetensors files of a component, and their headers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::{DType, Shape};

use super::{LoadResult, ModelError, read_json};
use crate::nn::{Source, Uploader};

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

/// The forms in which a folder holds a component's weights, each by the file that stands for it: one file, an index of
/// shards, GGUF.
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

/// The size of a checkpoint's tensors in this number format, all components together, in bytes.
pub fn checkpoint_bytes(folder: &Path, dtype: DType) -> LoadResult<u64> {
    let mut elements = 0;
    for component in ["text_encoder", "transformer", "vae"] {
        for path in find_files(&folder.join(component))? {
            elements += read_header(&path)?.values().filter_map(elements_of).sum::<u64>();
        }
    }
    Ok(elements * dtype.size_in_bytes() as u64)
}

pub(super) fn elements_of(tensor: &serde_json::Value) -> Option<u64> {
    tensor.get("shape")?.as_array()?.iter().map(serde_json::Value::as_u64).product()
}

/// Reads a file's header, and compares the file's length with it to detect incomplete downloads.
pub(super) fn read_header(path: &Path) -> LoadResult<Header> {
    Ok(read_header_and_start(path)?.0)
}

type Header = serde_json::Map<String, serde_json::Value>;

/// The same, with the offset at which the tensors start.
fn read_header_and_start(path: &Path) -> LoadResult<(Header, u64)> {
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

/// The tensors of these files that can be uploaded, in the order in which a model is built; numbers in names are
/// compared as numbers.
pub(super) fn sources(paths: &[PathBuf]) -> LoadResult<Vec<(String, Source)>> {
    #[derive(serde::Deserialize)]
    struct Entry {
        dtype: String,
        shape: Vec<usize>,
        data_offsets: [u64; 2],
    }
    let mut found = Vec::new();
    for path in paths {
        let fail = |error: &dyn std::fmt::Display| ModelError::invalid(path, error.to_string());
        let (header, start) = read_header_and_start(path)?;
        let file = Arc::new(fs::File::open(path).map_err(|error| fail(&error))?);
        for (name, value) in header {
            if name == "__metadata__" {
                continue;
            }
            let entry: Entry = serde_json::from_value(value).map_err(|error| fail(&error))?;
            let Some(dtype) = dtype_of(&entry.dtype).filter(|dtype| Uploader::takes(*dtype)) else { continue };
            let offset = start + entry.data_offsets[0];
            let source =
                Source { file: file.clone(), path: path.clone(), offset, shape: Shape::from(entry.shape), dtype };
            if entry.data_offsets[1] - entry.data_offsets[0] != source.bytes() as u64 {
                return Err(fail(&format!("the size of tensor `{name}` does not match its shape")));
            }
            found.push((name, source));
        }
    }
    found.sort_by_cached_key(|(name, _)| natural_key(name));
    Ok(found)
}

fn dtype_of(name: &str) -> Option<DType> {
    Some(match name {
        "F32" => DType::F32,
        "BF16" => DType::BF16,
        "U8" => DType::U8,
        "U32" => DType::U32,
        "F8_E4M3" => DType::F8E4M3,
        _ => return None,
    })
}

/// Sorts `blocks.9` before `blocks.10`.
fn natural_key(name: &str) -> Vec<(usize, String)> {
    let part = |part: &str| (part.parse().unwrap_or(usize::MAX), part.to_owned());
    name.split('.').map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_in_the_order_of_their_numbers() {
        let mut names = ["b.10.x", "b.9.y", "a", "b.9.x"];
        names.sort_by_key(|name| natural_key(name));
        assert_eq!(names, ["a", "b.9.x", "b.9.y", "b.10.x"]);
    }
}
