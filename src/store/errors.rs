//! Maps file errors to job errors, with messages and the class that decides about a retry.

use std::{
    io::{Error, ErrorKind},
    path::Path,
};

use crate::job::JobError;

/// For files that acetate writes or keeps. `action` completes "cannot ...".
pub fn io_error(path: &Path, action: &str, error: &Error) -> JobError {
    let path = path.display().to_string();
    let reason = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => return JobError::DiskFull { path },
        ErrorKind::PermissionDenied => {
            format!("cannot {action}: permission denied; choose a folder that you can write to")
        }
        ErrorKind::ReadOnlyFilesystem => format!("cannot {action}: the file system is read-only"),
        ErrorKind::NotADirectory => format!("cannot {action}: part of the path is a file, not a folder"),
        _ => format!("cannot {action}: {error}"),
    };
    JobError::Storage { path, reason }
}

/// For pictures from the submitter, who can correct a wrong path.
pub(super) fn input_error(input: &str, error: &Error) -> JobError {
    let input = input.to_owned();
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => JobError::InputNotFound { input },
        ErrorKind::PermissionDenied => {
            JobError::InputForbidden { input, reason: "permission denied; make the file readable".to_owned() }
        }
        _ => JobError::Storage { path: input, reason: format!("cannot read it: {error}") },
    }
}
