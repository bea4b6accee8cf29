//! A file that a command writes where its user says: what it may replace, and how it is written.

use std::{
    fs,
    io::{self, BufWriter},
    path::Path,
};

use tempfile::NamedTempFile;

use crate::{image, job::JobError, store::io_error};

/// A file that is written beside its place, and renamed when it is complete.
pub type UnfinishedFile = BufWriter<NamedTempFile>;

#[derive(Debug, Clone, Copy)]
pub struct OutFile<'a> {
    /// The flag that names it: `--out`.
    pub flag: &'static str,
    pub path: &'a Path,
    pub replaces: Replaceable,
}

/// Which files may be replaced. Links, pipes and devices never are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaceable {
    Nothing,
    /// The sheets that acetate has written.
    Sheets,
    All,
}

impl OutFile<'_> {
    /// Refuses a path where something is that is not replaced. Runs before any work.
    pub fn check(&self) -> Result<(), JobError> {
        let path = self.path.display();
        if self.path.is_dir() {
            return self.refuse(format!("{path} is a folder; give the name of a file"));
        }
        self.check_kind()?;
        if !self.path.exists() {
            return Ok(());
        }
        match self.replaces {
            Replaceable::Nothing => self.refuse(format!("{path} exists; give another name, or --force to replace it")),
            Replaceable::Sheets if !is_sheet(self.path) => self.refuse(format!(
                "{path} exists and is not an earlier sheet; give another name, or --force to replace it"
            )),
            Replaceable::Sheets | Replaceable::All => Ok(()),
        }
    }

    pub fn check_folder(&self) -> Result<(), JobError> {
        let folder = folder_of(self.path);
        if folder.is_dir() {
            return Ok(());
        }
        self.refuse(format!("there is no folder {} to write to; create it first", folder.display()))
    }

    /// Writes a temporary file and renames it, so that the file is complete or absent; returns its size in bytes.
    /// `action` is for messages: `write the export`.
    pub fn write(
        &self,
        action: &str,
        fill: impl FnOnce(UnfinishedFile) -> Result<UnfinishedFile, JobError>,
    ) -> Result<u64, JobError> {
        let failed = |error: io::Error| io_error(self.path, action, error);
        self.check_kind()?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(".acetate-").suffix(".part");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let file = builder.tempfile_in(folder_of(self.path)).map_err(failed)?;
        let file = fill(BufWriter::new(file))?.into_inner().map_err(|error| failed(error.into_error()))?;
        let size = file.as_file().metadata().map_err(failed)?.len();
        file.persist(self.path).map_err(|error| failed(error.error))?;
        Ok(size)
    }

    /// Refuses what a rename must not replace.
    fn check_kind(&self) -> Result<(), JobError> {
        let Ok(metadata) = fs::symlink_metadata(self.path) else { return Ok(()) };
        let kind = metadata.file_type();
        let what = if kind.is_file() {
            return Ok(());
        } else if kind.is_symlink() {
            "a link"
        } else if kind.is_dir() {
            "a folder"
        } else {
            "a pipe, a socket or a device"
        };
        let path = self.path.display();
        self.refuse(format!("{path} is {what}, which is never replaced; give the name of a file"))
    }

    fn refuse(&self, reason: String) -> Result<(), JobError> {
        Err(JobError::invalid(self.flag, reason))
    }
}

/// Refuses `-` as the name of a folder for results, which are several files.
pub fn check_out_folder(path: &Path) -> Result<(), JobError> {
    if path.as_os_str() != "-" {
        return Ok(());
    }
    let reason = "- is standard output, but a result is several files; give a folder (./- if that is its name)";
    Err(JobError::invalid("--out", reason))
}

/// False also for a file that cannot be read.
fn is_sheet(path: &Path) -> bool {
    use io::Read;
    let mut head = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(image::SHEET_HEAD).read_to_end(&mut head));
    read.is_ok() && image::is_sheet(&head)
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
