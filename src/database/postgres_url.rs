//! Postgres' addresses: the connection URIs of libpq, with several hosts and its parameters.
//!
//! What libpq would refuse is refused here too, with the name of the parameter. No message repeats a part of the
//! address that may belong to a password.

use std::{
    fmt::{self, Write as _},
    net::IpAddr,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tracing::warn;

use super::postgres_options::{Parameters, SessionAttributes, port_number};
use crate::job::percent_decoded;

/// A parsed address; it is never shown whole, because it may contain a password.
#[derive(Clone)]
pub struct PostgresUrl {
    /// At least one, in the order in which they are tried.
    pub(super) hosts: Vec<Host>,
    pub(super) target: SessionAttributes,
    /// Whether the hosts are tried in random order.
    pub(super) shuffled: bool,
    /// How long to wait for one host. Absent: the default.
    pub(super) connect_timeout: Option<Duration>,
    /// Settings of every session, such as `search_path`. They are not sent at startup, which poolers refuse.
    pub(super) settings: Vec<(String, String)>,
    /// Whether the address says that it is a pooler in transaction mode.
    pub(super) pooled: bool,
    /// Files that TLS needs, each with its parameter.
    pub(super) files: Vec<(&'static str, PathBuf)>,
}

#[derive(Clone)]
pub(super) struct Host {
    pub(super) options: PgConnectOptions,
}

const SPECIAL: &str =
    "write special characters of the user and the password as %XX: / is %2F, ? is %3F, # is %23, @ is %40";

impl PostgresUrl {
    /// Reads what follows `postgres://`. The error is a reason that can be shown.
    pub(super) fn parse(rest: &str) -> Result<Self, String> {
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = place.split_once('/').unwrap_or((place, ""));
        // A password with a / or ? in it would be taken for a host, and shown.
        let keys_have_at = || query.split('&').any(|pair| pair.split('=').next().is_some_and(|key| key.contains('@')));
        if !authority.contains('@') && (database.contains('@') || keys_have_at()) {
            return Err(format!("has an @ behind the first / or ?; {SPECIAL}"));
        }
        let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = user.split_once(':').unwrap_or((user, ""));

        let mut parameters = Parameters::new(
            decoded("the user", user)?,
            decoded("the password", password)?,
            decoded("the database's name", database)?,
        );
        if !hosts.is_empty() {
            for (number, host) in hosts.split(',').enumerate() {
                let (host, port) = host_and_port(host).map_err(|reason| format!("host {}: {reason}", number + 1))?;
                parameters.hosts.push(host);
                parameters.ports.push(port);
            }
        }
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(format!("has the parameter `{pair}` without a value"));
            };
            let key = decoded("a parameter's name", key)?.unwrap_or_default();
            let value = decoded(&format!("the value of {key}"), value)?.unwrap_or_default();
            parameters.set(&key, value)?;
        }
        Self::build(parameters)
    }

    fn build(mut parameters: Parameters) -> Result<Self, String> {
        parameters.check()?;
        let hosts = parameters.hosts().into_iter().map(|(host, port)| Host::new(&parameters, host.as_deref(), port));
        let hosts = hosts.collect::<Result<Vec<_>, _>>()?;
        for remark in &parameters.remarks {
            warn!("the database's address: {remark}");
        }
        // A service writes. With one host there is no choice, and its readers may use a replica.
        let several = if hosts.len() > 1 { SessionAttributes::Writable } else { SessionAttributes::Any };
        Ok(Self {
            target: parameters.target.unwrap_or(several),
            shuffled: parameters.shuffled,
            connect_timeout: parameters.connect_timeout,
            files: parameters.files(),
            settings: parameters.settings,
            pooled: parameters.pooled,
            hosts,
        })
    }

    /// The user's name, for advice.
    pub(super) fn user(&self) -> &str {
        self.hosts.first().map_or("", |host| host.options.get_username())
    }

    pub(super) fn database(&self) -> &str {
        self.hosts.first().map_or("", |host| host.options.get_database().unwrap_or(self.user()))
    }
}

