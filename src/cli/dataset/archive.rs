//! WebDataset: archives (tar) in which the files of a row follow each other and share their name up to its first dot:
//! `000123.jpg`, `000123.json`, `000123.txt`.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;
use serde_json::{Value, json};
use tar::EntryType;

use super::{
    Fields, Row, RowForm, RowPicture,
    listed::{is_hidden, is_picture},
    nan::value_of,
    reading::Sink,
    text::read_error,
};
use crate::job::JobError;

/// The largest file of a row, in bytes. A larger picture would be refused anyway.
const LARGEST: u64 = 256 << 20;
const BUFFER: usize = 256 << 10;

/// Reads all rows of an archive. Returns false when no more rows are wanted.
pub fn read(path: &Path, sink: &mut Sink) -> Result<bool, JobError> {
    let failed = |error| read_error(path, error);
    let mut file = BufReader::with_capacity(BUFFER, File::open(path).map_err(failed)?);
    let start = file.fill_buf().map_err(failed)?;
    if start.starts_with(b"PK\x03\x04") {
        let reason = format!("{}: is a ZIP archive; unpack it, and name the folder", path.display());
        return Err(JobError::invalid("--from", reason));
    }
    let is_gz = start.starts_with(&[0x1f, 0x8b]);
    let bytes: Box<dyn Read> = if is_gz { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut archive = tar::Archive::new(bytes);
    let mut samples = ArchiveSamples { path, number: 0, current: None };
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(|error| damaged(path, &samples, error))?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
        let left_out = match entry.header().entry_type() {
            EntryType::Directory | EntryType::XGlobalHeader => continue,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => is_hidden(&name),
            // `tar` itself makes hard links of files that have several names.
            EntryType::Link | EntryType::Symlink => Some("links"),
            _ => Some("special files"),
        };
        if let Some(reason) = left_out {
            sink.leave_out(|tally| tally.add(reason));
            continue;
        }
        let (key, kind) = key_of(&name);
        if !samples.begin(key, sink) {
            return Ok(false);
        }
        if !is_wanted(&kind) {
            sink.leave_out(|tally| tally.add(format!(".{kind}")));
            continue;
        }
        let (size, mut bytes) = (entry.size(), Vec::new());
        if size > LARGEST {
            let reason = format!("{size} bytes; at most {LARGEST} are read from an archive");
            samples.fail(JobError::ImageTooLarge { input: name, reason });
            continue;
        }
        entry.read_to_end(&mut bytes).map_err(|error| damaged(path, &samples, error))?;
        if bytes.len() as u64 != size {
            return Err(damaged(path, &samples, std::io::ErrorKind::UnexpectedEof.into()));
        }
        samples.add(name, kind, bytes);
    }
    Ok(samples.end(sink))
}

/// `train/0001` and `jpg` of `train/0001.jpg`.
fn key_of(name: &str) -> (String, String) {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[file..].find('.') {
        Some(dot) => (name[..file + dot].to_owned(), name[file + dot + 1..].to_ascii_lowercase()),
        None => (name.to_owned(), String::new()),
    }
}

fn is_wanted(kind: &str) -> bool {
    let ending = kind.rsplit('.').next().unwrap_or_default();
    is_picture(ending) || matches!(ending, "json" | "txt" | "text" | "caption" | "cls")
}

/// The rows of an archive.
struct ArchiveSamples<'a> {
    path: &'a Path,
    number: u64,
    current: Option<ArchiveSample>,
}

struct ArchiveSample {
    key: String,
    fields: Result<Fields, JobError>,
    pictures: Vec<RowPicture>,
}

impl ArchiveSamples<'_> {
    /// The next file belongs to this row. Returns false when no more rows are wanted.
    fn begin(&mut self, key: String, sink: &mut Sink) -> bool {
        if self.current.as_ref().is_some_and(|current| current.key == key) {
            return true;
        }
        let go_on = self.end(sink);
        let fields = Fields::from_iter([("__key__".to_owned(), json!(key))]);
        self.current = Some(ArchiveSample { key, fields: Ok(fields), pictures: Vec::new() });
        go_on
    }

    fn add(&mut self, name: String, kind: String, bytes: Vec<u8>) {
        let Some(ArchiveSample { fields, pictures, .. }) = &mut self.current else { return };
        let ending = kind.rsplit('.').next().unwrap_or_default();
        if is_picture(ending) {
            pictures.push(RowPicture { column: kind, name, bytes });
            return;
        }
        let Ok(known) = fields else { return };
        match (ending, value_of(&bytes)) {
            ("json", Ok(Value::Object(more))) => known.extend(more),
            ("json", Ok(_)) => *fields = Err(JobError::invalid(name, "is not a JSON object")),
            ("json", Err(error)) => *fields = Err(error.in_request(&name, &name)),
            _ => match std::str::from_utf8(&bytes) {
                Ok(text) => drop(known.insert(kind, json!(text.trim_start_matches('\u{feff}').trim()))),
                Err(_) => *fields = Err(JobError::invalid(name, "is not UTF-8; save it as UTF-8")),
            },
        }
    }

    fn fail(&mut self, error: JobError) {
        if let Some(current) = &mut self.current {
            current.fields = Err(error);
        }
    }

    /// Hands over the current row. One without pictures and without data was made of other files.
    fn end(&mut self, sink: &mut Sink) -> bool {
        let Some(ArchiveSample { key, fields, pictures }) = self.current.take() else { return true };
        if pictures.is_empty() && fields.as_ref().is_ok_and(|fields| fields.len() < 2) {
            return true;
        }
        self.number += 1;
        let place = format!("{}, row {} ({key})", self.path.display(), self.number);
        sink.push(Row { pictures, ..Row::new(self.number, place, fields, RowForm::Archived) })
    }
}

