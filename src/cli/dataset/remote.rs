//! Manifests behind an address: `https://` or `s3://`. They are copied here first.

use std::{fs, path::Path};

use super::{DatasetSource, ShownAs};
use crate::{
    job::JobError,
    store::{InputReader, io_error},
};

/// The largest manifest that is downloaded, in bytes.
const LARGEST: u64 = 1 << 30;

/// A copy of a manifest, which is deleted with it.
#[derive(Debug)]
pub struct Fetched {
    pub source: DatasetSource,
    /// Where its relative paths start, with a `/` at its end.
    pub base: String,
    pub shown: ShownAs,
    _folder: tempfile::TempDir,
}

/// Copies a manifest here; nothing if the text is a local path, a folder or a prefix.
pub async fn fetch(inputs: &InputReader, text: &str) -> Result<Option<Fetched>, JobError> {
    let is_web = text.starts_with("https://") || text.starts_with("http://");
    let path = if is_web { text.split(['?', '#']).next().unwrap_or_default() } else { text };
    let name = path.rsplit('/').next().unwrap_or_default();
    if !(is_web || text.starts_with("s3://") && DatasetSource::is_file_name(name)) {
        return Ok(None);
    }
    if !DatasetSource::is_file_name(name) {
        let reason = format!("`{path}` is not a manifest; its name has to end in .jsonl, .json, .csv, .tsv or .txt");
        return Err(JobError::invalid("--from", reason));
    }
    let bytes = inputs.read(text, LARGEST).await?;
    let here = Path::new("temporary files");
    let folder = tempfile::tempdir().map_err(|error| io_error(here, "create a folder", error))?;
    let file = folder.path().join(name);
    fs::write(&file, bytes).map_err(|error| io_error(&file, "write the manifest", error))?;
    let source = DatasetSource::parse(&file.display().to_string())?;
    let base = path[..path.len() - name.len()].to_owned();
    let copy = source.folder().unwrap_or(folder.path()).join(name).display().to_string();
    let shown = ShownAs { copy, address: path.to_owned() };
    Ok(Some(Fetched { source, base, shown, _folder: folder }))
}
