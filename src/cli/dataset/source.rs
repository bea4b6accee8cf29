//! The kinds of sources.

use std::path::{Path, PathBuf};

use super::{
    archive, delimited,
    imagefolder::{self, Contents},
    json, list,
    listed::{self, why_not},
    parquet,
    reading::Sink,
};
use crate::{
    job::JobError,
    store::{InputReader, file_url},
};

#[derive(Debug, Clone, PartialEq)]
pub enum DatasetSource {
    /// One JSON object per line.
    Jsonl(PathBuf),
    /// An array of JSON objects.
    Json(PathBuf),
    /// Separated by whatever its first line shows.
    Csv(PathBuf),
    /// Separated by tabs.
    Tsv(PathBuf),
    /// One address or path per line.
    List(PathBuf),
    Parquet(PathBuf),
    /// An archive in the form of WebDataset.
    Tar(PathBuf),
    /// Pictures, pictures with metadata, or shards.
    Folder(PathBuf),
    Prefix(String),
}

impl DatasetSource {
    pub fn parse(text: &str) -> Result<Self, JobError> {
        if text.starts_with("s3://") {
            return Ok(Self::Prefix(text.to_owned()));
        }
        let path = Path::new(text);
        if text == "-" || path.metadata().is_ok_and(|file| !file.is_file() && !file.is_dir()) {
            let reason = format!("`{text}` is not a file: rows are read more than once; write them to a file first");
            return Err(JobError::invalid("--from", reason));
        }
        let path = path.canonicalize().map_err(|_| JobError::InputNotFound { input: text.to_owned() })?;
        if path.is_dir() {
            return Ok(Self::Folder(path));
        }
        // A link keeps its name, because it may lead to a file that is named by its hash.
        let path = match (Path::new(text).file_name(), Path::new(text).parent()) {
            (Some(name), Some(parent)) => match std::path::absolute(parent).and_then(|parent| parent.canonicalize()) {
                Ok(parent) => parent.join(name),
                Err(_) => path,
            },
            _ => path,
        };
        let kind = Self::of_file(&path);
        kind.ok_or_else(|| {
            let reason = format!(
                "`{text}` is not a folder, an s3:// prefix, a manifest that ends in .jsonl, .json, .csv, .tsv or .txt, \
                 each also with .gz, or a dataset that ends in .parquet or .tar{}",
                match ending(&path).as_str() {
                    "arrow" => "; load_from_disk and to_parquet make Parquet of Arrow files",
                    "zip" | "7z" | "rar" => "; unpack the archive, and name the folder",
                    "xlsx" | "xls" | "ods" => "; save the table as CSV",
                    _ => "",
                }
            );
            JobError::invalid("--from", reason)
        })
    }

    /// The kind of a file, by its name.
    fn of_file(path: &Path) -> Option<Self> {
        let path = path.to_owned();
        Some(match ending(&path).as_str() {
            "jsonl" | "ndjson" => Self::Jsonl(path),
            "json" => Self::Json(path),
            "csv" => Self::Csv(path),
            "tsv" | "tab" => Self::Tsv(path),
            "txt" | "lst" => Self::List(path),
            "parquet" => Self::Parquet(path),
            "tar" | "tgz" => Self::Tar(path),
            _ => return None,
        })
    }

    /// Whether a file of this name has rows.
    pub fn is_file_name(name: &str) -> bool {
        Self::of_file(Path::new(name)).is_some()
    }

    /// The default name of the batch.
    pub fn stem(&self) -> String {
        let name = match self {
            Self::Folder(path) => path.file_name().map(|name| name.to_string_lossy().into_owned()),
            Self::Prefix(url) => url.trim_end_matches('/').rsplit('/').next().map(str::to_owned),
            file => {
                let plain = file.path().map(without_gz).unwrap_or_default();
                Path::new(&plain).file_stem().map(|stem| stem.to_string_lossy().into_owned())
            }
        };
        name.unwrap_or_default()
    }

    /// The address that `{path}` is relative to.
    pub fn below(&self) -> String {
        match self {
            Self::Prefix(url) => url[..url.rfind('/').map_or(0, |slash| slash + 1)].to_owned(),
            _ => self.folder().map_or_else(String::new, |folder| format!("{}/", file_url(folder))),
        }
    }

