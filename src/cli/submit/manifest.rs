//! Reads manifests, JSON lines and CSV, row by row, as people and other programs write them.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use serde_json::{Value, json};

use super::{row::Fields, source::Row};
use crate::{
    job::{JobError, value_from_slice},
    store::{file_url, io_error},
};

pub fn jsonl(path: &Path, take: &mut impl FnMut(Row) -> bool) -> Result<(), JobError> {
    let failed = |error: std::io::Error| io_error(path, "read the manifest", error);
    let mut file = open(path, "save it as UTF-8")?;
    let (mut number, mut line) = (0, Vec::new());
    loop {
        line.clear();
        if file.read_until(b'\n', &mut line).map_err(failed)? == 0 {
            return Ok(());
        }
        number += 1;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let fields = value_from_slice(&line)
            .map_err(|error| error.in_request("row", ""))
            .and_then(object)
            .and_then(|fields| has_input(fields.keys().map(String::as_str), "field").map(|()| fields))
            .and_then(|fields| absolute(fields, path));
        let place = format!("{}:{number}", path.display());
        if !take(Row { number, place, fields }) {
            return Ok(());
        }
    }
}

fn object(value: Value) -> Result<Fields, JobError> {
    match value {
        Value::Object(fields) => Ok(fields),
        Value::Array(_) => Err(JobError::invalid("row", "is an array; each line is one JSON object")),
        _ => Err(JobError::invalid("row", "is not a JSON object")),
    }
}

