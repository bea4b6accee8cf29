//! The cause of an error.

use std::{error::Error, fmt, sync::Arc};

/// EMFILE and ENFILE: this process, or the whole system, may open no more files. The numbers are the same on Linux and
/// macOS.
const TOO_MANY_OPEN_FILES: [i32; 2] = [24, 23];

/// What to do about it.
pub const NO_OPEN_FILES: &str = "this process has no file descriptors left; raise its limit (ulimit -n, LimitNOFILE)";

/// Whether an error, or one of its causes, is that this machine has no file descriptors left.
pub fn lacks_open_files(error: &(dyn Error + 'static)) -> bool {
    if let Some(Cause(inner)) = error.downcast_ref() {
        return lacks_open_files(&**inner);
    }
    if let Some(io) = error.downcast_ref::<std::io::Error>() {
        let own = io.raw_os_error().is_some_and(|code| TOO_MANY_OPEN_FILES.contains(&code));
        // The source of an io::Error skips the error inside.
        return own || io.get_ref().is_some_and(|inner| lacks_open_files(inner));
    }
    error.source().is_some_and(lacks_open_files)
}

/// The typed error behind a [`JobError`](super::JobError), for logs and for code that checks its type. The error's own
/// message has everything that users need, so causes are neither shown nor compared.
#[derive(Clone)]
pub struct Cause(Arc<dyn Error + Send + Sync>);

impl Cause {
    pub fn new(error: impl Error + Send + Sync + 'static) -> Self {
        Self(Arc::new(error))
    }

    /// The cause, if it is of this type.
    pub fn downcast_ref<E: Error + 'static>(&self) -> Option<&E> {
        self.0.downcast_ref()
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

impl PartialEq for Cause {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::job::JobError;

    #[test]
    fn a_lack_of_descriptors_is_found_behind_any_error() {
        let deep = || io::Error::other(io::Error::other(io::Error::from_raw_os_error(24)));
        for error in [
            JobError::storage("x", "y").caused_by(io::Error::from_raw_os_error(24)),
            JobError::database("y").caused_by(deep()),
            JobError::input_unreachable("x", "y").caused_by(io::Error::from_raw_os_error(23)),
        ] {
            assert!(lacks_open_files(&error), "{error:?}");
        }
        let other = JobError::storage("x", "Too many open files").caused_by(io::Error::from_raw_os_error(2));
        assert!(!lacks_open_files(&other) && !lacks_open_files(&JobError::storage("x", "y")));
    }
}
