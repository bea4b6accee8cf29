//! Sessions: whether a connection keeps the same one, and the settings that ours need.
//!
//! A pooler in transaction mode gives each transaction any session of the server. What is set or prepared in one is
//! then missing in the next, or disturbs another client. So there each statement is a transaction with its own
//! settings, and nothing is prepared under a name.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

/// Whatever the database or the role has for a default: the statements are made for this level.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";
/// The server's statement timeout.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Mode {
    /// Not known yet, and treated as shared, which is right in any case.
    Unknown,
    /// Each connection has its session, as long as it lives.
    Own,
    /// A pooler shares sessions between connections.
    Shared,
}

/// The mode of all connections of one database.
#[derive(Debug)]
pub(super) struct Sessions {
    mode: AtomicU8,
    own: Arc<str>,
    begin: Arc<str>,
    begin_unlimited: Arc<str>,
}

impl Sessions {
    /// `settings` are those of the address; they override ours.
    pub(super) fn new(settings: &[(String, String)], mode: Mode) -> Self {
        let ms = STATEMENT_TIMEOUT.as_millis().to_string();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let limits = [pair("statement_timeout", &ms), pair("idle_in_transaction_session_timeout", &ms)];
        // A client that is cut off must not hold its locks for the hours until TCP notices. Between a pooler and the
        // server, that is the pooler's business.
        let keepalives = [("idle", "30"), ("interval", "10"), ("count", "3")]
            .map(|(name, value)| pair(&format!("tcp_keepalives_{name}"), value));
        // Last, because it is no matter of taste: under a stricter level, statements fail that wait for each other.
        let isolation = [pair("default_transaction_isolation", "read committed")];
        let own = [&limits, keepalives.as_slice(), settings, &isolation].concat();
        let shared = [limits.as_slice(), settings].concat();
        let unlimited =
            [settings, &[pair("statement_timeout", "0"), pair("idle_in_transaction_session_timeout", "0")]].concat();
        let durable = settings.iter().all(|(name, _)| !name.eq_ignore_ascii_case("synchronous_commit"));
        let set = |settings: &[_], local| set_all(settings, durable, local);
        Self {
            mode: AtomicU8::new(mode as u8),
            own: set(&own, false).into(),
            begin: format!("{BEGIN}; {}", set(&shared, true)).into(),
            begin_unlimited: format!("{BEGIN}; {}", set(&unlimited, true)).into(),
        }
    }

    pub(super) fn mode(&self) -> Mode {
        match self.mode.load(Ordering::Relaxed) {
            mode if mode == Mode::Own as u8 => Mode::Own,
            mode if mode == Mode::Shared as u8 => Mode::Shared,
            _ => Mode::Unknown,
        }
    }

    pub(super) fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }

    /// Applies the settings to a session of our own.
    pub(super) fn settings(&self) -> Arc<str> {
        self.own.clone()
    }

    /// Begins a transaction with the settings.
    pub(super) fn begin(&self) -> Arc<str> {
        self.begin.clone()
    }

    /// Begins a transaction that may take as long as it takes: a migration.
    pub(super) fn begin_unlimited(&self) -> Arc<str> {
        self.begin_unlimited.clone()
    }
}

/// `SET` cannot take a list as the server's `-c` does; this function can.
fn set_all(settings: &[(String, String)], durable: bool, local: bool) -> String {
    let one = |(name, value): &(String, String)| format!("set_config({}, {}, {local})", literal(name), literal(value));
    let mut all: Vec<_> = settings.iter().map(one).collect();
    if durable {
        // With `off` as the default of a database or role, a server that crashes forgets what it has acknowledged: jobs
        // that were accepted, and ends that were published. Other values are a matter of replicas.
        let current = "current_setting('synchronous_commit')";
        all.push(format!("set_config('synchronous_commit', coalesce(nullif({current}, 'off'), 'on'), {local})"));
    }
    format!("SELECT {}", all.join(", "))
}

fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    // Correct whatever standard_conforming_strings says.
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_quoted_and_those_of_the_address_come_last() {
        let settings = [("search_path".to_owned(), "a, \"b'c\\\"".to_owned())];
        let sessions = Sessions::new(&settings, Mode::Unknown);
        let begin = sessions.begin();
        let start = "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT set_config('statement_timeout', '30000', true), ";
        assert!(begin.starts_with(start), "{begin}");
        let own = sessions.settings();
        assert!(
            own.contains("', false), set_config('default_transaction_isolation', 'read committed', false)"),
            "{own}"
        );
        assert!(begin.contains(", set_config('search_path', E'a, \"b''c\\\\\"', true)"), "{begin}");
        assert!(sessions.settings().contains("tcp_keepalives_idle") && !begin.contains("tcp_keepalives_idle"));
        assert_eq!(sessions.mode(), Mode::Unknown);
        sessions.set_mode(Mode::Shared);
        assert_eq!(sessions.mode(), Mode::Shared);
    }
}
