//! Folders of a dataset: with files of metadata beside the pictures (Hugging Face's imagefolder), or with shards.

use std::{
    collections::{BTreeMap, HashSet},
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

/// Why Parquet files are left out.
const TABLES: &str = ".parquet about the archives";

/// What is in a folder, without hidden files.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Contents {
    /// `metadata.jsonl`, `metadata.csv` or `metadata.parquet` of the folder, or of folders below it, such as `train`.
    pub metadata: Vec<PathBuf>,
    /// Parquet files and archives, in the order of their names, if they are the dataset.
    pub shards: Vec<PathBuf>,
    /// The pictures by their extension.
    pub pictures: BTreeMap<String, u64>,
    /// Parquet files about the pictures in archives or folders of the same names, as img2dataset writes them.
    pub tables: u64,
}

impl Contents {
    /// Looks through a folder. Metadata comes first; shards come before pictures if there are not more pictures, or if
    /// the pictures are inside: the dataset's page often has some of its own.
    pub fn of(folder: &Path) -> Result<Self, JobError> {
        let mut contents = Self::default();
        let mut folders = vec![folder.to_owned()];
        let mut all_folders = HashSet::new();
        while let Some(next) = folders.pop() {
            let failed = |error| io_error(&next, "list the folder", error);
            let mut metadata = Vec::new();
            for entry in fs::read_dir(&next).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if is_hidden(&name).is_some() {
                    continue;
                }
                if entry.file_type().map_err(failed)?.is_dir() {
                    folders.push(entry.path());
                    all_folders.insert(entry.path());
                } else if matches!(name.as_str(), "metadata.jsonl" | "metadata.csv" | "metadata.parquet") {
                    metadata.push(entry.path());
                } else if is_shard(&name) {
                    contents.shards.push(entry.path());
                } else if why_not(&name).is_none() {
                    let ending = name.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
                    *contents.pictures.entry(format!(".{ending}")).or_default() += 1;
                }
            }
            metadata.sort();
            if let [one, other, ..] = metadata.as_slice() {
                let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let reason = format!(
                    "{} has {} and {}; move one of them away, or name the one that you mean",
                    next.display(),
                    name(one),
                    name(other)
                );
                return Err(JobError::invalid("--from", reason));
            }
            contents.metadata.append(&mut metadata);
        }
        contents.metadata.sort();
        contents.shards.sort();
        contents.leave_out_tables(&all_folders);
        let pictures = contents.pictures.values().sum::<u64>();
        let has_shards = contents.shards.len() as u64 >= pictures
            || contents.shards.first().is_some_and(|shard| parquet::has_image_structs(shard));
        if !contents.metadata.is_empty() || !has_shards {
            contents.shards.clear();
        }
        Ok(contents)
    }
}

impl Contents {
    /// Where a Parquet file is about an archive or a folder of the same name, all without pictures are left out: their
    /// rows are the same pictures again, by their addresses, and those that could not be downloaded.
    fn leave_out_tables(&mut self, folders: &HashSet<PathBuf>) {
        let stem = |path: &Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
            path.with_file_name(name.split('.').next().unwrap_or_default())
        };
        let is_table = |path: &PathBuf| path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("parquet"));
        let archives: HashSet<_> = self.shards.iter().filter(|path| !is_table(path)).map(|path| stem(path)).collect();
        let is_about = |path: &PathBuf| {
            is_table(path) && (archives.contains(&stem(path)) || folders.contains(&path.with_extension("")))
        };
        if self.shards.iter().any(is_about) {
            let before = self.shards.len();
            self.shards.retain(|path| !is_table(path) || !is_about(path) && parquet::has_pictures(path));
            self.tables = (before - self.shards.len()) as u64;
        }
    }
}

fn is_shard(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    [".parquet", ".tar", ".tar.gz", ".tgz"].iter().any(|ending| name.ends_with(ending))
}

/// Reads the rows of metadata or shards, and counts the pictures that are of no row.
pub fn read(contents: &Contents, sink: &mut Sink) -> Result<(), JobError> {
    let Contents { metadata, shards, pictures, tables } = contents;
    if !metadata.is_empty() {
        if read_all(metadata, sink)? {
            let others = pictures.values().sum::<u64>().saturating_sub(sink.named());
            sink.leave_out(|tally| tally.add_all("not in the metadata", others));
        }
        return Ok(());
    }
    sink.leave_out(|tally| tally.add_all(TABLES, *tables));
    for (ending, count) in pictures {
        sink.leave_out(|tally| tally.add_all(ending, *count));
    }
    read_all(shards, sink).map(drop)
}

/// Reads files one after another; their rows are numbered through. Returns false when no more rows are wanted.
fn read_all(files: &[PathBuf], sink: &mut Sink) -> Result<bool, JobError> {
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
    use crate::cli::dataset::parquet::tests::write;

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
        make("banner.PNG");
        let found = Contents::of(root).unwrap();
        assert_eq!((found.shards.len(), found.pictures[".png"]), (3, 1), "one picture is not the dataset");
        for name in ["train/a.png", "train/deep/b.png", "test/c.jpg"] {
            make(name);
        }
        assert!(Contents::of(root).unwrap().shards.is_empty(), "more pictures than shards");
        // Shards with pictures inside come before any number of others.
        write(&shards[0], &[(b"\xff", "a.png", "x")], ::parquet::basic::Compression::SNAPPY);
        assert_eq!(Contents::of(root).unwrap().shards.len(), 3);
        let metadata = [make("test/metadata.csv"), make("train/deep/metadata.jsonl")];
        let found = Contents::of(root).unwrap();
        assert_eq!((found.metadata.as_slice(), found.shards.len()), (metadata.as_slice(), 0));
        make("test/metadata.jsonl");
        let error = Contents::of(root).unwrap_err().to_string();
        assert!(error.contains("test has metadata.csv and metadata.jsonl; move one of them away"), "{error}");
    }
}
