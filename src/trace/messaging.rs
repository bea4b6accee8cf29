//! The spans of messages, by the semantic conventions for messaging and RabbitMQ
//! (<https://opentelemetry.io/docs/specs/semconv/messaging/rabbitmq/>).

use opentelemetry::{Context, KeyValue, trace::SpanKind};

use super::{
    begun_elsewhere,
    span::{Span, Start, link},
};
use crate::job::{BatchId, JobId, JobKind, TraceContext};

/// Where messages go or come from.
#[derive(Debug, Clone, PartialEq)]
pub struct Destination {
    system: &'static str,
    /// `exchange:routing key`, and for a consumer `:queue`.
    name: String,
    routing_key: Option<String>,
    /// Of the span's name, where `name` has too many values for one.
    short: Option<&'static str>,
}

impl Destination {
    pub fn exchange(exchange: &str, routing_key: &str) -> Self {
        Self::of_rabbitmq(format!("{exchange}:{routing_key}"), routing_key)
    }

    /// For a consumer.
    pub fn queue(exchange: &str, routing_key: &str, queue: &str) -> Self {
        Self::of_rabbitmq(format!("{exchange}:{routing_key}:{queue}"), routing_key)
    }

    /// A queue that a sender wants its answer in, through the exchange without a name.
    pub fn reply(queue: &str) -> Self {
        Self { short: Some("(temporary)"), ..Self::of_rabbitmq(queue.to_owned(), queue) }
    }

    /// The queue without a broker.
    pub fn in_process(kind: JobKind) -> Self {
        Self { system: "acetate", name: kind.to_string(), routing_key: None, short: None }
    }

    fn of_rabbitmq(name: String, routing_key: &str) -> Self {
        Self { system: "rabbitmq", name, routing_key: Some(routing_key.to_owned()), short: None }
    }

    fn span_name(&self, operation: &str) -> String {
        format!("{operation} {}", self.short.unwrap_or(&self.name))
    }

    fn attributes(&self, operation: &'static str, operation_type: &'static str) -> Vec<KeyValue> {
        let mut attributes = vec![
            KeyValue::new("messaging.system", self.system),
            KeyValue::new("messaging.destination.name", self.name.clone()),
            KeyValue::new("messaging.operation.name", operation),
            KeyValue::new("messaging.operation.type", operation_type),
        ];
        if let Some(key) = &self.routing_key {
            attributes.push(KeyValue::new("messaging.rabbitmq.destination.routing_key", key.clone()));
        }
        if self.short.is_some() {
            attributes.push(KeyValue::new("messaging.destination.temporary", true));
        }
        attributes
    }
}

/// The submission of jobs: attempts link to this span. `id` is for a single one.
pub fn send(destination: &Destination, jobs: usize, id: Option<JobId>) -> Span {
    let mut attributes = destination.attributes("send", "send");
    match id {
        Some(id) => attributes.extend(of_job(id)),
        None => {
            attributes.push(KeyValue::new("messaging.batch.message_count", i64::try_from(jobs).unwrap_or(i64::MAX)));
        }
    }
    Start {
        name: destination.span_name("send").into(),
        kind: SpanKind::Producer,
        parent: Context::current(),
        links: Vec::new(),
        attributes,
    }
    .begin()
}

/// A message of the outbox on its way to the broker. It carries the context of the submission, not of this span.
pub fn publish(destination: &Destination, id: JobId, submitted: Option<&TraceContext>) -> Span {
    let mut attributes = destination.attributes("publish", "send");
    attributes.extend(of_job(id));
    Start {
        name: destination.span_name("publish").into(),
        kind: SpanKind::Client,
        parent: begun_elsewhere(submitted),
        links: Vec::new(),
        attributes,
    }
    .begin()
}

/// An event or an answer about a job that has ended. Its message carries the context of this span.
pub fn event(
    destination: &Destination,
    id: JobId,
    submitted: Option<&TraceContext>,
    attempt: Option<&TraceContext>,
) -> Span {
    let mut attributes = destination.attributes("send", "send");
    attributes.push(KeyValue::new("acetate.job.id", id.to_string()));
    Start {
        name: destination.span_name("send").into(),
        kind: SpanKind::Producer,
        parent: begun_elsewhere(submitted),
        links: link("attempt", attempt).into_iter().collect(),
        attributes,
    }
    .begin()
}

/// An attempt.
pub struct Processed<'a> {
    pub destination: &'a Destination,
    pub job: JobId,
    pub kind: JobKind,
    pub message_id: Option<&'a str>,
    pub batch: Option<&'a BatchId>,
    pub worker: &'a str,
    pub attempt: u32,
    pub epoch: i64,
    /// The trace of the submission.
    pub submitted: Option<&'a TraceContext>,
}

/// The span of an attempt, which begins a trace.
pub fn process(of: &Processed<'_>) -> Span {
    let mut attributes = of.destination.attributes("process", "process");
    let id = of.job.to_string();
    attributes.push(KeyValue::new("messaging.message.id", of.message_id.unwrap_or(&id).to_owned()));
    attributes.push(KeyValue::new("messaging.client.id", of.worker.to_owned()));
    attributes.push(KeyValue::new("acetate.job.id", id));
    attributes.push(KeyValue::new("acetate.job.kind", of.kind.as_str()));
    attributes.push(KeyValue::new("acetate.job.attempt", i64::from(of.attempt)));
    attributes.push(KeyValue::new("acetate.job.epoch", of.epoch));
    if let Some(batch) = of.batch {
        attributes.push(KeyValue::new("acetate.batch", batch.to_string()));
    }
    Start {
        name: of.destination.span_name("process").into(),
        kind: SpanKind::Consumer,
        parent: Context::new(),
        links: link("submission", of.submitted).into_iter().collect(),
        attributes,
    }
    .begin()
    .or_passing_on(of.submitted)
}

/// The end of an attempt: the row, then the acknowledgment.
pub fn settle(destination: &Destination) -> Span {
    Start {
        name: destination.span_name("settle").into(),
        kind: SpanKind::Client,
        parent: Context::current(),
        links: Vec::new(),
        attributes: destination.attributes("settle", "settle"),
    }
    .begin()
}

fn of_job(id: JobId) -> [KeyValue; 2] {
    // A dispatch has the job's id as its own.
    [KeyValue::new("messaging.message.id", id.to_string()), KeyValue::new("acetate.job.id", id.to_string())]
}