impl Host {
    /// The parameters of one host as sqlx reads them, so that its defaults (the `PG...` variables, `.pgpass`) apply.
    fn new(parameters: &Parameters, host: Option<&str>, port: Option<u16>) -> Result<Self, String> {
        let mut url = "postgres:///?".to_owned();
        let mut add = |key: &str, value: Option<&str>| {
            if let Some(value) = value {
                let _ = write!(url, "{key}={}&", utf8_percent_encode(value, NON_ALPHANUMERIC));
            }
        };
        add("host", host);
        add("port", port.map(|port| port.to_string()).as_deref());
        add("user", parameters.user.as_deref());
        add("password", parameters.password.as_deref());
        add("dbname", parameters.database.as_deref());
        add("sslmode", parameters.sslmode.as_deref());
        add("sslrootcert", parameters.root_certificate().as_deref());
        add("sslcert", parameters.sslcert.as_deref());
        add("sslkey", parameters.sslkey.as_deref());
        add("options", Some(parameters.startup_options.as_str()).filter(|options| !options.is_empty()));
        let options = PgConnectOptions::from_str(&url)
            // Its message may repeat the input.
            .map_err(|_| format!("cannot be read as postgres://user:password@host:port/database; {SPECIAL}"))?
            // Not a parameter that poolers know, and nothing here reads numbers as text.
            .extra_float_digits(None);
        let name = parameters.application_name.clone();
        let name = name.or_else(|| options.get_application_name().map(str::to_owned));
        let mut options = options.application_name(name.as_deref().unwrap_or("acetate"));
        // TLS between two processes on one machine protects nothing, and its handshake costs 90 ms.
        if matches!(options.get_ssl_mode(), PgSslMode::Prefer) && is_loopback(options.get_host()) {
            options = options.ssl_mode(PgSslMode::Disable);
        }
        Ok(Self { options })
    }

    /// `host:port`, or the socket's folder.
    pub(super) fn place(&self) -> String {
        match self.options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None if self.options.get_host().starts_with('/') => self.options.get_host().to_owned(),
            None => format!("{}:{}", self.options.get_host(), self.options.get_port()),
        }
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<String> = self.hosts.iter().map(Host::place).collect();
        write!(f, "postgres://{}@{}/{}", self.user(), hosts.join(","), self.database())
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// One host of the list, and its port. The reason names no text, which may be a piece of a password.
fn host_and_port(text: &str) -> Result<(Option<String>, Option<u16>), String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("an IPv6 address needs a closing ]")?;
            if host.parse::<IpAddr>().is_err() {
                return Err("between [ and ] is no IPv6 address".to_owned());
            }
            if !port.is_empty() && !port.starts_with(':') {
                return Err("after ] only a colon and a port may follow".to_owned());
            }
            (host, port.strip_prefix(':'))
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    if port.is_some_and(|port| port.contains(':')) {
        return Err("has more than one colon; write an IPv6 address as [::1]".to_owned());
    }
    let port = match port.filter(|port| !port.is_empty()) {
        Some(port) => {
            Some(port_number(port).ok_or_else(|| format!("the port is not a number between 1 and 65535; {SPECIAL}"))?)
        }
        None => None,
    };
    Ok((decoded("its name", host)?, port))
}

