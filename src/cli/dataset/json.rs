//! Manifests in JSON: lines, or one array of objects.

use std::{fmt, io::BufReader, path::Path};

use serde::{
    Deserializer,
    de::{Error as _, SeqAccess, Visitor},
};
use serde_json::Value;

use super::{
    Fields, Row, RowForm,
    nan::{WithoutNan, value_of},
    reading::Sink,
    text,
};
use crate::job::JobError;

const SAVE_AS_UTF8: &str = "save it as UTF-8";

/// Reads one object per line.
pub fn read_lines(path: &Path, sink: &mut Sink) -> Result<(), JobError> {
    let mut text = text::open(path, SAVE_AS_UTF8)?;
    let (mut line, mut number, mut bytes) = (0_u64, 0, Vec::new());
    loop {
        let read = text::read_line(&mut text, &mut bytes).map_err(|error| text::row_error(path, number + 1, error))?;
        line += 1;
        let fields = match read {
            text::Line::End => return Ok(()),
            text::Line::TooLong => Err(text::too_long()),
            text::Line::Whole if bytes.trim_ascii().is_empty() => continue,
            text::Line::Whole => value_of(bytes.trim_ascii_end())
                .map_err(|error| about_the_row(error.in_request("row", "")))
                .and_then(object),
        };
        number += 1;
        let place = format!("{}:{line} (row {number})", path.display());
        if !sink.push(Row::new(number, place, fields, RowForm::Typed)) {
            return Ok(());
        }
    }
}

/// A row is one line of the file, so its first line is no news.
fn about_the_row(error: JobError) -> JobError {
    let JobError::InvalidRequest { field, reason } = error else { return error };
    JobError::InvalidRequest { field, reason: reason.replace(" at line 1 column ", " at column ") }
}

fn object(value: Value) -> Result<Fields, JobError> {
    match value {
        Value::Object(fields) => Ok(fields),
        Value::Array(_) => Err(JobError::invalid("row", "is an array; each row is one JSON object")),
        _ => Err(JobError::invalid("row", "is not a JSON object")),
    }
}

/// Reads an array of objects; also objects one after another, which many programs call JSON, too.
pub fn read(path: &Path, sink: &mut Sink) -> Result<(), JobError> {
    let mut text = text::open(path, SAVE_AS_UTF8)?;
    let failed = |error| text::read_error(path, error);
    loop {
        let start = text.fill_buf().map_err(failed)?;
        let blanks = start.len() - start.trim_ascii_start().len();
        match start.get(blanks) {
            None if start.is_empty() => return Ok(()),
            None => text.consume(blanks),
            Some(b'[') => break,
            Some(_) => {
                let (text, start) = text::RowLimit::of(text);
                let mut rows = JsonRows { path, sink, number: 0, start };
                for value in
                    serde_json::Deserializer::from_reader(WithoutNan::new(BufReader::new(text))).into_iter::<Value>()
                {
                    if !rows.push(value.map_err(|error| not_json(path, error))?) {
                        break;
                    }
                }
                return Ok(());
            }
        }
    }
    let (text, start) = text::RowLimit::of(text);
    let mut rows = JsonRows { path, sink, number: 0, start };
    let mut reader = serde_json::Deserializer::from_reader(WithoutNan::new(BufReader::new(text)));
    match reader.deserialize_seq(&mut rows).and_then(|()| reader.end()) {
        Err(error) if error.to_string().starts_with(ENOUGH) => Ok(()),
        read => read.map_err(|error| not_json(path, error)),
    }
}

/// How a visitor stops in the middle.
const ENOUGH: &str = "enough rows were read";

struct JsonRows<'a> {
    path: &'a Path,
    sink: &'a mut Sink,
    number: u64,
    start: text::RowStart,
}

impl JsonRows<'_> {
    fn push(&mut self, value: Value) -> bool {
        self.number += 1;
        self.start.next_row();
        let place = format!("{}, row {}", self.path.display(), self.number);
        self.sink.push(Row::new(self.number, place, object(whole_numbers(value)), RowForm::Typed))
    }
}

impl<'de> Visitor<'de> for &mut JsonRows<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while let Some(value) = items.next_element()? {
            if !self.push(value) {
                return Err(A::Error::custom(ENOUGH));
            }
        }
        Ok(())
    }
}

