//! Lists of addresses or paths, one per line.

use std::path::Path;

use serde_json::json;

use super::{Fields, Row, RowForm, reading::Sink, text};
use crate::job::JobError;

pub fn read(path: &Path, sink: &mut Sink) -> Result<(), JobError> {
    let mut text = text::open(path, "save it as UTF-8")?;
    let (mut line, mut number, mut bytes) = (0_u64, 0, Vec::new());
    loop {
        let read = text::read_line(&mut text, &mut bytes).map_err(|error| text::row_error(path, number + 1, error))?;
        line += 1;
        let trimmed = bytes.trim_ascii();
        let is_row = read == text::Line::TooLong || !(trimmed.is_empty() || trimmed.starts_with(b"#"));
        if !is_row && read == text::Line::Whole {
            continue;
        }
        number += 1;
        let fields = match std::str::from_utf8(trimmed) {
            _ if read == text::Line::End => return Ok(()),
            _ if read == text::Line::TooLong => Err(text::too_long()),
            Ok(address) => Ok(Fields::from_iter([("image".to_owned(), json!(address))])),
            Err(_) => Err(JobError::invalid("row", "is not UTF-8, perhaps Latin-1; save the list as UTF-8")),
        };
        let place = format!("{}:{line} (row {number})", path.display());
        if !sink.push(Row::new(number, place, fields, RowForm::Typed)) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::dataset::reading::collect;

    #[test]
    fn each_line_is_a_picture() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("l.txt");
        std::fs::write(&path, b"\xef\xbb\xbfhttps://h/a.png\r\n\n# note\nb c.png\n\xe9.png\n").unwrap();
        let rows = collect(|sink| read(&path, sink)).unwrap();
        assert_eq!(rows[0].fields.as_ref().unwrap()["image"], "https://h/a.png");
        assert_eq!(rows[1].fields.as_ref().unwrap()["image"], "b c.png");
        assert!(rows[1].place.ends_with("l.txt:4 (row 2)"), "{}", rows[1].place);
        assert!(rows[2].fields.as_ref().unwrap_err().to_string().contains("is not UTF-8"));
    }
}
