//! Opens connections with a purpose that the broker shows.

use std::time::Duration;

use lapin::{
    Connection, ConnectionProperties, DefaultConnectionBuilder,
    tcp::OwnedTLSConfig,
    uri::{AMQPScheme, AMQPUri},
};

use super::errors::{broken, connecting};
use crate::job::JobError;

/// The broker's address, and our name.
#[derive(Clone)]
pub(super) struct Connector {
    uri: AMQPUri,
    name: String,
    timeout: Duration,
    /// Certificate authorities in addition to the system's, as PEM.
    ca_certificates: Option<String>,
}

impl Connector {
    /// `url` is the setting `queue.url`.
    pub(super) fn new(url: &str, name: &str, timeout: Duration, heartbeat: Duration) -> Result<Self, JobError> {
        let wrong = |reason: &str| {
            JobError::invalid("queue.url", format!("{reason}; write amqp://user:password@host:5672/vhost"))
        };
        if !url.starts_with("amqp://") && !url.starts_with("amqps://") {
            return Err(wrong("does not start with amqp:// or amqps://"));
        }
        check_characters(url).map_err(|reason| wrong(&reason))?;
        let mut uri: AMQPUri = url.parse().map_err(|reason: String| {
            // Never show the whole address, because it may contain a password.
            if reason.contains("://") { wrong("is not an address") } else { wrong(&reason) }
        })?;
        if let Some(address) = ipv6_host(url) {
            uri.authority.host = address.to_owned();
        }
        // By the specification, `amqp://host/` is a virtual host with an empty name, but users mean the default one.
        if uri.vhost.is_empty() {
            uri.vhost = "/".to_owned();
        }
        uri.query.heartbeat.get_or_insert(u16::try_from(heartbeat.as_secs()).unwrap_or(u16::MAX).max(1));
        uri.query.connection_timeout.get_or_insert(timeout.as_millis().try_into().unwrap_or(u64::MAX));
        Ok(Self { uri, name: name.to_owned(), timeout, ca_certificates: None })
    }

    /// Also checks the broker against these authorities, a PEM text.
    pub(super) fn trusting(self, ca_certificates: Option<String>) -> Self {
        Self { ca_certificates, ..self }
    }

    /// A connection for one `purpose`, which the broker's tools show next to our name.
    pub(super) async fn connect(&self, purpose: &str) -> Result<Connection, JobError> {
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("acetate {} ({purpose})", self.name).into())
            .with_client_property("product".into(), "acetate".into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
        let connected = async {
            DefaultConnectionBuilder::new()?
                .with_uri(self.uri.clone())
                .with_properties(properties)
                .with_tls_config(OwnedTLSConfig { identity: None, cert_chain: self.ca_certificates.clone() })
                .connect()
                .await
        };
        match tokio::time::timeout(self.timeout, connected).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(connecting(&self.place(), error)),
            Err(_) => Err(broken(format!("{} did not respond within {:?}", self.place(), self.timeout))),
        }
    }

    /// For messages: `RabbitMQ at host:5672, virtual host /`.
    pub(super) fn place(&self) -> String {
        let AMQPUri { scheme, authority, vhost, .. } = &self.uri;
        let tls = if *scheme == AMQPScheme::AMQPS { " with TLS" } else { "" };
        format!("RabbitMQ at {}:{}{tls}, virtual host {vhost}", authority.host, authority.port)
    }

    /// The maximum time for one response from the broker.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// Refuses characters that end a part of an address too early: a password with a `/` would become a host, be looked up
/// and logged. The reason does not show the address.
fn check_characters(url: &str) -> Result<(), String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let whole =
        "the user or the password has one of the characters / @ # ? % [ ]; write them as %2F %40 %23 %3F %25 %5B %5D";
    let (behind, credentials) =
        (&rest[authority.len()..], authority.rsplit_once('@').map(|(credentials, _)| credentials));
    let ends_early = behind.contains('@') || credentials.is_some_and(|text| text.contains(['@', '[', ']']));
    let has_digits = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    if ends_early || !credentials.unwrap_or_default().split('%').skip(1).all(has_digits) {
        return Err(whole.to_owned());
    }
    if behind.contains('#') {
        return Err("has a #, which ends an address; write it as %23".to_owned());
    }
    if !behind.split('?').next().unwrap_or(behind).split('%').skip(1).all(has_digits) {
        return Err("the virtual host has a % without two hexadecimal digits; write it as %25".to_owned());
    }
    Ok(())
}

/// lapin's parser accepts only names and IPv4 addresses as hosts, and silently uses the local host for others.
fn ipv6_host(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    host.strip_prefix('[')?.split_once(']').map(|(address, _)| address)
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("place", &self.place()).field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connector(url: &str) -> Result<Connector, JobError> {
        Connector::new(url, "test", Duration::from_secs(1), Duration::from_secs(20))
    }

    #[test]
    fn addresses_are_understood() {
        for (url, place) in [
            ("amqp://host", "RabbitMQ at host:5672, virtual host /"),
            ("amqp://host:99/", "RabbitMQ at host:99, virtual host /"),
            ("amqp://u:p%40@host/a%2Fb", "RabbitMQ at host:5672, virtual host a/b"),
            ("amqps://u:p@10.0.0.1/v", "RabbitMQ at 10.0.0.1:5671 with TLS, virtual host v"),
            ("amqp://u:p@[::1]:99/v", "RabbitMQ at ::1:99, virtual host v"),
        ] {
            assert_eq!(connector(url).unwrap().place(), place);
        }
    }

    #[test]
    fn wrong_addresses_name_the_setting_and_no_password() {
        for url in
            ["http://u:s3cret@host", "u:s3cret@host", "amqp://u:s3cret@host:port", "amqp://u:s3cret@:1", "amqp:s3cret"]
        {
            let error = connector(url).unwrap_err().to_string();
            assert!(error.starts_with("queue.url: ") && !error.contains("s3cret"), "{url}: {error}");
        }
        assert!(!format!("{:?}", connector("amqp://u:s3cret@host").unwrap()).contains("s3cret"));
    }

    #[test]
    fn raw_characters_of_a_password_are_refused_and_not_shown() {
        for password in [
            "s3/cret",
            "s3@cret",
            "s3#cret",
            "s3?cret",
            "s3%cret",
            "s3cret%",
            "s3%2",
            "s/s3:w#?%",
            "s3[cret",
            "s3]cret",
            "s3cret/@",
            "s3//cret",
            "s3/c@r/et",
            "s3/cret:1",
        ] {
            for (user, vhost) in [("brk", ""), ("brk", "/v"), ("brk@u", "/v"), ("brk", "/v?heartbeat=5")] {
                let url = format!("amqp://{user}:{password}@host:5672{vhost}");
                let error = connector(&url).unwrap_err();
                let text = error.to_string();
                assert!(matches!(&error, JobError::InvalidRequest { .. }), "{url}: {text}");
                assert!(text.contains("%2F %40 %23"), "{url}: {text}");
                assert!(!text.contains("s3") && !text.contains("cret"), "{url}: {text}");
            }
        }
        for (password, vhost) in
            [("s3:cret", ""), ("s3%2Fcret%40", "/a%2Fb"), ("s3=cret+", "/v?heartbeat=5"), ("s3!$&cret", "/ä")]
        {
            connector(&format!("amqp://brk:{password}@host{vhost}")).unwrap();
        }
        assert!(connector("amqp://u:p@host/a#b").unwrap_err().to_string().contains("%23"));
        assert!(connector("amqp://u:p@host/100%").unwrap_err().to_string().contains("%25"));
    }
}