/// Absent if it is empty.
fn decoded(what: &str, text: &str) -> Result<Option<String>, String> {
    let text = percent_decoded(text)
        .ok_or_else(|| format!("{what} has a % that is not followed by two hexadecimal digits, or is not UTF-8"))?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rest: &str) -> PostgresUrl {
        PostgresUrl::parse(rest).unwrap()
    }

    fn refused(rest: &str) -> String {
        PostgresUrl::parse(rest).unwrap_err()
    }

    #[test]
    fn the_forms_of_libpq_are_read() {
        for (text, shown) in [
            ("me@db/jobs", "postgres://me@db:5432/jobs"),
            ("me@db:5433/jobs", "postgres://me@db:5433/jobs"),
            ("me@[::1]:5433/jobs", "postgres://me@::1:5433/jobs"),
            ("/jobs?host=/run/postgresql&user=me", "postgres://me@/run/postgresql/jobs"),
            ("me@/jobs?host=/run/postgresql", "postgres://me@/run/postgresql/jobs"),
            ("me@%2Frun%2Fpostgresql/jobs", "postgres://me@/run/postgresql/jobs"),
            ("me@a,b:5433,[::2]/jobs", "postgres://me@a:5432,b:5433,::2:5432/jobs"),
            ("me@/jobs?host=a,b&port=5433", "postgres://me@a:5433,b:5433/jobs"),
            ("me@/jobs?host=a,b&port=5433,5434", "postgres://me@a:5433,b:5434/jobs"),
            ("me@db?dbname=jobs", "postgres://me@db:5432/jobs"),
            ("me@db", "postgres://me@db:5432/me"),
        ] {
            assert_eq!(read(text).to_string(), shown, "{text}");
        }
    }

    #[test]
    fn several_hosts_mean_the_writable_one_unless_the_address_says_otherwise() {
        assert_eq!(read("me@a/x").target, SessionAttributes::Any);
        assert_eq!(read("me@a,b/x").target, SessionAttributes::Writable);
        assert_eq!(read("me@a,b/x?target_session_attrs=any").target, SessionAttributes::Any);
        assert_eq!(read("me@a/x?target_session_attrs=read-write").target, SessionAttributes::Writable);
        assert_eq!(read("me@a/x?target_session_attrs=primary").target, SessionAttributes::Primary);
        let reason = refused("me@a,b/x?target_session_attrs=standby");
        assert!(reason.contains("target_session_attrs=standby") && reason.contains("read-write"), "{reason}");
        let reason = refused("me@a,b/x?target_session_attrs=writable");
        assert!(reason.contains("target_session_attrs=writable"), "{reason}");
    }

    #[test]
    fn options_become_settings_and_no_startup_parameter() {
        let url = read("me@a/x?options=-csearch_path%3Djobs%20-c%20work_mem=64MB%20--lock-timeout=3s");
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let wanted = [pair("search_path", "jobs"), pair("work_mem", "64MB"), pair("lock_timeout", "3s")];
        assert_eq!(url.settings, wanted);
        assert_eq!(url.hosts[0].options.get_options(), None);
        // Neon's, which it must get at startup.
        let url = read("me@a/x?options=endpoint%3Dep-cool-name");
        assert_eq!(url.hosts[0].options.get_options(), Some("endpoint=ep-cool-name"));
    }

    #[test]
    fn the_parameter_at_fault_is_named() {
        for (text, said) in [
            ("me@a/x?sslmode=verifyfull", "sslmode=verifyfull"),
            ("me@a/x?sslmode=verifyfull", "verify-full"),
            ("me@a/x?sslmod=require", "sslmod"),
            ("me@a/x?connect_timeout=ten", "connect_timeout=ten"),
            ("me@a/x?port=x", "port"),
            ("me@a,b,c/x?port=1,2", "port"),
            ("me@a:5432,b:5433/x?port=1", "port"),
            ("me@a:70000/x", "65535"),
            ("me@a:+5432/x", "65535"),
            ("me@a/x?port=0", "port=0: is not a number between 1 and 65535"),
            ("me@a/x?port=+5432", "port=+5432"),
            ("me@a/x?schema=jobs", "options=-csearch_path%3Djobs"),
            ("me@::1/x", "[::1]"),
            ("me@a/x?sslmode", "`sslmode`"),
            ("me@a/x?client_encoding=LATIN1", "client_encoding"),
            ("me@a/x?gssencmode=require", "gssencmode"),
            ("me@a/x?service=jobs", "service"),
            ("me@a/x?hostaddr=db", "hostaddr"),
            ("m%zz@a/x", "the user has a %"),
        ] {
            let reason = refused(text);
            assert!(reason.contains(said), "{text}: {reason}");
        }
    }

    #[test]
    fn pieces_of_a_password_are_not_shown() {
        for text in ["me:hunt/er2@db/x", "me:hunt?er2@db/x", "me:hunter2", "me:hunt:er2/x", "me:hunter2%zz@db/x"] {
            let reason = refused(text);
            assert!(!reason.contains("hunt") && !reason.contains("er2"), "{text}: {reason}");
        }
        assert!(!format!("{:?} {}", read("me:hunter2@db/x"), read("me:hunter2@db/x")).contains("hunter2"));
        assert!(!format!("{:?}", read("me@db/x?password=hunter2")).contains("hunter2"));
    }

    #[test]
    fn addresses_of_hosted_servers_are_taken() {
        let neon = read("me:p@ep-x-pooler.eu.neon.tech/x?sslmode=require&channel_binding=require");
        assert!(matches!(neon.hosts[0].options.get_ssl_mode(), PgSslMode::Require));
        assert!(read("me:p@db.supabase.co:6543/postgres?pgbouncer=true").pooled);
        // As libpq: a root certificate makes `require` check the server's.
        let checked = read("me@a/x?sslmode=require&sslrootcert=/etc/ca.pem");
        assert!(matches!(checked.hosts[0].options.get_ssl_mode(), PgSslMode::VerifyCa));
        assert_eq!(checked.files, [("sslrootcert", PathBuf::from("/etc/ca.pem"))]);
        assert!(matches!(read("me@a/x?sslrootcert=system").hosts[0].options.get_ssl_mode(), PgSslMode::VerifyFull));
    }
}
