//! The source of a batch's rows: a manifest, a folder of pictures, or an S3 prefix.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::{
    manifest::{csv, jsonl},
    row::Fields,
};
use crate::{
    job::JobError,
    store::{InputReader, Skipped, file_url},
};

/// The extensions of pictures. Decoding checks the content later.
const PICTURES: [&str; 8] = ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff"];

#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    Jsonl(PathBuf),
    Csv(PathBuf),
    Folder(PathBuf),
    Prefix(String),
}

/// A row and its position, for error messages.
pub struct Row {
    pub number: usize,
    pub place: String,
    pub fields: Result<Fields, JobError>,
}

impl Source {
    pub fn parse(text: &str) -> Result<Self, JobError> {
        if text.starts_with("s3://") {
            return Ok(Self::Prefix(text.to_owned()));
        }
        let path = Path::new(text);
        let path = path.canonicalize().map_err(|_| JobError::InputNotFound { input: text.to_owned() })?;
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
        match ending.as_str() {
            _ if path.is_dir() => Ok(Self::Folder(path)),
            "jsonl" | "ndjson" => Ok(Self::Jsonl(path)),
            "csv" => Ok(Self::Csv(path)),
            _ => Err(JobError::invalid(
                "--from",
                format!("`{text}` is not a folder, an s3:// prefix, or a manifest that ends in .jsonl or .csv"),
            )),
        }
    }

    /// The default name of the batch.
    pub fn stem(&self) -> String {
        let name = match self {
            Self::Jsonl(path) | Self::Csv(path) => path.file_stem().map(|stem| stem.to_string_lossy().into_owned()),
            Self::Folder(path) => path.file_name().map(|name| name.to_string_lossy().into_owned()),
            Self::Prefix(url) => url.trim_end_matches('/').rsplit('/').next().map(str::to_owned),
        };
        name.unwrap_or_default()
    }

    /// The address that the inputs' paths are relative to.
    pub fn below(&self) -> String {
        match self {
            Self::Jsonl(path) | Self::Csv(path) => {
                format!("{}/", file_url(path.parent().unwrap_or(Path::new("/"))))
            }
            Self::Folder(path) => format!("{}/", file_url(path)),
            Self::Prefix(url) => url[..url.rfind('/').map_or(0, |slash| slash + 1)].to_owned(),
        }
    }

    /// Passes each row to `take`, until it returns false. Returns what a listing left out.
    pub async fn each(&self, inputs: &InputReader, mut take: impl FnMut(Row) -> bool) -> Result<Skipped, JobError> {
        match self {
            Self::Jsonl(path) => jsonl(path, &mut take).map(|()| Skipped::default()),
            Self::Csv(path) => csv(path, &mut take).map(|()| Skipped::default()),
            Self::Folder(path) => listed(inputs, &format!("{}/", file_url(path)), &mut take).await,
            Self::Prefix(url) => listed(inputs, url, &mut take).await,
        }
    }
}

async fn listed(inputs: &InputReader, url: &str, take: &mut impl FnMut(Row) -> bool) -> Result<Skipped, JobError> {
    let mut pages = inputs.list(url)?;
    let mut number = 0;
    while let Some(page) = pages.next().await? {
        for object in page {
            let ending = object.url.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
            if !PICTURES.contains(&ending.as_str()) {
                continue;
            }
            number += 1;
            let fields = Fields::from_iter([("image".to_owned(), json!(object.url))]);
            if !take(Row { number, place: object.url, fields: Ok(fields) }) {
                return Ok(pages.skipped().clone());
            }
        }
    }
    Ok(pages.skipped().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_sources_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("list.txt");
        std::fs::write(&file, "").unwrap();
        assert!(Source::parse(&file.display().to_string()).unwrap_err().to_string().contains(".jsonl or .csv"));
        assert_eq!(Source::parse("nowhere.csv").unwrap_err().code(), "input_not_found");
        let prefix = Source::parse("s3://in/posters/2019").unwrap();
        assert_eq!((prefix.stem(), prefix.below()), ("2019".to_owned(), "s3://in/posters/".to_owned()));
    }
}
