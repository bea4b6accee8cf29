//! Maps lapin's errors to ours. None of them contains a password.

use lapin::{
    Error, ErrorKind,
    protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError},
};

use crate::job::JobError;

pub(super) fn broken(reason: impl Into<String>) -> JobError {
    JobError::queue(reason.into())
}

/// An error while connecting to `place`: a refusal is permanent, everything else is temporary.
pub(super) fn connecting(place: &str, error: Error) -> JobError {
    let ErrorKind::ProtocolError(refused) = error.kind() else {
        if let Some(advice) = tls_advice(&reason(&error)) {
            return broken(format!("{place} cannot be reached: {advice}")).caused_by(error);
        }
        return broken(format!("{place} cannot be reached: {}", reason(&error))).caused_by(error);
    };
    let text = refused.get_message();
    match refused.kind() {
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

/// What to change after a failed TLS handshake.
fn tls_advice(reason: &str) -> Option<&'static str> {
    if reason.contains("InvalidContentType") {
        Some("its port does not speak TLS; use amqp:// in queue.url, or the port for TLS, usually 5671")
    } else if reason.contains("UnknownIssuer") {
        Some("its certificate is from an authority that is not trusted; add the authority to tls.ca_file")
    } else if reason.contains("NotValidForName") {
        Some("its certificate is for another host name; use that name in queue.url")
    } else {
        None
    }
}

/// The broker's message if there is one, otherwise lapin's.
pub(super) fn reason(error: &Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(error) => error.get_message().to_string(),
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
