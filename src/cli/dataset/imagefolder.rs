//! Folders of a dataset: with files of metadata beside the pictures (Hugging Face's imagefolder), or with shards.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    archive, delimited, json,
    listed::{is_hidden, why_not},
    parquet,
    reading::Sink,
};
use crate::{job::JobError, store::io_error};

/// What a folder has instead of pictures only.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Contents {
    /// `metadata.jsonl` or `metadata.csv` of the folder, or of folders below it, such as `train`.
    pub metadata: Vec<PathBuf>,
    /// Parquet files and archives, in the order of their names, if there are no pictures.
    pub shards: Vec<PathBuf>,
}

impl Contents {
    /// Looks through a folder; where there are pictures, not into the folders below its own.
    pub fn of(folder: &Path) -> Result<Self, JobError> {
        let mut contents = Self::default();
        let mut folders = vec![folder.to_owned()];
        let mut pictures = false;
        while let Some(next) = folders.pop() {
            let failed = |error| io_error(&next, "list the folder", error);
            let mut below = Vec::new();
            for entry in fs::read_dir(&next).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if is_hidden(&name).is_some() {
                    continue;
                }
                if entry.file_type().map_err(failed)?.is_dir() {
                    below.push(entry.path());
                } else if matches!(name.as_str(), "metadata.jsonl" | "metadata.csv" | "metadata.parquet") {
                    contents.metadata.push(entry.path());
                } else if is_shard(&name) {
                    contents.shards.push(entry.path());
                } else if why_not(&name).is_none() {
                    pictures = true;
                }
            }
            // Metadata is at the top, or in the folders of the splits.
            let depth = next.strip_prefix(folder).map_or(0, |below| below.components().count());
            if !pictures || depth == 0 {
                folders.extend(below);
            }
        }
        contents.metadata.sort();
        contents.shards.sort();
        if pictures || !contents.metadata.is_empty() {
            contents.shards.clear();
        }
        Ok(contents)
    }
}

fn is_shard(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    [".parquet", ".tar", ".tar.gz", ".tgz"].iter().any(|ending| name.ends_with(ending))
}

/// Reads files one after another; their rows are numbered through. Returns false when no more rows are wanted.
pub fn read_all(files: &[PathBuf], sink: &mut Sink) -> Result<bool, JobError> {
    for path in files {
        sink.next_file(path.parent());
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let go_on = match name.rsplit('.').next() {
            Some("parquet") => parquet::read(path, sink)?,
            Some("jsonl") => json::read_lines(path, sink).map(|()| true)?,
            Some("csv") => delimited::read(path, None, sink).map(|()| true)?,
            _ => archive::read(path, sink)?,
        };
        if !go_on || sink.is_closed() {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_metadata_or_shards_or_pictures() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let make = |name: &str| {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            path
        };
        let shards = [make("data/train-00000.parquet"), make("data/train-00001.parquet"), make("x.TAR.gz")];
        make(".cache/y.tar");
        let found = Contents::of(root).unwrap();
        assert_eq!(found.shards.len(), 3);
        assert!(found.metadata.is_empty() && shards.iter().all(|shard| found.shards.contains(shard)), "{found:?}");
        let picture = make("train/a.png");
        assert_eq!(Contents::of(root).unwrap(), Contents::default(), "pictures come before shards");
        let metadata = make("train/metadata.jsonl");
        assert_eq!(Contents::of(root).unwrap().metadata, [metadata]);
        fs::remove_file(picture).unwrap();
        assert!(Contents::of(root).unwrap().shards.is_empty());
    }
}
