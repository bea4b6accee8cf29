//! A collector of traces: what it receives by OTLP is decoded, not searched.

use std::{
    fmt,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use prost::Message;

use crate::common::until;

pub struct Collector {
    port: u16,
    received: Arc<Mutex<Vec<Received>>>,
}

/// A span, and the attributes of the process that made it.
#[derive(Clone)]
pub struct Received {
    pub span: Span,
    resource: Vec<KeyValue>,
}

impl Collector {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let received = Arc::<Mutex<Vec<Received>>>::default();
        let into = Arc::clone(&received);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let into = into.clone();
                std::thread::spawn(move || serve(stream.unwrap(), &into));
            }
        });
        Self { port, received }
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The settings of a process whose spans come at once.
    pub fn settings(&self) -> [(String, String); 2] {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), self.endpoint()),
            ("OTEL_BSP_SCHEDULE_DELAY".to_owned(), "50".to_owned()),
        ]
    }

    pub fn all(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// The spans about a job with this name, in order of their start, once there are so many.
    pub async fn of_job(&self, id: &str, name: &str, count: usize) -> Vec<Received> {
        let found = || {
            let mut spans = self.all();
            spans.retain(|span| span.span.name == name && span.text("acetate.job.id").as_deref() == Some(id));
            spans.sort_by_key(|span| span.span.start_time_unix_nano);
            spans
        };
        until(|| async {
            let spans = found();
            if spans.len() >= count { Ok(()) } else { Err(format!("no `{name}` of {id} in {:#?}", self.all())) }
        })
        .await;
        found()
    }

    /// The parts of a span.
    pub fn children(&self, of: &Received) -> Vec<Received> {
        let mut children = self.all();
        children.retain(|span| span.span.trace_id == of.span.trace_id && span.span.parent_span_id == of.span.span_id);
        children.sort_by_key(|span| span.span.start_time_unix_nano);
        children
    }
}

fn serve(mut stream: TcpStream, into: &Mutex<Vec<Received>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let (mut length, mut line, mut first) = (0, String::new(), String::new());
        loop {
            line.clear();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let Some((name, value)) = line.trim().split_once(": ") else {
                if line.trim().is_empty() {
                    break;
                }
                first = line.trim().to_owned();
                continue;
            };
            match name.to_lowercase().as_str() {
                "content-length" => length = value.parse().unwrap(),
                "content-type" => assert_eq!(value, "application/x-protobuf"),
                _ => {}
            }
        }
        assert_eq!(first, "POST /v1/traces HTTP/1.1");
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let request = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
        for spans in request.resource_spans {
            let resource = spans.resource.unwrap_or_default().attributes;
            let spans = spans.scope_spans.into_iter().flat_map(|scope| scope.spans);
            into.lock().unwrap().extend(spans.map(|span| Received { span, resource: resource.clone() }));
        }
        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_err() {
            return;
        }
    }
}

impl Received {
    pub fn text(&self, name: &str) -> Option<String> {
        text(&self.span.attributes, name)
    }

    pub fn number(&self, name: &str) -> Option<i64> {
        match value(&self.span.attributes, name)? {
            Value::IntValue(number) => Some(*number),
            _ => None,
        }
    }

    pub fn service(&self) -> Option<String> {
        text(&self.resource, "service.name")
    }

    pub fn kind(&self) -> SpanKind {
        self.span.kind()
    }

    pub fn failed(&self) -> bool {
        self.span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error)
    }

    pub fn trace_id(&self) -> String {
        hex(&self.span.trace_id)
    }

    pub fn span_id(&self) -> String {
        hex(&self.span.span_id)
    }

    pub fn parent_id(&self) -> String {
        hex(&self.span.parent_span_id)
    }

    /// `traceparent` as this span would write it.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.trace_id(), self.span_id())
    }

    /// What it links to: `(which, trace, span)`.
    pub fn links(&self) -> Vec<(String, String, String)> {
        let link = |link: &opentelemetry_proto::tonic::trace::v1::span::Link| {
            let which = text(&link.attributes, "acetate.link").unwrap_or_default();
            (which, hex(&link.trace_id), hex(&link.span_id))
        };
        self.span.links.iter().map(link).collect()
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { span, .. } = self;
        write!(f, "{}/{} in {}: {} ", self.trace_id(), self.span_id(), self.parent_id(), span.name)?;
        let attributes: Vec<_> = span.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
        write!(f, "{:?} {attributes:?} links {:?}", self.kind(), self.links())
    }
}

fn value<'a>(attributes: &'a [KeyValue], name: &str) -> Option<&'a Value> {
    attributes.iter().find(|attribute| attribute.key == name)?.value.as_ref()?.value.as_ref()
}

fn text(attributes: &[KeyValue], name: &str) -> Option<String> {
    match value(attributes, name)? {
        Value::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
