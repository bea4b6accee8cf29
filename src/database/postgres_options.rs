//! The parameters of a Postgres address: libpq's, and what each means here.

use std::{net::IpAddr, path::PathBuf, time::Duration};

/// Which servers are acceptable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionAttributes {
    Any,
    /// One whose sessions can write.
    Writable,
    /// One that is not in recovery.
    Primary,
}

/// The parameters as they were given.
#[derive(Default)]
pub(super) struct Parameters {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: Option<String>,
    /// Of the address itself, each with its port in `ports`.
    pub(super) hosts: Vec<Option<String>>,
    pub(super) ports: Vec<Option<u16>>,
    named_hosts: Option<String>,
    addresses: Option<String>,
    named_ports: Option<String>,
    pub(super) target: Option<SessionAttributes>,
    pub(super) shuffled: bool,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) application_name: Option<String>,
    pub(super) settings: Vec<(String, String)>,
    /// The rest of `options`, for servers that must see it when a session starts.
    pub(super) startup_options: String,
    pub(super) sslmode: Option<String>,
    sslrootcert: Option<String>,
    pub(super) sslcert: Option<String>,
    pub(super) sslkey: Option<String>,
    pub(super) pooled: bool,
    /// What is read, and cannot be done.
    pub(super) remarks: Vec<String>,
}

const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// Parameters that change nothing here.
const WITHOUT_EFFECT: [&str; 14] = [
    "fallback_application_name",
    "gssdelegation",
    "gsslib",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "sslcompression",
    "sslsni",
    "ssl_min_protocol_version",
    "statement-cache-capacity",
    "tcp_user_timeout",
    "sslcertmode",
];

impl Parameters {
    pub(super) fn new(user: Option<String>, password: Option<String>, database: Option<String>) -> Self {
        Self { user, password, database, ..Self::default() }
    }

    /// Takes one parameter of the query.
    pub(super) fn set(&mut self, key: &str, value: String) -> Result<(), String> {
        let wrong = |right: &str| Err(format!("{key}={value}: {right}"));
        let optional = |value: String| Some(value).filter(|value| !value.is_empty());
        match key {
            "user" => self.user = optional(value),
            "password" => self.password = optional(value),
            "dbname" => self.database = optional(value),
            "host" => self.named_hosts = optional(value),
            "hostaddr" => self.addresses = optional(value),
            "port" => self.named_ports = optional(value),
            "application_name" => self.application_name = optional(value),
            "connect_timeout" => match value.parse::<i64>() {
                // As libpq: 0 is no limit, for which the default stands, and 1 means 2.
                Ok(seconds) => {
                    self.connect_timeout = u64::try_from(seconds.clamp(0, 3600))
                        .ok()
                        .filter(|seconds| *seconds > 0)
                        .map(|seconds| Duration::from_secs(seconds.max(2)));
                }
                Err(_) => return wrong("is not a whole number of seconds"),
            },
            "target_session_attrs" => {
                self.target = Some(match value.as_str() {
                    "any" => SessionAttributes::Any,
                    "read-write" => SessionAttributes::Writable,
                    "primary" => SessionAttributes::Primary,
                    "read-only" | "standby" | "prefer-standby" => {
                        return wrong("acetate writes; use read-write, primary or any");
                    }
                    _ => return wrong("is not one of read-write, primary and any"),
                });
            }
            "load_balance_hosts" => match value.as_str() {
                "disable" => self.shuffled = false,
                "random" => self.shuffled = true,
                _ => return wrong("is neither disable nor random"),
            },
            "options" => self.add_options(&value),
            "sslmode" | "ssl-mode" => {
                if !SSL_MODES.contains(&value.as_str()) {
                    return wrong(&format!("is not one of {}", SSL_MODES.join(", ")));
                }
                self.sslmode = Some(value);
            }
            // JDBC's, which libpq takes too.
            "ssl" if value == "true" => self.sslmode = Some("require".to_owned()),
            "ssl" => return wrong("is not true; use sslmode"),
            "sslrootcert" | "ssl-root-cert" | "ssl-ca" => self.sslrootcert = optional(value),
            "sslcert" | "ssl-cert" => self.sslcert = optional(value),
            "sslkey" | "ssl-key" => self.sslkey = optional(value),
            "client_encoding" if !["utf8", "utf-8", "unicode", "auto"].contains(&&*value.to_ascii_lowercase()) => {
                return wrong("acetate speaks UTF8; leave it out");
            }
            "client_encoding" => {}
            // Prisma's, in the addresses that hosters of poolers hand out.
            "pgbouncer" => self.pooled = value == "true",
            "gssencmode" if value == "require" => return wrong("acetate does not encrypt with GSSAPI; use sslmode"),
            "gssencmode" => {}
            "channel_binding" | "require_auth" if ["require", "scram-sha-256"].contains(&value.as_str()) => {
                self.remarks.push(format!("{key}={value} is not enforced"));
            }
            "channel_binding" => {}
            "service"
            | "passfile"
            | "sslpassword"
            | "sslcrl"
            | "sslcrldir"
            | "sslnegotiation"
            | "requirepeer"
            | "require_auth"
            | "ssl_max_protocol_version"
            | "replication" => {
                return Err(format!("{key}: acetate does not support this parameter; leave it out"));
            }
            _ if WITHOUT_EFFECT.contains(&key) => {}
            _ => match key.strip_prefix("options[").and_then(|name| name.strip_suffix(']')) {
                Some(name) => self.settings.push((name.to_owned(), value)),
                None if ["schema", "currentSchema", "search_path"].contains(&key) => {
                    return Err(format!(
                        "has the parameter `{key}` of another driver; write options=-csearch_path%3D{value} for the schema \
                         {value}"
                    ));
                }
                None => {
                    return Err(format!(
                        "has the unknown parameter `{key}`; the known ones are libpq's, such as sslmode, sslrootcert, \
                         connect_timeout, options and target_session_attrs"
                    ));
                }
            },
        }
        Ok(())
    }

