//! Datasets of the Hugging Face hub: `hf://datasets/ORG/NAME`, downloaded into the cache of its own tools.

use std::{
    collections::HashSet,
    path::{Component, Path, PathBuf},
};

use qwen_image::hub::{DatasetRef, HubConfig, resolve_dataset};
use serde_json::Value;

use super::{
    DatasetSource,
    listed::{is_hidden, is_picture},
    reading::for_each,
};
use crate::{
    cli::{
        Failure,
        download_bar::download_bar,
        global::{GlobalArgs, ProgressStyle},
    },
    job::JobError,
};

const PREFIX: &str = "hf://datasets/";
/// What a dataset's rows are in, besides pictures.
const DATA: [&str; 9] = [".parquet", ".tar", ".tar.gz", ".tgz", ".jsonl", ".csv", ".tsv", ".jsonl.gz", ".csv.gz"];

pub fn is_on_hub(text: &str) -> bool {
    text.starts_with("hf://")
}

/// Downloads what is missing; returns the folder, or the file that the address names. With a manifest come the files
/// that it names.
pub fn pull(global: &GlobalArgs, config: &HubConfig, address: &str) -> Result<PathBuf, Failure> {
    let Some(name) = address.strip_prefix(PREFIX) else {
        let reason = format!("`{address}` is not a dataset of the hub; write {PREFIX}ORG/NAME");
        return Err(JobError::invalid("--from", reason).into());
    };
    let dataset = DatasetRef::parse(name).map_err(JobError::from)?;
    let mut bar = download_bar(global.progress_style() == ProgressStyle::Bar, || false);
    let path = dataset.path.as_str();
    let is_named = |file: &str| file == path && DatasetSource::is_file_name(file);
    let snapshot =
        resolve_dataset(config, &dataset, &|file| is_named(file) || is_data(file), &mut bar).map_err(JobError::from)?;
    if path.is_empty() {
        return Ok(snapshot.folder);
    }
    let place = snapshot.folder.join(path);
    let named = if place.is_file() { named_by(&place, path)? } else { HashSet::new() };
    if !named.is_empty() {
        // Of the same commit, although the branch may have moved on.
        let revision = snapshot.revision.clone().unwrap_or_else(|| dataset.revision.clone());
        let whole = DatasetRef { path: String::new(), revision, ..dataset.clone() };
        let wanted = |file: &str| file == path || named.contains(file);
        resolve_dataset(config, &whole, &wanted, &mut bar).map_err(JobError::from)?;
    }
    Ok(place)
}

fn is_data(path: &str) -> bool {
    let name = path.to_ascii_lowercase();
    let ending = name.rsplit('.').next().unwrap_or_default();
    is_hidden(path).is_none() && (is_picture(ending) || DATA.iter().any(|data| name.ends_with(data)))
}

/// What may be a file of the dataset in the rows of a manifest at `path`. Wrong rows are told when they are submitted.
fn named_by(file: &Path, path: &str) -> Result<HashSet<String>, JobError> {
    let source = DatasetSource::parse(&file.display().to_string())?;
    let mut named = HashSet::new();
    if source.has_pictures()? {
        return Ok(named);
    }
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let read = for_each(
        |sink| source.read_manifest(sink),
        |row| row.fields.iter().flat_map(|fields| fields.values()).for_each(|value| add(value, folder, &mut named)),
    );
    // Damage is told when the rows are submitted, too.
    Ok(read.map_or_else(|_| HashSet::new(), |()| named))
}

/// Adds the texts of a value, as paths in the dataset.
fn add(value: &Value, folder: &str, named: &mut HashSet<String>) {
    match value {
        Value::String(text) => named.extend(inside(folder, text)),
        Value::Array(items) => items.iter().for_each(|item| add(item, folder, named)),
        Value::Object(fields) => fields.values().for_each(|field| add(field, folder, named)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A path that is relative to a folder of the dataset, as the hub lists it; nothing if it leads out of it.
fn inside(folder: &str, text: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in Path::new(text).components() {
        match part {
            Component::Normal(name) => parts.push(name.to_str()?),
            Component::CurDir => {}
            Component::ParentDir => drop(parts.pop()?),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/")).filter(|path| !path.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_manifest_are_paths_of_the_dataset() {
        for (folder, text, path) in [
            ("sub", "a.png", Some("sub/a.png")),
            ("", "./x/a.png", Some("x/a.png")),
            ("sub/deep", "../b.png", Some("sub/b.png")),
            ("sub", "../../b.png", None),
            ("sub", "/etc/passwd", None),
        ] {
            assert_eq!(inside(folder, text).as_deref(), path, "{folder} {text}");
        }
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("m.csv", "image,text\na.png,first\n../b.png,second\n"),
            ("m.tsv", "image\ttext\na.png\tx\n../b.png\ty\n"),
            ("m.txt", "a.png\n../b.png\n"),
            ("m.ndjson", "{\"images\": [\"a.png\", \"../b.png\"]}\n"),
            ("m.json", "[{\"input\": {\"image\": \"a.png\", \"mask\": \"../b.png\"}}]"),
        ] {
            let file = folder.path().join(name);
            std::fs::write(&file, text).unwrap();
            let named = named_by(&file, &format!("sub/{name}")).unwrap();
            assert!(named.contains("sub/a.png") && named.contains("b.png"), "{name}: {named:?}");
        }
    }
}
