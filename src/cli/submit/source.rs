//! The source of a batch's rows: a manifest, a folder of pictures, or an S3 prefix.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::row::Fields;
use crate::{
    job::JobError,
    store::{InputReader, file_url, io_error},
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

    /// Passes each row to `take`, until it returns false.
    pub async fn each(&self, inputs: &InputReader, mut take: impl FnMut(Row) -> bool) -> Result<(), JobError> {
        match self {
            Self::Jsonl(path) => jsonl(path, &mut take),
            Self::Csv(path) => csv(path, &mut take),
            Self::Folder(path) => listed(inputs, &format!("{}/", file_url(path)), &mut take).await,
            Self::Prefix(url) => listed(inputs, url, &mut take).await,
        }
    }
}

fn jsonl(path: &Path, take: &mut impl FnMut(Row) -> bool) -> Result<(), JobError> {
    let failed = |error: std::io::Error| io_error(path, "read the manifest", error);
    let file = BufReader::new(File::open(path).map_err(failed)?);
    for (index, line) in file.lines().enumerate() {
        let line = line.map_err(failed)?;
        if line.trim().is_empty() {
            continue;
        }
        let fields = serde_json::from_str::<Fields>(&line)
            .map_err(|error| JobError::invalid("row", format!("is not a JSON object: {error}")))
            .and_then(|fields| absolute(fields, path));
        let place = format!("{}:{}", path.display(), index + 1);
        if !take(Row { number: index + 1, place, fields }) {
            break;
        }
    }
    Ok(())
}

fn csv(path: &Path, take: &mut impl FnMut(Row) -> bool) -> Result<(), JobError> {
    let wrong = |error: csv::Error| JobError::invalid("--from", format!("{}: {error}", path.display()));
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(false).from_path(path).map_err(wrong)?;
    let header = reader.headers().map_err(wrong)?.clone();
    for (index, record) in reader.records().enumerate() {
        let line = record.as_ref().ok().and_then(|record| record.position().map(csv::Position::line));
        let fields = record
            .map_err(|error| JobError::invalid("row", error.to_string()))
            .and_then(|record| absolute(cells(&header, &record), path));
        let place = match line {
            Some(line) => format!("{}:{line}", path.display()),
            None => format!("{}, row {}", path.display(), index + 1),
        };
        if !take(Row { number: index + 1, place, fields }) {
            break;
        }
    }
    Ok(())
}

/// An empty cell is left out. Numbers and booleans are parsed as such, except in names and free text; several images
/// are separated by spaces.
fn cells(header: &csv::StringRecord, record: &csv::StringRecord) -> Fields {
    let mut fields = Fields::new();
    for (name, cell) in header.iter().zip(record) {
        if cell.is_empty() {
            continue;
        }
        let text = matches!(name, "image" | "input" | "id" | "output" | "prompt" | "instruction" | "negative_prompt")
            || name.starts_with("label.");
        let value = match name {
            "images" => json!(cell.split_whitespace().collect::<Vec<_>>()),
            _ if text => json!(cell),
            _ => serde_json::from_str::<Value>(cell).unwrap_or_else(|_| json!(cell)),
        };
        fields.insert(name.to_owned(), value);
    }
    fields
}

/// A path without a scheme is relative to the manifest's folder.
fn absolute(mut fields: Fields, manifest: &Path) -> Result<Fields, JobError> {
    let folder = manifest.parent().unwrap_or(Path::new("/"));
    let resolve = |value: &mut Value| -> Result<(), JobError> {
        let Some(text) = value.as_str().filter(|text| !text.contains("://")) else { return Ok(()) };
        let path = folder.join(text);
        let path = path.canonicalize().map_err(|_| JobError::InputNotFound { input: path.display().to_string() })?;
        *value = json!(file_url(&path));
        Ok(())
    };
    let resolve_in = |fields: &mut Fields| -> Result<(), JobError> {
        if let Some(image) = fields.get_mut("image") {
            resolve(image)?;
        }
        if let Some(Value::Array(images)) = fields.get_mut("images") {
            images.iter_mut().try_for_each(resolve)?;
        }
        Ok(())
    };
    resolve_in(&mut fields)?;
    match fields.get_mut("input") {
        Some(Value::Object(input)) => resolve_in(input)?,
        Some(Value::Array(images)) => images.iter_mut().try_for_each(resolve)?,
        Some(one) => resolve(one)?,
        None => {}
    }
    Ok(fields)
}

async fn listed(inputs: &InputReader, url: &str, take: &mut impl FnMut(Row) -> bool) -> Result<(), JobError> {
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
                return Ok(());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(source: &Source) -> Vec<(String, Result<Fields, String>)> {
        let mut rows = Vec::new();
        let mut take = |row: Row| {
            let name = row.place.rsplit('/').next().unwrap_or_default().to_owned();
            rows.push((name, row.fields.map_err(|error| error.to_string())));
            true
        };
        match source {
            Source::Jsonl(path) => jsonl(path, &mut take).unwrap(),
            Source::Csv(path) => csv(path, &mut take).unwrap(),
            other => panic!("{other:?}"),
        }
        rows
    }

    #[test]
    fn manifests_are_read_row_by_row() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        std::fs::write(path.join("a.png"), "").unwrap();
        std::fs::write(
            path.join("m.jsonl"),
            "{\"image\": \"a.png\", \"layers\": 3}\n\n{oops\n{\"image\": \"b.png\"}\n",
        )
        .unwrap();
        std::fs::write(
            path.join("m.csv"),
            "image,prompt,layers,seed,label.x\na.png,\"12, really\",3,,y\ns3://b/k.png,,,7,\n",
        )
        .unwrap();
        let source = Source::parse(&path.join("m.jsonl").display().to_string()).unwrap();
        let found = rows(&source);
        assert_eq!(found[0].1.as_ref().unwrap()["image"], json!(file_url(&path.join("a.png"))));
        assert!(found[1].0 == "m.jsonl:3" && found[1].1.as_ref().unwrap_err().contains("not a JSON object"));
        assert!(found[2].0 == "m.jsonl:4" && found[2].1.as_ref().unwrap_err().contains("b.png: not found"));
        assert_eq!(source.stem(), "m");

        let found = rows(&Source::parse(&path.join("m.csv").display().to_string()).unwrap());
        let first = found[0].1.as_ref().unwrap();
        assert_eq!(
            (&first["prompt"], &first["layers"], &first["label.x"]),
            (&json!("12, really"), &json!(3), &json!("y"))
        );
        assert!(!first.contains_key("seed"));
        assert_eq!(found[1].1.as_ref().unwrap()["seed"], json!(7));
    }

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