    /// Settings as `-c name=value`, `-cname=value` and `--name=value`; in values, a backslash protects a space.
    fn add_options(&mut self, text: &str) {
        let mut words = words(text).into_iter();
        while let Some(word) = words.next() {
            let setting =
                match word.strip_prefix("--").or_else(|| word.strip_prefix("-c").filter(|rest| !rest.is_empty())) {
                    Some(setting) => Some(setting.to_owned()),
                    None if word == "-c" => words.next(),
                    None => None,
                };
            match setting.as_deref().and_then(|setting| setting.split_once('=')) {
                Some((name, value)) => self.settings.push((name.trim().replace('-', "_"), value.to_owned())),
                None => {
                    let space = if self.startup_options.is_empty() { "" } else { " " };
                    self.startup_options = format!("{}{space}{}", self.startup_options, word.replace(' ', "\\ "));
                }
            }
        }
    }

    /// What the parameters are only wrong together.
    pub(super) fn check(&mut self) -> Result<(), String> {
        if self.sslrootcert.as_deref() == Some("system") {
            match self.sslmode.as_deref() {
                None | Some("verify-full") => self.sslmode = Some("verify-full".to_owned()),
                Some(mode) => return Err(format!("sslrootcert=system needs sslmode=verify-full, not {mode}")),
            }
        } else if self.sslrootcert.is_some() && self.sslmode.as_deref() == Some("require") {
            self.sslmode = Some("verify-ca".to_owned());
        }
        for (one, other) in [("sslcert", "sslkey"), ("sslkey", "sslcert")] {
            let is_set = |name| if name == "sslcert" { self.sslcert.is_some() } else { self.sslkey.is_some() };
            if is_set(one) && !is_set(other) {
                return Err(format!("{one} needs {other}: the certificate and its key are two files"));
            }
        }
        if let Some(ports) = &self.named_ports {
            if self.ports.iter().any(Option::is_some) {
                return Err("has ports both after the hosts and in the parameter port".to_owned());
            }
            let read = |port: &str| match port {
                "" => Ok(None),
                port => match port_number(port) {
                    Some(port) => Ok(Some(port)),
                    None => Err(format!("port={ports}: is not a number between 1 and 65535")),
                },
            };
            self.ports = ports.split(',').map(read).collect::<Result<_, _>>()?;
        }
        if let Some(hosts) = &self.named_hosts {
            self.hosts = hosts.split(',').map(|host| Some(host.to_owned()).filter(|host| !host.is_empty())).collect();
        }
        if let Some(addresses) = &self.addresses {
            if self.sslmode.as_deref() == Some("verify-full") {
                return Err(
                    "hostaddr: with sslmode=verify-full the server is looked up by its name; leave hostaddr out"
                        .to_owned(),
                );
            }
            let read = |address: &str| match address.parse::<IpAddr>() {
                Ok(_) => Ok(Some(address.to_owned())),
                Err(_) => Err(format!("hostaddr={addresses}: is not an IP address; use host for names")),
            };
            self.hosts = addresses.split(',').map(read).collect::<Result<_, _>>()?;
        }
        if self.hosts.is_empty() {
            self.hosts.push(None);
        }
        if let Some(host) = self.hosts.iter().flatten().find(|host| host.starts_with('@')) {
            return Err(format!("host={host}: acetate does not support abstract sockets; use a socket's folder"));
        }
        if self.ports.len() > 1 && self.ports.len() != self.hosts.len() {
            return Err(format!(
                "port: {} ports for {} hosts; give one, or one for each",
                self.ports.len(),
                self.hosts.len()
            ));
        }
        Ok(())
    }

    /// Each host with its port; one port stands for all hosts.
    pub(super) fn hosts(&self) -> Vec<(Option<String>, Option<u16>)> {
        let port = |index: usize| self.ports.get(if self.ports.len() == 1 { 0 } else { index }).copied().flatten();
        self.hosts.iter().cloned().enumerate().map(|(index, host)| (host, port(index))).collect()
    }

    /// The file, unless it is the system's own store.
    pub(super) fn root_certificate(&self) -> Option<String> {
        self.sslrootcert.clone().filter(|file| file != "system")
    }

    pub(super) fn files(&self) -> Vec<(&'static str, PathBuf)> {
        if self.sslmode.as_deref() == Some("disable") {
            return Vec::new();
        }
        let files = [
            ("sslrootcert", self.root_certificate()),
            ("sslcert", self.sslcert.clone()),
            ("sslkey", self.sslkey.clone()),
        ];
        files.into_iter().filter_map(|(name, file)| Some((name, PathBuf::from(file?)))).collect()
    }
}

/// Only digits: a sign is a slip.
pub(super) fn port_number(text: &str) -> Option<u16> {
    let port = text.parse().ok().filter(|port| *port > 0)?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then_some(port)
}

/// Words as the server splits `options`.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut inside) = (Vec::new(), String::new(), false);
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => {
                word.extend(letters.next());
                inside = true;
            }
            letter if letter.is_whitespace() => {
                if inside {
                    words.push(std::mem::take(&mut word));
                }
                inside = false;
            }
            letter => {
                word.push(letter);
                inside = true;
            }
        }
    }
    if inside {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_options_are_split_as_the_server_does() {
        assert_eq!(words(r"-c search_path=a\ b  -cx=\\"), ["-c", "search_path=a b", r"-cx=\"]);
        assert_eq!(words("  "), Vec::<String>::new());
    }
}
