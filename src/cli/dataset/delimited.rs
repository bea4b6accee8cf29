//! Manifests in CSV, separated by commas, semicolons, tabs or bars.

use std::{io::Read, path::Path};

use csv::StringRecord;
use serde_json::Value;

use super::{Fields, Row, RowForm, columns, reading::Sink, text};
use crate::job::JobError;

const SEPARATORS: [u8; 4] = [b',', b';', b'\t', b'|'];
/// No cell of a table ends like this.
const END: &str = "\u{1}end of the table\u{1}";
const END_ROW: &str = "\n\u{1}end of the table\u{1}\n";
const NOT_CLOSED: &str = "a quote is not closed, so that the rest of the file belongs to one cell; close it, and write a \
                          quote inside of quotes twice";
const SAVE_AS_UTF8: &str = "save it as \"CSV UTF-8\"";

/// A table whose header is read.
struct OpenTable {
    reader: csv::Reader<Box<dyn Read>>,
    header: StringRecord,
    lines: text::RowLines,
    row_start: text::RowStart,
}

fn open(path: &Path, separator: Option<u8>) -> Result<OpenTable, JobError> {
    let wrong = |reason: String| JobError::invalid("--from", format!("{}: {reason}", path.display()));
    let (first, text) = text::peek_line(path, text::open(path, SAVE_AS_UTF8)?)?;
    let (named, text) = without_excels_line(&first, text, path)?;
    let (first, text) = if named.is_some() { text::peek_line(path, text)? } else { (first, text) };
    let separator = separator.or(named).unwrap_or_else(|| separator_of(&first));
    let (text, row_start) = text::RowLimit::of(text);
    let (text, lines) = text::CountedLines::of(text, 1 + u64::from(named.is_some()));
    // A last row of our own, which a quote that is not closed would take in.
    let text: Box<dyn Read> = Box::new(text.chain(END_ROW.as_bytes()));
    let mut reader = csv::ReaderBuilder::new().delimiter(separator).trim(csv::Trim::All).from_reader(text);
    let header = reader.headers().map_err(|error| explain_first(path, error))?.clone();
    if header.iter().any(|name| name.trim_end().ends_with(END)) {
        return match header.len() {
            1 if &header[0] == END => Err(wrong("has no columns; name them in the first line".to_owned())),
            _ => Err(wrong(NOT_CLOSED.to_owned())),
        };
    }
    check_header(&header).map_err(wrong)?;
    Ok(OpenTable { reader, header, lines, row_start })
}

/// The names of the columns; nothing if the file cannot be read, which reading it tells.
pub fn columns(path: &Path, separator: Option<u8>) -> Option<Vec<String>> {
    let header = open(path, separator).ok()?.header;
    Some(header.iter().filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

/// Reads a file. `separator`: absent, the one that the first line has.
pub fn read(path: &Path, separator: Option<u8>, sink: &mut Sink) -> Result<(), JobError> {
    let OpenTable { mut reader, header, lines, row_start } = open(path, separator)?;
    let mut number = 0;
    let mut record = StringRecord::new();
    loop {
        row_start.next_row();
        let read = reader.read_record(&mut record);
        let line = match &read {
            Ok(false) => return Ok(()),
            Ok(true) => record.position(),
            Err(error) => error.position(),
        };
        let line = line.map(|position| lines.of_row(position.byte()));
        if record.len() == 1 && &record[0] == END {
            return Ok(());
        }
        if matches!(read, Ok(true)) && record.iter().all(str::is_empty) {
            // Spreadsheets write empty rows as separators only.
            continue;
        }
        number += 1;
        if record.iter().any(|cell| cell.trim_end().ends_with(END)) {
            let line = line.map_or_else(String::new, |line| format!(":{line}"));
            let reason = format!("{}{line} (row {number}): {NOT_CLOSED}", path.display());
            return Err(JobError::invalid("--from", reason));
        }
        let fields = match read {
            Ok(_) => Ok(cells(&header, &record)),
            Err(error) => match error.into_kind() {
                csv::ErrorKind::Io(error) => return Err(text::row_error(path, number, error)),
                kind => Err(JobError::invalid("row", explain(&kind, &header))),
            },
        };
        let place = match line {
            Some(line) => format!("{}:{line} (row {number})", path.display()),
            None => format!("{}, row {number}", path.display()),
        };
        if !sink.push(Row::new(number, place, fields, RowForm::Texts)) {
            return Ok(());
        }
    }
}

/// Excel's `sep=;` in front of the header.
fn without_excels_line(first: &[u8], mut text: text::Text, path: &Path) -> Result<(Option<u8>, text::Text), JobError> {
    match first.trim_ascii_end() {
        [b's', b'e', b'p', b'=', separator] => {
            let mut line = vec![0; first.len()];
            text.read_exact(&mut line).map_err(|error| text::read_error(path, error))?;
            Ok((Some(*separator), text))
        }
        _ => Ok((None, text)),
    }
}

/// The separator that gives a header with a picture's column, else the most frequent one outside quotes.
fn separator_of(first: &[u8]) -> u8 {
    let count = |separator: u8| {
        let mut quoted = false;
        first
            .iter()
            .filter(|byte| {
                quoted ^= **byte == b'"';
                !quoted && **byte == separator
            })
            .count()
    };
    let has_picture = |separator: u8| {
        let names = first.split(|byte| *byte == separator).map(|name| name.trim_ascii().trim_ascii());
        let plain = |name: &[u8]| String::from_utf8_lossy(name).trim_matches('"').to_owned();
        names.map(plain).any(|name| columns::may_be_a_picture(&name))
    };
    let used = SEPARATORS.into_iter().filter(|separator| count(*separator) > 0);
    let mut used: Vec<_> = used.map(|separator| (has_picture(separator), count(separator), separator)).collect();
    // The first of equals is the most common one.
    used.sort_by_key(|(has_picture, count, _)| std::cmp::Reverse((*has_picture, *count)));
    used.first().map_or(b',', |(_, _, separator)| *separator)
}

fn check_header(header: &StringRecord) -> Result<(), String> {
    if header.iter().all(str::is_empty) {
        return Err("has no columns; name them in the first line".to_owned());
    }
    let mut names: Vec<_> = header.iter().filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("there are two columns `{}`; give them different names", pair[0].escape_debug())),
        None => Ok(()),
    }
}