/// Writes `7.0` as `7`, which is how pandas writes whole numbers of a column with gaps.
fn whole_numbers(value: Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < LARGEST_EXACT => {
                Value::from(float as i64)
            }
            _ => Value::Number(number),
        },
        Value::Array(items) => items.into_iter().map(whole_numbers).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, field)| (name, whole_numbers(field))).collect(),
        other => other,
    }
}

/// Above this, a float does not tell neighboring whole numbers apart: 2^53.
pub const LARGEST_EXACT: f64 = 9_007_199_254_740_992.0;

fn not_json(path: &Path, error: serde_json::Error) -> JobError {
    match error.io_error_kind() {
        Some(kind) => text::read_error(path, kind.into()),
        None => JobError::invalid("--from", format!("{}: is not valid JSON: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::dataset::reading::collect;

    /// The place of a row, and its fields.
    type Found = (String, Result<Fields, String>);

    fn rows(name: &str, bytes: &[u8]) -> Result<Vec<Found>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let read = |sink: &mut Sink| if name == "m.json" { read(&path, sink) } else { read_lines(&path, sink) };
        let rows = collect(read).map_err(|error| error.to_string())?;
        let short = |place: &str| place.rsplit('/').next().unwrap().to_owned();
        Ok(rows.into_iter().map(|row| (short(&row.place), row.fields.map_err(|error| error.to_string()))).collect())
    }

    #[test]
    fn lines_may_have_a_byte_order_mark_and_errors_are_about_the_row() {
        let text = "\u{feff}{\"image\":\"s3://b/k.png\",\"seed\":7.0}\r\n\n[\"s3://b/k.png\"]\n\
                    {\"image\":\"s3://b/k.png\",\"image\":\"s3://b/l.png\"}\n{oops\n{\"seed\":NaN}\n{\"seed\":7\n";
        let found = rows("m.jsonl", text.as_bytes()).unwrap();
        assert_eq!(found[0].1.as_ref().unwrap()["seed"], 7);
        for (row, place, wanted) in [
            (1, "m.jsonl:3 (row 2)", "row: is an array; each row is one JSON object"),
            (2, "m.jsonl:4 (row 3)", "the field `image` is given twice"),
            (3, "m.jsonl:5 (row 4)", "is not valid JSON: key must be a string at column 2"),
            (5, "m.jsonl:7 (row 6)", "is not valid JSON: EOF while parsing an object at column 9"),
        ] {
            assert_eq!(found[row].0, place);
            let error = found[row].1.as_ref().unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
        assert_eq!(found[4].1.as_ref().unwrap()["seed"], Value::Null);
        let latin = rows("m.jsonl", b"{\"image\":\"s3://b/k\xe9.png\"}\n").unwrap();
        assert!(latin[0].1.as_ref().unwrap_err().contains("is not UTF-8"));
    }

    #[test]
    fn an_array_is_read_row_by_row_and_objects_one_after_another_too() {
        for text in [
            "[\n{\"image\":\"a\"}, {\"image\":\"b\"}\n]",
            "{\"image\":\"a\"}\n{\n\"image\":\"b\"}",
            "\u{feff} \n[{\"image\":\"a\"},{\"image\":\"b\"}]",
        ] {
            let found = rows("m.json", text.as_bytes()).unwrap();
            assert_eq!((found.len(), found[1].0.as_str()), (2, "m.json, row 2"), "{text}");
            assert_eq!(found[1].1.as_ref().unwrap()["image"], "b");
        }
        assert!(rows("m.json", b"").unwrap().is_empty());
        let numbers = rows("m.json", b"[{\"a\": 7.0, \"b\": [7.5, -1.0]}]").unwrap();
        assert_eq!(Value::Object(numbers[0].1.clone().unwrap()).to_string(), "{\"a\":7,\"b\":[7.5,-1]}");
        let missing = rows("m.json", b"[{\"a\": NaN, \"b\": -Infinity}]").unwrap();
        assert_eq!(Value::Object(missing[0].1.clone().unwrap()).to_string(), "{\"a\":null,\"b\":null}");
        assert!(rows("m.json", b"[1]").unwrap()[0].1.as_ref().unwrap_err().contains("is not a JSON object"));
        let error = rows("m.json", b"[{\"a\": 1},\n{\"b\" 2}]").unwrap_err();
        assert!(error.contains("m.json: is not valid JSON: ") && error.contains("at line 2"), "{error}");
        assert!(rows("m.json", b"[{\"a\": 1}").unwrap_err().contains("is not valid JSON: EOF"));
    }
}