pub fn csv(path: &Path, take: &mut impl FnMut(Row) -> bool) -> Result<(), JobError> {
    let wrong = |reason: String| JobError::invalid("--from", format!("{}: {reason}", path.display()));
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(open(path, SAVE_AS_UTF8)?);
    let header = reader.headers().map_err(|error| wrong(not_utf8(&error, None)))?.clone();
    has_input(header.iter(), "column").map_err(|error| match error {
        JobError::InvalidRequest { reason, .. } => wrong(reason),
        other => other,
    })?;
    for (index, record) in reader.records().enumerate() {
        let line = match &record {
            Ok(record) => record.position().map(csv::Position::line),
            Err(error) => error.position().map(csv::Position::line),
        };
        let fields = record
            .map_err(|error| JobError::invalid("row", not_utf8(&error, Some(&header))))
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

/// Opens a manifest without its byte order mark. A file that is no UTF-8 text is refused with what to do.
fn open(path: &Path, advice: &str) -> Result<BufReader<File>, JobError> {
    let failed = |error: std::io::Error| io_error(path, "read the manifest", error);
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    let start = file.fill_buf().map_err(failed)?;
    let refuse = |what: &str| Err(JobError::invalid("--from", format!("{}: {what}; {advice}", path.display())));
    let text = |byte: u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    match start {
        [0xef, 0xbb, 0xbf, ..] => file.consume(3),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => return refuse("is UTF-16, which Excel calls \"Unicode text\""),
        [0, byte, ..] | [byte, 0, ..] if text(*byte) => return refuse("is UTF-16"),
        [0x1f, 0x8b, ..] => return refuse("is compressed with gzip; decompress it first"),
        [b'P', b'K', 3, 4, ..] => return refuse("is an Excel workbook or another archive"),
        _ => {}
    }
    Ok(file)
}

const SAVE_AS_UTF8: &str = "save it as \"CSV UTF-8\"";

/// A row without a picture cannot be a job; a file of another program has its own names for it.
fn has_input<'a>(names: impl Iterator<Item = &'a str> + Clone, what: &str) -> Result<(), JobError> {
    if names.clone().any(|name| matches!(name, "image" | "images" | "input")) {
        return Ok(());
    }
    let seen: Vec<_> = names.map(|name| format!("`{}`", name.escape_debug())).collect();
    let separator = seen.iter().find_map(|name| {
        if name.contains(';') {
            Some(";")
        } else if name.contains("\\t") {
            Some("tabs")
        } else {
            None
        }
    });
    let advice = match (separator, what) {
        (Some(separator), _) => format!("separate the {what}s with commas instead of {separator}"),
        (None, "column") => "name it in the first line".to_owned(),
        (None, _) => "name it".to_owned(),
    };
    let there = match seen.as_slice() {
        [] => format!("there are no {what}s"),
        [one] => format!("the only {what} is {one}"),
        several => format!("the {what}s are {}", several.join(", ")),
    };
    Err(JobError::invalid("input", format!("there is no {what} `image` (or `images` or `input`); {there}; {advice}")))
}

/// An error of the parser, with the column that is not UTF-8.
fn not_utf8(error: &csv::Error, header: Option<&csv::StringRecord>) -> String {
    let csv::ErrorKind::Utf8 { err, .. } = error.kind() else { return error.to_string() };
    let column = match header.and_then(|header| header.get(err.field())) {
        Some(name) => format!("the column `{name}`"),
        None => "the first line".to_owned(),
    };
    format!("{column} is not UTF-8, perhaps Latin-1; {SAVE_AS_UTF8}")
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
            // `7.0` as well, which is how pandas writes whole numbers of a column with gaps.
            _ => value_from_slice(cell.as_bytes()).unwrap_or_else(|_| json!(cell)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::submit::source::Source;

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
        assert!(
            found[1].0 == "m.jsonl:3"
                && found[1].1.as_ref().unwrap_err().contains("is not valid JSON: key must be a string")
        );
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

    fn csv_error(bytes: &[u8]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.csv");
        std::fs::write(&path, bytes).unwrap();
        let mut rows = Vec::new();
        let read = csv(&path, &mut |row: Row| {
            rows.push(row.fields.map_err(|error| format!("{}: {error}", row.place)));
            true
        });
        match read {
            Err(error) => error.to_string(),
            Ok(()) => rows.into_iter().find_map(Result::err).unwrap_or_default(),
        }
    }

    #[test]
    fn manifests_of_other_programs_are_refused_with_what_was_seen() {
        let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        let marked = [&b"\xff\xfe"[..], &utf16("image,prompt\ns3://b/k.png,x\n")].concat();
        for (bytes, wanted) in [
            (
                &b"image;prompt\ns3://b/k.png;x\n"[..],
                "the only column is `image;prompt`; separate the columns with commas instead of ;",
            ),
            (
                b"image\tprompt\ns3://b/k.png\tx\n",
                "the only column is `image\\tprompt`; separate the columns with commas instead of tabs",
            ),
            (b"file_name,text\na.png,x\n", "the columns are `file_name`, `text`; name it in the first line"),
            (b"", "there are no columns"),
            (
                b"image,prompt\ns3://b/k.png,caf\xe9\n",
                "m.csv:2: row: the column `prompt` is not UTF-8, perhaps Latin-1; save it as \"CSV UTF-8\"",
            ),
            (b"image,l\xe9gende\ns3://b/k.png,x\n", "the first line is not UTF-8"),
            (&marked, "is UTF-16, which Excel calls \"Unicode text\"; save it as \"CSV UTF-8\""),
            (&utf16("image,prompt\n"), "is UTF-16; save it as"),
            (b"\x1f\x8b\x08", "decompress it first"),
            (b"PK\x03\x04", "Excel workbook"),
            (b"image,prompt\ns3://b/k.png\n", "m.csv:2: row: "),
        ] {
            let error = csv_error(bytes);
            assert!(error.contains(wanted), "{:?} gave: {error}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(csv_error(b"\xef\xbb\xbfimage,prompt\r\ns3://b/k.png,x\r\n"), "", "with a byte order mark");
    }

    #[test]
    fn json_lines_may_have_a_byte_order_mark_and_name_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.jsonl");
        let text = "\u{feff}{\"image\":\"s3://b/k.png\",\"seed\":7.0}\r\n{\"file_name\":\"a.png\",\"text\":\"x\"}\n\
                    [\"s3://b/k.png\"]\n{\"image\":\"s3://b/k.png\",\"image\":\"s3://b/l.png\"}\n";
        std::fs::write(&path, text).unwrap();
        let found = rows(&Source::Jsonl(path.clone()));
        assert_eq!(found[0].1.as_ref().unwrap()["seed"], json!(7));
        for (row, wanted) in [
            (1, "the fields are `file_name`, `text`"),
            (2, "row: is an array; each line is one JSON object"),
            (3, "the field `image` is given twice"),
        ] {
            let error = found[row].1.as_ref().unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
        std::fs::write(&path, b"{\"image\":\"s3://b/k\xe9.png\"}\n").unwrap();
        assert!(rows(&Source::Jsonl(path))[0].1.as_ref().unwrap_err().contains("is not UTF-8"));
    }
}