/// The texts of a row. An empty cell is left out; so is a column without a name, such as pandas' index.
fn cells(header: &StringRecord, record: &StringRecord) -> Fields {
    let named = header.iter().zip(record).filter(|(name, cell)| !name.is_empty() && !cell.is_empty());
    named.map(|(name, cell)| (name.to_owned(), Value::from(cell))).collect()
}

fn explain_first(path: &Path, error: csv::Error) -> JobError {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => text::read_error(path, error),
        csv::ErrorKind::Utf8 { .. } => JobError::invalid(
            "--from",
            format!("{}: the first line is not UTF-8, perhaps Latin-1; {SAVE_AS_UTF8}", path.display()),
        ),
        kind => JobError::invalid("--from", format!("{}: {}", path.display(), explain(&kind, &StringRecord::new()))),
    }
}

/// What is wrong with a row, in terms of its columns.
fn explain(kind: &csv::ErrorKind, header: &StringRecord) -> String {
    match kind {
        csv::ErrorKind::Utf8 { err, .. } => {
            let column = header.get(err.field()).unwrap_or_default();
            format!("the column `{column}` is not UTF-8, perhaps Latin-1; {SAVE_AS_UTF8}")
        }
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => format!(
            "has {}, and the header has {}; put quotes around cells that contain the separator or a line end",
            counted(*len, "cell"),
            counted(*expected_len, "column")
        ),
        other => format!("{other:?}"),
    }
}

