//! Lists a folder or a prefix page by page, so that a million pictures are never in memory at once.

use std::{fs, path::PathBuf};

use super::{
    S3Client,
    blocking::blocking,
    errors::io_error,
    location::S3Location,
    s3::{self, ListedObject},
    url::{file_url, path_of},
};
use crate::job::JobError;

/// The minimum number of files in a page of a folder; S3 chooses its own page size.
const PAGE: usize = 1000;

/// An object or a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub url: String,
    /// Bytes.
    pub size: u64,
}

/// Pages still to come.
#[derive(Debug)]
pub struct Listing {
    rest: Rest,
    skipped: Skipped,
}

/// What a listing left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Objects and files that a job cannot name: with control characters, with a part `.` or `..`, or not in UTF-8.
    pub count: usize,
    /// Some of their keys or names, printable.
    pub examples: Vec<String>,
    /// Links to folders, which may form a cycle.
    pub linked_folders: u64,
    /// Links to nothing, and files that are no files, such as sockets.
    pub unreadable: u64,
}

impl Skipped {
    const EXAMPLES: usize = 3;

    fn add(&mut self, key: &str) {
        self.count += 1;
        if self.examples.len() < Self::EXAMPLES {
            self.examples.push(key.escape_debug().to_string());
        }
    }
}

#[derive(Debug)]
enum Rest {
    /// Folders that have not been listed yet, the next one last.
    Folders(Vec<PathBuf>),
    Prefix {
        client: S3Client,
        folder: S3Location,
        from: Option<String>,
    },
    Nothing,
}

impl Listing {
    pub(super) fn of_folder(path: PathBuf) -> Self {
        Self { rest: Rest::Folders(vec![path]), skipped: Skipped::default() }
    }

    pub(super) fn of_prefix(client: S3Client, folder: S3Location) -> Self {
        Self { rest: Rest::Prefix { client, folder, from: None }, skipped: Skipped::default() }
    }

    /// What the pages so far left out.
    pub fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    /// The next page; none after the last. A page may be empty.
    pub async fn next(&mut self) -> Result<Option<Vec<Listed>>, JobError> {
        match std::mem::replace(&mut self.rest, Rest::Nothing) {
            Rest::Nothing => Ok(None),
            Rest::Folders(folders) if folders.is_empty() => Ok(None),
            Rest::Folders(mut folders) => {
                let mut skipped = std::mem::take(&mut self.skipped);
                let (files, rest, skipped) = blocking(move || {
                    let mut files = Vec::new();
                    while files.len() < PAGE
                        && let Some(folder) = folders.pop()
                    {
                        list_folder(folder, &mut files, &mut folders, &mut skipped)?;
                    }
                    Ok((files, folders, skipped))
                })
                .await?;
                self.skipped = skipped;
                self.rest = Rest::Folders(rest);
                Ok(Some(files))
            }
            Rest::Prefix { client, folder, from } => {
                let page = s3::list_page(&client, &folder, from.as_deref())
                    .await
                    .map_err(|failure| failure.for_input(&folder.to_string(), 0, &client))?;
                if page.next.is_some() {
                    self.rest = Rest::Prefix { client, folder, from: page.next };
                }
                let mut listed = Vec::with_capacity(page.objects.len());
                for ListedObject { location: object, size, .. } in page.objects {
                    let url = object.to_string();
                    match S3Location::parse("input", &url) {
                        Ok(_) => listed.push(Listed { url, size }),
                        Err(_) => self.skipped.add(&object.key),
                    }
                }
                Ok(Some(listed))
            }
        }
    }
}

/// Lists the files of one folder by name, and pushes its folders onto the stack. Links to folders are not followed,
/// because they may form a cycle.
fn list_folder(
    folder: PathBuf,
    files: &mut Vec<Listed>,
    folders: &mut Vec<PathBuf>,
    skipped: &mut Skipped,
) -> Result<(), JobError> {
    let failed = |error: std::io::Error| io_error(&folder, "list the folder", error);
    let mut entries = fs::read_dir(&folder).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    let mut below = Vec::new();
    for entry in entries {
        let path = entry.path();
        if entry.file_type().map_err(failed)?.is_dir() {
            below.push(path);
            continue;
        }
        // A broken link, or a file that was just deleted.
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => {
                let url = file_url(&path);
                match path_of("input", &url) {
                    Ok(_) => files.push(Listed { url, size: metadata.len() }),
                    Err(_) => skipped.add(&entry.file_name().to_string_lossy()),
                }
            }
            Ok(metadata) if metadata.is_dir() => skipped.linked_folders += 1,
            _ => skipped.unreadable += 1,
        }
    }
    folders.extend(below.into_iter().rev());
    Ok(())
}
