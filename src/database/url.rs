//! The database's address, and the outbox mode.

use std::{fmt, path::PathBuf};

use super::{dispatch::DispatchRules, postgres_url::PostgresUrl};
use crate::job::{JobError, percent_decoded};

/// Whether changes of rows write messages to the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutboxMode {
    /// The queue is inside this process and is filled from the rows.
    Embedded,
    /// A relay sends what the outbox holds.
    Service,
}

#[derive(Debug, Clone)]
pub enum DatabaseUrl {
    Sqlite(PathBuf),
    Postgres(PostgresUrl),
}

/// How a process uses the database; the defaults are those of `config/default.toml`, except for the dispatches.
#[derive(Debug, Clone)]
pub struct DatabaseOptions {
    /// The most connections of this process, of which one listens. SQLite needs no limit.
    pub max_connections: u32,
    /// Where to listen for notifications, past a pooler. Absent: at the database's own address.
    pub listen: Option<PostgresUrl>,
    /// Whether missing migrations are run. Otherwise tables of an older version are refused.
    pub migrate: bool,
    /// Which jobs are dispatched and claimed. The default has no limits.
    pub dispatch: DispatchRules,
}

impl Default for DatabaseOptions {
    fn default() -> Self {
        Self { max_connections: 10, listen: None, migrate: true, dispatch: DispatchRules::default() }
    }
}

impl DatabaseUrl {
    /// Reads `postgres://user@host/database` or `sqlite:///absolute/path`; `field` names the setting in errors.
    pub fn parse(field: &str, text: &str) -> Result<Self, JobError> {
        let wrong = |reason: &str| Err(JobError::invalid(field, reason));
        match text.split_once("://") {
            Some(("postgres" | "postgresql", rest)) if !rest.is_empty() => {
                PostgresUrl::parse(rest).map(Self::Postgres).map_err(|reason| JobError::invalid(field, reason))
            }
            Some(("sqlite", path)) if path.starts_with('/') && path.contains('?') => {
                wrong("has parameters after `?`, which sqlite:/// does not take; in a file's name, write `?` as %3F")
            }
            Some(("sqlite", path)) if path.starts_with('/') => match percent_decoded(path) {
                Some(path) => Ok(Self::Sqlite(PathBuf::from(path))),
                None => wrong("has a % that is not followed by two hexadecimal digits, or is not UTF-8"),
            },
            Some(("sqlite", _)) => wrong("is not sqlite:/// with three slashes and an absolute path"),
            Some((scheme, _)) => wrong(&format!(
                "has the scheme {scheme}; use postgres://user@host/database or \
                 sqlite:///absolute/path"
            )),
            None => wrong("is not an address such as postgres://user@host/database or sqlite:///absolute/path"),
        }
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            Self::Postgres(url) => url.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_without_their_password() {
        let DatabaseUrl::Sqlite(path) = DatabaseUrl::parse("status.url", "sqlite:///var/a%20b.db").unwrap() else {
            panic!()
        };
        assert_eq!(path, PathBuf::from("/var/a b.db"));
        let place = DatabaseUrl::parse("status.url", "postgres://me:hun%40ter2@db:5433/jobs").unwrap();
        assert_eq!(format!("{place} {place:?}").matches("postgres://me@db:5433/jobs").count(), 2);
        assert!(!format!("{place} {place:?}").contains("ter2"));
    }

    #[test]
    fn wrong_addresses_say_what_would_be_right() {
        for bad in [
            "mysql://me:hunter2@db/x",
            "sqlite://rows.db",
            "sqlite:///a%zz",
            "sqlite:///a.db?mode=ro",
            "rows.db",
            "postgres://",
        ] {
            let error = DatabaseUrl::parse("status.url", bad).unwrap_err().to_string();
            assert!(error.starts_with("status.url: ") && !error.contains("hunter2"), "{error}");
        }
    }
}
