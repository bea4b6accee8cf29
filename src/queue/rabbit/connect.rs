//! Opens connections with a purpose that the broker shows, to the first node that answers.

use std::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use lapin::{
    Connection, ConnectionProperties,
    runtime::default_runtime,
    tcp::OwnedTLSConfig,
    uri::{AMQPUri, SASLMechanism},
};

use super::{
    RabbitOptions,
    address::{self, host_and_port, is_tls},
    errors::{broken, connecting},
    tls::TlsFiles,
};
use crate::job::JobError;

/// The broker's addresses, and our name.
pub(super) struct RabbitConnector {
    nodes: Vec<AMQPUri>,
    /// The node that answered last; the next connection begins with it.
    last: AtomicUsize,
    tls: TlsFiles,
    name: String,
    timeout: Duration,
}

impl RabbitConnector {
    /// `url` is the setting `queue.url`.
    pub(super) fn new(url: &str, options: &RabbitOptions) -> Result<Self, JobError> {
        let mut nodes = address::parse(url)?;
        options.tls.read()?;
        if options.tls.has_identity() {
            if !nodes.iter().any(is_tls) {
                return Err(JobError::invalid("queue.client_cert", "needs TLS; let queue.url begin with amqps://"));
            }
            address::log_in_by_certificate(url, &mut nodes);
        }
        let timeout = options.connect_timeout;
        for node in &mut nodes {
            let heartbeat = u16::try_from(options.heartbeat.as_secs()).unwrap_or(u16::MAX).max(1);
            node.query.heartbeat.get_or_insert(heartbeat);
            node.query.connection_timeout.get_or_insert(timeout.as_millis().try_into().unwrap_or(u64::MAX));
        }
        let (tls, name) = (options.tls.clone(), options.name.clone());
        Ok(Self { nodes, last: AtomicUsize::new(0), tls, name, timeout })
    }

    /// A connection for one `purpose`, which the broker's tools show next to our name. The nodes are tried in turn.
    pub(super) async fn connect(&self, purpose: &str) -> Result<Connection, JobError> {
        let tls = self.tls.read()?;
        let (first, count) = (self.last.load(Ordering::Relaxed), self.nodes.len());
        let mut errors = Vec::new();
        for index in (0..count).map(|offset| (first + offset) % count) {
            match self.connect_to(&self.nodes[index], tls.clone(), purpose).await {
                Ok(connection) => {
                    self.last.store(index, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(error) => errors.push(error),
            }
        }
        Err(of_all(errors))
    }

    async fn connect_to(&self, node: &AMQPUri, tls: OwnedTLSConfig, purpose: &str) -> Result<Connection, JobError> {
        let place = place(std::slice::from_ref(node));
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("acetate {} ({purpose})", self.name).into())
            .with_client_property("product".into(), "acetate".into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
        let runtime = default_runtime().map_err(|error| broken(error.to_string()).caused_by(error))?;
        let connected = Connection::connect_uri_with_config(node.clone(), properties, tls, runtime);
        match tokio::time::timeout(self.timeout, connected).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(connecting(&place, node, error)),
            Err(_) => Err(broken(format!(
                "{place} did not respond within {:?}; is it the port of AMQP, usually 5672, or 5671 with amqps://, and \
                 does a firewall let it through?",
                self.timeout
            ))),
        }
    }

    /// For messages: `RabbitMQ at host:5672, virtual host /`.
    pub(super) fn place(&self) -> String {
        place(&self.nodes)
    }

    pub(super) fn vhost(&self) -> &str {
        self.nodes.first().map_or("/", |node| &node.vhost)
    }

    pub(super) fn nodes(&self) -> &[AMQPUri] {
        &self.nodes
    }

    /// Unless a certificate logs in.
    pub(super) fn user(&self) -> Option<&str> {
        self.login().map(|(user, _)| user)
    }

    /// The user and the password, unless a certificate logs in.
    pub(super) fn login(&self) -> Option<(&str, &str)> {
        let node = self.nodes.first()?;
        let by_certificate = matches!(node.query.auth_mechanism, Some(SASLMechanism::External));
        let login = &node.authority.userinfo;
        (!by_certificate).then_some((login.username.as_str(), login.password.as_str()))
    }

    /// The maximum time for one response from the broker.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }
}

fn place(nodes: &[AMQPUri]) -> String {
    let hosts: Vec<_> = nodes.iter().map(host_and_port).collect();
    let tls = if nodes.iter().any(is_tls) { " with TLS" } else { "" };
    let vhost = nodes.first().map_or("/", |node| &node.vhost);
    format!("RabbitMQ at {}{tls}, virtual host {vhost}", hosts.join(", "))
}

/// Trying again helps if it may help with one of the nodes.
fn of_all(errors: Vec<JobError>) -> JobError {
    let temporary = errors.iter().find(|error| error.is_transient()).cloned();
    let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
    match (errors.len(), temporary) {
        (1, _) | (_, None) => errors.into_iter().next().unwrap_or_else(|| broken("queue.url names no host")),
        (_, Some(error)) => broken(texts.join("; ").replace("queue: ", "")).caused_by(error),
    }
}

impl fmt::Debug for RabbitConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitConnector")
            .field("place", &self.place())
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connector(url: &str, tls: TlsFiles) -> Result<RabbitConnector, JobError> {
        let second = Duration::from_secs(1);
        let options = RabbitOptions {
            name: "test".to_owned(),
            consumer_timeout: second,
            connect_timeout: second,
            heartbeat: second,
            publish_timeout: second,
            tls,
        };
        RabbitConnector::new(url, &options)
    }

    #[test]
    fn a_place_has_its_hosts_and_no_password() {
        for (url, place) in [
            ("amqp://host", "RabbitMQ at host:5672, virtual host /"),
            ("amqps://u:s3cret@a,b:99/v", "RabbitMQ at a:5671, b:99 with TLS, virtual host v"),
        ] {
            let connector = connector(url, TlsFiles::default()).unwrap();
            assert_eq!(connector.place(), place);
            assert!(!format!("{connector:?}").contains("s3cret"));
        }
    }

    #[test]
    fn a_client_certificate_needs_tls() {
        let folder = tempfile::tempdir().unwrap();
        let [cert, key] = ["CERTIFICATE", "PRIVATE KEY"].map(|name| {
            let path = folder.path().join(name);
            std::fs::write(&path, format!("-----BEGIN {name}-----")).unwrap();
            Some(path)
        });
        let files = TlsFiles { ca: None, client_cert: cert, client_key: key };
        assert!(connector("amqps://host", files.clone()).is_ok());
        let error = connector("amqp://host", files).unwrap_err().to_string();
        assert!(error.starts_with("queue.client_cert: needs TLS"), "{error}");
    }

    #[test]
    fn one_node_that_may_answer_later_is_reason_to_wait() {
        let (refused, away) = (JobError::invalid("queue.url", "a refuses"), broken("b is away"));
        assert_eq!(of_all(vec![refused.clone(), refused.clone()]), refused);
        let both = of_all(vec![refused, away]);
        assert!(both.is_transient() && both.to_string() == "queue: queue.url: a refuses; b is away", "{both}");
    }
}
