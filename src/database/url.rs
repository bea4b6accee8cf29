//! The database's address, and the outbox mode.

use std::{fmt, path::PathBuf, str::FromStr};

use sqlx::postgres::PgConnectOptions;

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

/// A parsed address; it is never shown whole, because it may contain a password.
#[derive(Clone)]
pub struct PostgresUrl(pub(super) Box<PgConnectOptions>);

impl DatabaseUrl {
    /// Reads `postgres://user@host/database` or `sqlite:///absolute/path`; `field` names the setting in errors.
    pub fn parse(field: &str, text: &str) -> Result<Self, JobError> {
        let wrong = |reason: &str| Err(JobError::invalid(field, reason));
        match text.split_once("://") {
            Some(("postgres" | "postgresql", rest)) if !rest.is_empty() => match PgConnectOptions::from_str(text) {
                Ok(options) => Ok(Self::Postgres(PostgresUrl(Box::new(options)))),
                // The parser's message may repeat the input, including the password.
                Err(_) => wrong(
                    "cannot be read as postgres://user:password@host:port/database; write special characters of the \
                     password as %XX",
                ),
            },
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

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.0;
        let user = options.get_username();
        match options.get_socket() {
            Some(socket) => write!(f, "postgres://{user}@{}", socket.display())?,
            None => write!(f, "postgres://{user}@{}:{}", options.get_host(), options.get_port())?,
        }
        write!(f, "/{}", options.get_database().unwrap_or(user))
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
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
        for bad in ["mysql://me:hunter2@db/x", "sqlite://rows.db", "sqlite:///a%zz", "rows.db", "postgres://"] {
            let error = DatabaseUrl::parse("status.url", bad).unwrap_err().to_string();
            assert!(error.starts_with("status.url: ") && !error.contains("hunter2"), "{error}");
        }
    }
}