    /// The folder that paths in rows are relative to.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(path) => Some(path),
            file => file.path().map(|path| path.parent().unwrap_or(Path::new("/"))),
        }
    }

    /// The local file or folder.
    fn path(&self) -> Option<&Path> {
        match self {
            Self::Jsonl(path)
            | Self::Json(path)
            | Self::Csv(path)
            | Self::Tsv(path)
            | Self::List(path)
            | Self::Parquet(path)
            | Self::Tar(path)
            | Self::Folder(path) => Some(path),
            Self::Prefix(_) => None,
        }
    }

    /// Whether a file is one of its own, by whatever name or link.
    pub fn reads(&self, file: &Path) -> Result<bool, JobError> {
        let Some(own) = self.path().filter(|_| file.exists()) else { return Ok(false) };
        if !own.is_dir() {
            return Ok(is_same_file(own, file));
        }
        let contents = Contents::of(own)?;
        let is_picture = || {
            let real = file.canonicalize().ok();
            real.is_some_and(|real| real.strip_prefix(own).is_ok_and(|path| why_not(&path.to_string_lossy()).is_none()))
        };
        Ok(contents.metadata.iter().chain(&contents.shards).any(|known| is_same_file(known, file)) || is_picture())
    }

    /// The names of its columns, if they are known before its rows.
    pub fn columns(&self) -> Option<Vec<String>> {
        match self {
            Self::Csv(path) => delimited::columns(path, None),
            Self::Tsv(path) => delimited::columns(path, Some(b'\t')),
            Self::Parquet(path) => parquet::columns(path),
            Self::Folder(path) => {
                let contents = Contents::of(path).ok()?;
                let files = contents.metadata.iter().chain(&contents.shards);
                let mut columns = Vec::new();
                for file in files {
                    columns.extend(match Self::of_file(file)? {
                        source @ (Self::Csv(_) | Self::Parquet(_)) => source.columns()?,
                        _ => return None,
                    });
                }
                columns.sort();
                columns.dedup();
                (!columns.is_empty()).then_some(columns)
            }
            Self::Jsonl(_) | Self::Json(_) | Self::List(_) | Self::Tar(_) | Self::Prefix(_) => None,
        }
    }

    /// Whether its files have the pictures themselves.
    pub fn has_pictures(&self) -> Result<bool, JobError> {
        Ok(match self {
            Self::Tar(_) => true,
            Self::Parquet(path) => parquet::has_pictures(path),
            Self::Folder(path) => match Contents::of(path)?.shards.first() {
                Some(shard) => ending(shard) != "parquet" || parquet::has_pictures(shard),
                None => false,
            },
            _ => false,
        })
    }

    /// Reads all rows, until no more are wanted.
    pub(super) fn read(&self, inputs: &InputReader, sink: &mut Sink) -> Result<(), JobError> {
        match self {
            Self::Jsonl(_) | Self::Json(_) | Self::Csv(_) | Self::Tsv(_) | Self::List(_) | Self::Parquet(_) => {
                self.read_manifest(sink)
            }
            Self::Tar(path) => archive::read(path, sink).map(drop),
            Self::Folder(path) => {
                let contents = Contents::of(path)?;
                match contents.metadata.is_empty() && contents.shards.is_empty() {
                    true => listed::read(inputs, &format!("{}/", file_url(path)), sink),
                    false => imagefolder::read(&contents, sink),
                }
            }
            Self::Prefix(url) => listed::read(inputs, url, sink),
        }
    }

    /// Reads the rows of a file that has nothing else; the other sources have none of these.
    pub(super) fn read_manifest(&self, sink: &mut Sink) -> Result<(), JobError> {
        match self {
            Self::Jsonl(path) => json::read_lines(path, sink),
            Self::Json(path) => json::read(path, sink),
            Self::Csv(path) => delimited::read(path, None, sink),
            Self::Tsv(path) => delimited::read(path, Some(b'\t'), sink),
            Self::List(path) => list::read(path, sink),
            Self::Parquet(path) => parquet::read(path, sink).map(drop),
            Self::Tar(_) | Self::Folder(_) | Self::Prefix(_) => Ok(()),
        }
    }
}

/// Whether two names are of one file, also by links of both kinds.
fn is_same_file(one: &Path, other: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let identity = |path: &Path| path.metadata().map(|file| (file.dev(), file.ino())).ok();
        identity(one).is_some_and(|identity_of_one| identity(other) == Some(identity_of_one))
    }
    #[cfg(not(unix))]
    {
        one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
    }
}

/// A file's ending in lower case, without `.gz`.
fn ending(path: &Path) -> String {
    let plain = without_gz(path);
    plain.rsplit_once('.').map_or_else(String::new, |(_, ending)| ending.to_ascii_lowercase())
}

/// A file's name without `.gz`.
fn without_gz(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let plain = name.len().checked_sub(3).and_then(|at| name.split_at_checked(at));
    match plain {
        Some((plain, gz)) if gz.eq_ignore_ascii_case(".gz") => plain.to_owned(),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_known_by_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let parse = |name: &str| {
            let file = folder.path().join(name);
            std::fs::write(&file, "").unwrap();
            DatasetSource::parse(&file.display().to_string())
        };
        assert!(parse("list.doc").unwrap_err().to_string().contains(".jsonl, .json, .csv"));
        for (name, advice) in
            [("a.zip", "unpack the archive, and name the folder"), ("a.xlsx", "save the table as CSV")]
        {
            assert!(parse(name).unwrap_err().to_string().ends_with(advice), "{name}");
        }
        for pipe in ["-", "/dev/null"] {
            let error = DatasetSource::parse(pipe).unwrap_err().to_string();
            assert!(error.contains("is not a file: rows are read more than once"), "{error}");
        }
        assert_eq!(DatasetSource::parse("nowhere.csv").unwrap_err().code(), "input_not_found");
        let prefix = DatasetSource::parse("s3://in/posters/2019").unwrap();
        assert_eq!((prefix.stem(), prefix.below()), ("2019".to_owned(), "s3://in/posters/".to_owned()));
        for (name, stem) in [
            ("a.b.CSV.gz", "a.b"),
            ("n.tar.gz", "n"),
            ("urls.txt", "urls"),
            ("p.parquet", "p"),
            ("m.jsonl", "m"),
            ("x.tsv", "x"),
            ("y.json.GZ", "y"),
        ] {
            let source = parse(name).unwrap();
            assert_eq!(source.stem(), stem);
            assert!(source.folder().is_some(), "{source:?}");
        }
    }
}
