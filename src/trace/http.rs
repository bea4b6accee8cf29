//! The spans of HTTP, by the semantic conventions (<https://opentelemetry.io/docs/specs/semconv/http/http-spans/>).

use opentelemetry::{KeyValue, trace::SpanKind};

use super::{
    begun_elsewhere,
    span::{Span, Start, link},
};
use crate::job::{JobId, TraceContext};

/// A request to this server, in the trace that it came with.
pub fn request(method: &str, route: &str, path: &str, trace: Option<&TraceContext>) -> Span {
    Start {
        name: format!("{method} {route}").into(),
        kind: SpanKind::Server,
        parent: begun_elsewhere(trace),
        links: Vec::new(),
        attributes: vec![
            KeyValue::new("http.request.method", method.to_owned()),
            KeyValue::new("http.route", route.to_owned()),
            KeyValue::new("url.path", path.to_owned()),
            KeyValue::new("url.scheme", "http"),
        ],
    }
    .begin()
}

/// A call to a webhook. Its address may have a secret, so only the host is recorded. `tries` are those before this one.
pub fn call(
    host: (&str, u16),
    job: JobId,
    tries: u32,
    submitted: Option<&TraceContext>,
    attempt: Option<&TraceContext>,
) -> Span {
    let (name, port) = host;
    let mut attributes = vec![
        KeyValue::new("http.request.method", "POST"),
        KeyValue::new("server.address", name.to_owned()),
        KeyValue::new("server.port", i64::from(port)),
        KeyValue::new("acetate.job.id", job.to_string()),
    ];
    if tries > 0 {
        attributes.push(KeyValue::new("http.request.resend_count", i64::from(tries)));
    }
    Start {
        name: "POST".into(),
        kind: SpanKind::Client,
        parent: begun_elsewhere(submitted),
        links: link("attempt", attempt).into_iter().collect(),
        attributes,
    }
    .begin()
}

impl Span {
    /// The response to a request or a call. `is_error` depends on the side: a server's own failure, or any refusal that
    /// a client gets.
    pub fn answered(&self, status: u16, is_error: bool) {
        self.set("http.response.status_code", i64::from(status));
        if is_error {
            self.fail(&status.to_string(), "");
        }
    }
}