fn damaged(path: &Path, samples: &ArchiveSamples<'_>, error: std::io::Error) -> JobError {
    let place = match &samples.current {
        Some(sample) => format!("at or after {}", sample.key),
        None => "at its beginning".to_owned(),
    };
    // The reader of archives has no kinds of errors.
    let text = error.to_string();
    let incomplete = error.kind() == std::io::ErrorKind::UnexpectedEof || text.contains("failed to read entire block");
    let what = if incomplete { "ends too early" } else { "is damaged" };
    let why = if incomplete { String::new() } else { format!(" ({text})") };
    let reason = format!("{}: {what}, {place}{why}; copy or download it again", path.display());
    JobError::invalid("--from", reason)
}

#[cfg(test)]
pub mod tests {
    use std::io::Write;

    use super::*;
    use crate::cli::dataset::reading::collect;

    /// Writes an archive of these files.
    pub fn write(path: &Path, files: &[(&str, &[u8])]) {
        let mut archive = tar::Builder::new(File::create(path).unwrap());
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            archive.append_data(&mut header, name, *bytes).unwrap();
        }
        archive.into_inner().unwrap();
    }

    const FILES: [(&str, &[u8]); 7] = [
        ("a/0.jpg", b"first"),
        ("a/0.json", b"{\"width\": 3, \"score\": NaN, \"prompt\": \"a cat\"}"),
        ("a/0.txt", b"caption\n"),
        ("a/._1.jpg", b"hidden"),
        ("a/1.png", b"second"),
        ("a/1.npy", b"skipped"),
        ("README.md", b"none"),
    ];

    #[test]
    fn the_files_of_a_row_are_one_row() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.tar");
        write(&path, &FILES);
        let rows = collect(|sink| read(&path, sink).map(drop)).unwrap();
        assert_eq!(rows.len(), 2);
        let wanted = json!({"__key__": "a/0", "width": 3, "score": null, "prompt": "a cat", "txt": "caption"});
        assert_eq!(*rows[0].fields.as_ref().unwrap(), *wanted.as_object().unwrap());
        let picture = RowPicture { column: "jpg".to_owned(), name: "a/0.jpg".to_owned(), bytes: b"first".to_vec() };
        assert_eq!(rows[0].pictures, [picture]);
        assert!(rows[1].place.ends_with("x.tar, row 2 (a/1)"), "{}", rows[1].place);

        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gz.write_all(&std::fs::read(&path).unwrap()).unwrap();
        let packed = gz.finish().unwrap();
        std::fs::write(&path, &packed).unwrap();
        assert_eq!(collect(|sink| read(&path, sink).map(drop)).unwrap().len(), 2);
        std::fs::write(&path, &packed[..packed.len() - 20]).unwrap();
        assert!(collect(|sink| read(&path, sink).map(drop)).is_err());
    }

    #[test]
    fn a_truncated_archive_gives_the_rows_before_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.tar");
        let big = vec![7; 4000];
        write(&path, &[("0.jpg", &big), ("1.jpg", &big), ("2.jpg", &big)]);
        let whole = std::fs::read(&path).unwrap();
        // In the middle of the third file.
        std::fs::write(&path, &whole[..2 * (512 + 4096) + 512 + 100]).unwrap();
        let mut rows = 0;
        let error = collect(|sink| {
            let result = read(&path, sink);
            rows = sink.last();
            result.map(drop)
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains("x.tar: ends too early, at or after 2; copy or download it again"), "{error}");
        assert_eq!(rows, 2);
        std::fs::write(&path, b"PK\x03\x04 and more").unwrap();
        let error = collect(|sink| read(&path, sink).map(drop)).unwrap_err().to_string();
        assert!(error.ends_with("x.tar: is a ZIP archive; unpack it, and name the folder"), "{error}");
        std::fs::write(&path, b"this is no archive, but long enough to be taken for one. ".repeat(20)).unwrap();
        let error = collect(|sink| read(&path, sink).map(drop)).unwrap_err().to_string();
        assert!(error.contains("x.tar: is damaged, at its beginning"), "{error}");
    }
}
