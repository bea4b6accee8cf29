//! Maps file errors to job errors, with messages and the class that decides about a retry.

use std::{
    io::{Error, ErrorKind},
    path::Path,
};

use crate::job::JobError;

/// What is wrong with a path, in the only place that decides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PathFault {
    Missing,
    /// Something other than a folder is where a folder must be.
    NotAFolder,
    /// A folder is where a file must be.
    IsAFolder,
    /// Symbolic links that lead to each other.
    Loop,
    TooLong,
    /// The file system has no such names, for instance with a NUL character.
    BadName,
    Denied,
    ReadOnly,
    Full,
    /// The path may be right: a disk or a server that does not answer.
    Away,
}

/// On Linux, and on macOS and the BSDs.
const ELOOP: i32 = if cfg!(target_os = "linux") { 40 } else { 62 };

impl PathFault {
    fn of(error: &Error) -> Self {
        // The standard library has no stable name for it.
        if cfg!(unix) && error.raw_os_error() == Some(ELOOP) {
            return Self::Loop;
        }
        match error.kind() {
            ErrorKind::NotFound => Self::Missing,
            // A folder was to be made where something else is, such as a pipe.
            ErrorKind::NotADirectory | ErrorKind::AlreadyExists => Self::NotAFolder,
            ErrorKind::IsADirectory => Self::IsAFolder,
            ErrorKind::InvalidFilename => Self::TooLong,
            ErrorKind::InvalidInput => Self::BadName,
            ErrorKind::PermissionDenied => Self::Denied,
            ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => Self::Full,
            // The standard library's list may grow.
            _ => Self::Away,
        }
    }

    /// What is wrong and what to change, for a path that stays wrong however often it is tried.
    fn lasting(self) -> Option<&'static str> {
        match self {
            Self::NotAFolder => Some("part of the path is not a folder but a file, a pipe or a socket; name a folder"),
            Self::IsAFolder => Some("it is a folder, not a file; choose another name or move the folder away"),
            Self::Loop => Some("its symbolic links lead in a circle; correct them or choose another path"),
            Self::TooLong => Some("it, or a name in it, is too long for the file system; shorten it"),
            Self::BadName => Some("the file system does not take a name in it; choose another one"),
            Self::Missing | Self::Denied | Self::ReadOnly | Self::Full | Self::Away => None,
        }
    }
}

/// For files that acetate writes or keeps. `action` completes "cannot ...".
pub fn io_error(path: &Path, action: &str, error: Error) -> JobError {
    let fault = PathFault::of(&error);
    let link = path.ancestors().find(|part| part.is_symlink() && !part.try_exists().unwrap_or(true));
    let path = path.display().to_string();
    if let Some(what) = fault.lasting().filter(|_| link.is_none()) {
        return JobError::invalid(path, format!("cannot {action}: {what}"));
    }
    let reason = match fault {
        // A disk may be mounted there later.
        PathFault::NotAFolder if link.is_some() => {
            let link = link.map(|link| link.display().to_string()).unwrap_or_default();
            format!("cannot {action}: {link} is a link to nothing; is its disk mounted?")
        }
        PathFault::Full => return JobError::DiskFull { path },
        PathFault::Denied => format!("cannot {action}: permission denied; choose a folder that you can write to"),
        PathFault::ReadOnly => format!("cannot {action}: the file system is read-only"),
        PathFault::Missing
        | PathFault::Away
        | PathFault::NotAFolder
        | PathFault::IsAFolder
        | PathFault::Loop
        | PathFault::TooLong
        | PathFault::BadName => format!("cannot {action}: {error}"),
    };
    JobError::storage(path, reason).caused_by(error)
}

/// For pictures from the submitter, who can correct a wrong path.
pub(super) fn input_error(input: &str, error: Error) -> JobError {
    let name = input.to_owned();
    match PathFault::of(&error) {
        PathFault::Missing | PathFault::NotAFolder => JobError::InputNotFound { input: name },
        PathFault::Denied => {
            JobError::InputForbidden { input: name, reason: "permission denied; make the file readable".to_owned() }
        }
        fault @ (PathFault::IsAFolder | PathFault::Loop | PathFault::TooLong | PathFault::BadName) => {
            JobError::invalid("input", format!("{input}: {}", fault.lasting().unwrap_or_default()))
        }
        PathFault::ReadOnly | PathFault::Full | PathFault::Away => {
            JobError::input_unreachable(name, format!("cannot read it: {error}")).caused_by(error)
        }
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
