//! Opens connections with a purpose that the broker shows.

use std::time::Duration;

use lapin::{
    Connection, ConnectionProperties,
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
        let mut uri: AMQPUri = url.parse().map_err(|reason: String| {
            // Never show the whole address, because it may contain a password.
            if reason.contains("://") { wrong("is not an address") } else { wrong(&reason) }
        })?;
        if let Some(address) = ipv6_host(url) {
            uri.authority.host = address.to_owned();
        }
        // By the specification, `amqp://host/` is a virtual host with an empty name, but everyone means the default
        // one.
        if uri.vhost.is_empty() {
            uri.vhost = "/".to_owned();
        }
        uri.query.heartbeat.get_or_insert(u16::try_from(heartbeat.as_secs()).unwrap_or(u16::MAX).max(1));
        uri.query.connection_timeout.get_or_insert(timeout.as_millis().try_into().unwrap_or(u64::MAX));
        Ok(Self { uri, name: name.to_owned(), timeout })
    }

    /// A connection for one `purpose`, which the broker's tools show next to our name.
    pub(super) async fn connect(&self, purpose: &str) -> Result<Connection, JobError> {
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("acetate {} ({purpose})", self.name).into())
            .with_client_property("product".into(), "acetate".into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
        match tokio::time::timeout(self.timeout, Connection::connect_uri(self.uri.clone(), properties)).await {
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
}
