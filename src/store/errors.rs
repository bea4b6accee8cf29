//! Maps file errors to job errors, with messages and the class that decides about a retry.

use std::{
    io::{Error, ErrorKind},
    path::Path,
};

use crate::job::JobError;

/// For files that acetate writes or keeps. `action` completes "cannot ...".
pub fn io_error(path: &Path, action: &str, error: Error) -> JobError {
    let path = path.display().to_string();
    let reason = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => return JobError::DiskFull { path },
        ErrorKind::PermissionDenied => {
            format!("cannot {action}: permission denied; choose a folder that you can write to")
        }
        // It stays too long, however often it is tried.
        ErrorKind::InvalidFilename => {
            let reason = format!("cannot {action}: it, or a name in it, is too long for the file system; shorten it");
            return JobError::invalid(path, reason);
        }
        ErrorKind::ReadOnlyFilesystem => format!("cannot {action}: the file system is read-only"),
        ErrorKind::NotADirectory => format!("cannot {action}: part of the path is a file, not a folder"),
        _ => format!("cannot {action}: {error}"),
    };
    JobError::storage(path, reason).caused_by(error)
}

/// For pictures from the submitter, who can correct a wrong path.
pub(super) fn input_error(input: &str, error: Error) -> JobError {
    let input = input.to_owned();
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => JobError::InputNotFound { input },
        ErrorKind::PermissionDenied => {
            JobError::InputForbidden { input, reason: "permission denied; make the file readable".to_owned() }
        }
        ErrorKind::InvalidFilename => JobError::invalid("input", "has a name that is too long for the file system"),
        _ => JobError::input_unreachable(input, format!("cannot read it: {error}")).caused_by(error),
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;
    use crate::job::Cause;

    #[test]
    fn the_systems_own_error_stays_behind_the_words() {
        let io = || Error::new(ErrorKind::ReadOnlyFilesystem, "erofs");
        for error in [io_error(Path::new("/x"), "write", io()), input_error("/x", Error::other("bus"))] {
            let cause = error.source().and_then(|cause| cause.downcast_ref::<Cause>()).unwrap();
            assert!(cause.downcast_ref::<Error>().is_some(), "{error:?}");
        }
        // Causes are for programs: two errors with the same message are equal.
        let other = io_error(Path::new("/x"), "write", Error::from(ErrorKind::ReadOnlyFilesystem));
        assert_eq!(io_error(Path::new("/x"), "write", io()), other);
    }
}
