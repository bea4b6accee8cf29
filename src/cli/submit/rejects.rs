//! The rows that were left out with `--skip-invalid`: counts by error code, and a file with what was wrong.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use serde_json::json;

use super::prepare::Refused;
use crate::{
    cli::{dataset::DatasetSource, output},
    job::JobError,
    store::io_error,
};

#[derive(Debug, Default)]
pub struct Rejects {
    file: Option<(PathBuf, BufWriter<File>)>,
    codes: BTreeMap<&'static str, u64>,
    /// What was wrong with the first row.
    pub first: Option<String>,
}

/// Refuses the source itself, which creating the file would empty before it is read.
pub fn check(path: Option<&Path>, source: &DatasetSource) -> Result<(), JobError> {
    match path {
        Some(path) if source.reads(path)? => {
            let reason = format!("{} is a file of the source, which would be lost; give another file", path.display());
            Err(JobError::invalid("--rejects", reason))
        }
        _ => Ok(()),
    }
}

impl Rejects {
    /// Creates the file, if there shall be one.
    pub fn create(path: Option<&Path>) -> Result<Self, JobError> {
        let create = |path: &Path| match File::create(path) {
            Ok(file) => Ok((path.to_owned(), BufWriter::new(file))),
            Err(error) => Err(io_error(path, "create the file of rejected rows", error)),
        };
        Ok(Self { file: path.map(create).transpose()?, ..Self::default() })
    }

    /// Writes one line: the number of the row, where it is, why it was left out, and its columns.
    pub fn add(&mut self, refused: &Refused) -> Result<(), JobError> {
        let Refused { number, place, error, original } = refused;
        *self.codes.entry(error.code()).or_default() += 1;
        self.first.get_or_insert_with(|| format!("{place}: {error}"));
        let Some((path, file)) = &mut self.file else { return Ok(()) };
        let line = json!({
            "row": number, "place": place, "code": error.code(), "error": error.to_string(), "fields": original,
        });
        writeln!(file, "{line}").map_err(|error| io_error(path, "write the rejected rows", error))
    }

    pub fn finish(&mut self) -> Result<(), JobError> {
        match &mut self.file {
            Some((path, file)) => file.flush().map_err(|error| io_error(path, "write the rejected rows", error)),
            None => Ok(()),
        }
    }

    pub fn total(&self) -> u64 {
        self.codes.values().sum()
    }

    /// `left out 3 invalid rows (input_not_found 2, invalid_request 1): rejects.jsonl`.
    pub fn text(&self) -> Option<String> {
        if self.codes.is_empty() {
            return None;
        }
        let codes: Vec<_> = self.codes.iter().map(|(code, rows)| format!("{code} {rows}")).collect();
        let file = match &self.file {
            Some((path, _)) => format!(": {}", path.display()),
            None => "; --rejects FILE lists them".to_owned(),
        };
        Some(format!("left out {} ({}){file}", output::count(self.total(), "invalid row"), codes.join(", ")))
    }
}
