//! Manifests behind an address: `https://` or `s3://`. They are copied here first.

use std::{fs, io::ErrorKind, path::Path, time::Duration};

use super::{DatasetSource, ShownAs};
use crate::{
    cli::output,
    job::JobError,
    store::{InputReader, io_error},
};

/// The largest manifest that is downloaded, in bytes.
const LARGEST: u64 = 1 << 30;
/// How often it is tried.
const TRIES: u32 = 4;
/// A server that wants to be left alone for longer is not waited for.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);

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
    let bytes = download(inputs, text).await?;
    if is_web && is_page(&bytes) {
        let reason =
            format!("`{path}` is a web page, not a manifest; it may need a login, or the raw file has another address");
        return Err(JobError::invalid("--from", reason));
    }
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

/// Reads the manifest from its beginning until its end arrives, so that it never consists of two versions.
async fn download(inputs: &InputReader, url: &str) -> Result<Vec<u8>, JobError> {
    let mut tried = 0;
    loop {
        tried += 1;
        let error = match inputs.read(url, LARGEST).await {
            Err(JobError::ImageTooLarge { input, .. }) => {
                let reason = format!("{input} has more than {} GiB; download it and name the file", LARGEST >> 30);
                return Err(JobError::invalid("--from", reason));
            }
            Err(error) => error,
            read => return read,
        };
        match pause_before_next(&error, tried) {
            Some(pause) => {
                output::error(&format!("{error}; trying again in {} s", pause.as_secs_f64().ceil()));
                tokio::time::sleep(pause).await;
            }
            None => return Err(error),
        }
    }
}

/// How long to wait if the next try may succeed: the server says so, or the connection was cut.
fn pause_before_next(error: &JobError, tried: u32) -> Option<Duration> {
    let JobError::InputUnreachable { source, .. } = error else { return None };
    let cause = source.as_ref().and_then(|cause| cause.downcast_ref::<std::io::Error>());
    let was_cut = cause.is_some_and(|error| {
        use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
    });
    let pause = error.asked_to_wait().or(was_cut.then_some(Duration::from_secs(1)))?;
    (tried < TRIES && pause <= LONGEST_PAUSE).then_some(pause)
}

/// Servers answer with a page where a login is needed.
fn is_page(bytes: &[u8]) -> bool {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    let begins = |tag: &[u8]| text.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag));
    begins(b"<!doctype html") || begins(b"<html")
}
