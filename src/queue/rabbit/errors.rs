//! Maps lapin's errors to ours. None of them contains a password.

use lapin::{
    Error, ErrorKind,
    protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError},
    uri::AMQPUri,
};

use super::address::{host_and_port, is_tls};
use crate::job::{JobError, NO_OPEN_FILES, certificate_advice, lacks_open_files};

pub(super) fn broken(reason: impl Into<String>) -> JobError {
    JobError::queue(reason.into())
}

/// An error while connecting to `place`: a refusal is permanent, everything else is temporary.
pub(super) fn connecting(place: &str, node: &AMQPUri, error: Error) -> JobError {
    let ErrorKind::ProtocolError(refused) = error.kind() else {
        let text = reason(&error);
        let advice = match error.kind() {
            ErrorKind::IOError(error) if lacks_open_files(&**error) => Some(NO_OPEN_FILES.to_owned()),
            _ => certificate_advice(&text, &host_and_port(node)).or_else(|| advice(&text, node).map(str::to_owned)),
        };
        let advice = advice.map(|advice| format!("; {advice}")).unwrap_or_default();
        return broken(format!("{place} cannot be reached: {text}{advice}")).caused_by(error);
    };
    let text = refused.get_message();
    match refused.kind() {
        // Others may disconnect, or the limit may be raised.
        _ if limit(text.as_str()).is_some() => {
            broken(format!("{place} takes no more connections of this worker, server or command: {}", reason(&error)))
                .caused_by(error)
        }
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
            JobError::invalid("queue.url", format!("{place} refuses the user or the password ({text})"))
        }
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => JobError::invalid(
            "queue.url",
            format!("{place} refuses this user access to the virtual host, or it does not exist ({text})"),
        ),
        _ => broken(format!("{place} closed the connection: {text}")).caused_by(error),
    }
}

/// What to do about an error, by the words of lapin and rustls.
fn advice(text: &str, node: &AMQPUri) -> Option<&'static str> {
    const MEANS: [(&str, &str); 7] = [
        (
            "InvalidContentType",
            "this port does not speak TLS: use the port for TLS, usually 5671, or amqp:// in queue.url",
        ),
        ("UnknownIssuer", "the server's certificate is from an unknown authority: name its certificate in tls.ca_file"),
        ("NotValidForName", "the server's certificate is for another host name: use that name in queue.url"),
        ("certificate not valid for name", "use the name in the server's certificate as the host of queue.url"),
        ("CertificateRequired", "the server requires a client certificate: set queue.client_cert and queue.client_key"),
        ("UnknownCA", "the server does not know the authority of the client certificate in queue.client_cert"),
        ("HandshakeFailure", "the server may require a client certificate: queue.client_cert and queue.client_key"),
    ];
    // The usual ports of RabbitMQ, which are easily mistaken for each other.
    let closed = ["failed to parse", "reset", "abort", "closed", "unexpected end", "eof", "invalid"].iter();
    if !text.contains("refused") && closed.clone().any(|word| text.to_lowercase().contains(word)) {
        match node.authority.port {
            15672 | 15671 => {
                return Some("this is the port of the management page; queue.url needs that of AMQP, usually 5672");
            }
            15692 | 15691 => {
                return Some("this is the port of the metrics; queue.url needs that of AMQP, usually 5672");
            }
            25672 => return Some("this is the port between nodes; queue.url needs that of AMQP, usually 5672"),
            5671 if !is_tls(node) => {
                return Some("this is usually the port for TLS: let queue.url begin with amqps://");
            }
            _ => {}
        }
    }
    if !is_tls(node) {
        let other = "what responds is not RabbitMQ's AMQP port; if it is its port for TLS, use amqps://";
        return text.starts_with("failed to parse").then_some(other);
    }
    MEANS.iter().find(|(word, _)| text.contains(word)).map(|(_, advice)| *advice)
}

/// Whether the broker closed a channel because a delivery was not acknowledged in time, as versions before 4.3 do.
pub(super) fn is_consumer_timeout(error: &Error) -> bool {
    let text = reason(error);
    differs(error) && text.contains("acknowledgement") && text.contains("timed out")
}

/// Whether an exchange or queue does not exist.
pub(super) fn is_missing(error: &Error) -> bool {
    is_soft(error, &AMQPSoftError::NOTFOUND)
}

/// Whether a message was not sent because its exchange does not exist.
pub(super) fn is_gone(error: &JobError) -> bool {
    matches!(error, JobError::Queue { source: Some(cause), .. }
        if cause.downcast_ref::<Error>().is_some_and(is_missing))
}

/// What the broker says when a limit of its operator is reached, and what that is about.
const LIMITS: [(&str, &str); 7] = [
    ("queue limit in vhost", "rabbitmqctl set_vhost_limits -p VHOST '{\"max-queues\": N}'; acetate has five queues"),
    ("queue limit", "cluster_queue_limit in rabbitmq.conf; acetate has five queues"),
    ("exchange limit", "cluster_exchange_limit in rabbitmq.conf; acetate has three exchanges"),
    (
        "user connection limit",
        "rabbitmqctl set_user_limits USER '{\"max-connections\": N}'; a worker has two connections",
    ),
    ("node connection limit", "connection_max in rabbitmq.conf; a worker has two connections"),
    (
        "connection limit",
        "rabbitmqctl set_vhost_limits -p VHOST '{\"max-connections\": N}'; a worker has two connections",
    ),
    (
        "maximum allowed user limit",
        "rabbitmqctl set_user_limits USER '{\"max-channels\": N}'; a worker has about ten channels",
    ),
];

/// How to raise the limit that the broker's message is about. It may be reached again, and be free a moment later.
pub(super) fn limit(text: &str) -> Option<&'static str> {
    let reached = text.contains("is reached") || text.contains("has reached");
    LIMITS.iter().find(|(words, _)| reached && text.contains(words)).map(|(_, raise)| *raise)
}

/// The broker's message if there is one, otherwise lapin's.
pub(super) fn reason(error: &Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(error) => {
            let text = error.get_message().to_string();
            match limit(&text) {
                Some(raise) => format!("{text}. Raise the limit: {raise}"),
                None => text,
            }
        }
        ErrorKind::IOError(error) => error.to_string(),
        _ => error.to_string(),
    }
}

/// Whether an exchange or queue exists with other properties than requested.
pub(super) fn differs(error: &Error) -> bool {
    is_soft(error, &AMQPSoftError::PRECONDITIONFAILED)
}

pub(super) fn is_refused(error: &Error) -> bool {
    is_soft(error, &AMQPSoftError::ACCESSREFUSED)
}

fn is_soft(error: &Error, wanted: &AMQPSoftError) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(error)
        if matches!(error.kind(), AMQPErrorKind::Soft(soft) if soft == wanted))
}