fn counted(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::cli::dataset::reading::collect;

    /// The place of a row, and its fields.
    type Found = (String, Result<Fields, String>);

    fn rows(bytes: &[u8]) -> Result<Vec<Found>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.csv");
        std::fs::write(&path, bytes).unwrap();
        let rows = collect(|sink| read(&path, None, sink)).map_err(|error| error.to_string())?;
        let short = |place: &str| place.rsplit('/').next().unwrap().to_owned();
        Ok(rows.into_iter().map(|row| (short(&row.place), row.fields.map_err(|error| error.to_string()))).collect())
    }

    #[test]
    fn separators_are_seen_in_the_first_line() {
        for text in [
            "image,prompt\na.png,\"x; y\"\n",
            "image;prompt\r\na.png;x; y\r\n".replace("x; y", "\"x; y\"").as_str(),
            "image\tprompt\na.png\tx; y\n",
            "image|prompt\na.png|x; y\n",
            "sep=;\r\nimage;prompt\r\na.png;\"x; y\"\r\n",
            "\u{feff}image,prompt\r\na.png,x; y\r\n",
        ] {
            let rows = rows(text.as_bytes()).unwrap();
            let fields = rows[0].1.as_ref().unwrap();
            assert_eq!((&fields["image"], &fields["prompt"]), (&"a.png".into(), &"x; y".into()), "{text:?}");
        }
        // Empty rows do not count, and spreadsheets write some.
        let found = rows(b"image,prompt\n\na.png,x\n,\n ,\nb.png,y\n,,").unwrap();
        let places: Vec<_> = found.iter().map(|row| (row.0.as_str(), row.1.is_ok())).collect();
        assert_eq!(places, [("m.csv:3 (row 1)", true), ("m.csv:6 (row 2)", true), ("m.csv:7 (row 3)", false)]);
        // A caption with commas in the header does not win over the column of pictures.
        assert_eq!(separator_of(b"file_name;\"a, b, c, d\"\n"), b';');
        assert_eq!(separator_of(b"image\n"), b',');
    }

    #[test]
    fn quoted_line_ends_move_the_line_and_not_the_row() {
        let found = rows(b"image,prompt\na.png,\"two\nlines\"\nb.png,x\nc.png\n").unwrap();
        assert_eq!(found[0].1.as_ref().unwrap()["prompt"], "two\nlines");
        assert_eq!((found[1].0.as_str(), found[2].0.as_str()), ("m.csv:4 (row 2)", "m.csv:5 (row 3)"));
        let error = found[2].1.as_ref().unwrap_err();
        assert!(error.contains("has 1 cell, and the header has 2 columns"), "{error}");
    }

    #[test]
    fn lines_are_counted_as_editors_do_whatever_ends_them() {
        // Longer than the reader's buffer, with empty lines and a line end in a cell.
        let text: String =
            (0..5000).map(|n| if n % 7 == 3 { "\n\n".to_owned() } else { format!("{n}.png,\"a\nb\"\n") }).collect();
        let text = format!("image,prompt\n\n{text}");
        for end in ["\n", "\r\n", "\r"] {
            for before in ["", "\u{feff}", "sep=,\n"].into_iter().take(if end == "\r" { 2 } else { 3 }) {
                let text = format!("{before}{text}");
                let found = rows(text.replace('\n', end).as_bytes()).unwrap();
                assert_eq!(found.len(), 5000 - 714);
                let names = text.lines().map(|line| line.split(',').next().unwrap());
                let lines: HashMap<&str, usize> = names.zip(1..).collect();
                for (place, fields) in found {
                    let name = fields.unwrap()["image"].as_str().unwrap().to_owned();
                    let line = lines[name.as_str()];
                    assert!(place.starts_with(&format!("m.csv:{line} (")), "{end:?} {before:?} {name}: {place} {line}");
                }
            }
        }
    }

    #[test]
    fn files_of_other_programs_are_read_or_refused_with_what_was_seen() {
        use std::io::Write;
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gz.write_all("\u{feff}image,prompt\n".as_bytes()).unwrap();
        for number in 0..1000 {
            writeln!(gz, "{number}.png,{:x}", number * 7919 % 1009).unwrap();
        }
        let gz = gz.finish().unwrap();
        assert_eq!(rows(&gz).unwrap().len(), 1000);
        assert!(rows(&gz[..gz.len() / 2]).unwrap_err().contains("ends too early: the file is incomplete"));

        let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        let marked = [&b"\xff\xfe"[..], &utf16("image,prompt\ns3://b/k.png,x\n")].concat();
        for (bytes, wanted) in [
            (&b""[..], "has no columns"),
            (b"image,image\na,b\n", "there are two columns `image`"),
            (b"image,l\xe9gende\ns3://b/k.png,x\n", "the first line is not UTF-8"),
            (&marked, "is UTF-16, which Excel calls \"Unicode text\"; save it as \"CSV UTF-8\""),
            (&utf16("image,prompt\n"), "is UTF-16; save it as"),
            (b"\x28\xb5\x2f\xfdxx", "is compressed with zstd; decompress it first"),
            (b"PK\x03\x04", "Excel workbook"),
            (b"image,prompt\na.png,x\nb.png,\"y\nc.png,z\n", "m.csv:3 (row 2): a quote is not closed"),
            (b"image,prompt\na.png,\"x", "m.csv:2 (row 1): a quote is not closed"),
            (b"image,\"prompt\na.png,x\n", "m.csv: a quote is not closed"),
        ] {
            let error = rows(bytes).unwrap_err();
            assert!(error.contains(wanted), "{:?} gave: {error}", String::from_utf8_lossy(bytes));
        }
        let latin = &rows(b"image,prompt\ns3://b/k.png,caf\xe9\n").unwrap()[0];
        assert_eq!(latin.0, "m.csv:2 (row 1)");
        let error = latin.1.as_ref().unwrap_err();
        assert!(error.contains("row: the column `prompt` is not UTF-8, perhaps Latin-1"), "{error}");
    }
}
