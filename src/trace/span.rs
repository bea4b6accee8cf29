//! One span.

use std::borrow::Cow;

use opentelemetry::{
    Context, KeyValue, Value,
    context::FutureExt,
    global,
    trace::{Link, SpanKind, Status, TraceContextExt, Tracer},
};

use super::{remote, written};
use crate::job::{JobError, TraceContext};

/// The name of what creates the spans.
const SCOPE: &str = "acetate";

/// A span that has begun; it ends when it is dropped.
#[derive(Debug)]
pub struct Span {
    context: Context,
}

/// What is known of a span when it begins.
pub(super) struct Start {
    pub name: Cow<'static, str>,
    pub kind: SpanKind,
    pub parent: Context,
    pub links: Vec<Link>,
    pub attributes: Vec<KeyValue>,
}

impl Start {
    pub(super) fn begin(self) -> Span {
        let tracer = global::tracer(SCOPE);
        let builder =
            tracer.span_builder(self.name).with_kind(self.kind).with_links(self.links).with_attributes(self.attributes);
        Span { context: self.parent.with_span(tracer.build_with_context(builder, &self.parent)) }
    }
}

impl Span {
    /// What a message about this carries.
    pub fn context(&self) -> Option<TraceContext> {
        written(self.context.span().span_context())
    }

    /// Only if it is a span of this process, and not the context of another one that is passed on.
    pub fn own(&self) -> Option<TraceContext> {
        self.context().filter(|_| !self.context.span().span_context().is_remote())
    }

    /// Whether there is any use in computing attributes.
    pub fn is_recording(&self) -> bool {
        self.context.span().is_recording()
    }

    /// Runs `work` in this span: spans that begin meanwhile are its children.
    pub fn within<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        work.with_context(self.context.clone())
    }

    pub fn set(&self, key: &'static str, value: impl Into<Value>) {
        self.context.span().set_attribute(KeyValue::new(key, value));
    }

    pub fn add_event(&self, name: &'static str, key: &'static str, value: impl Into<Value>) {
        self.context.span().add_event(name, vec![KeyValue::new(key, value)]);
    }

    /// `what` says which span it is, in the attribute `acetate.link`.
    pub fn add_link(&self, what: &'static str, to: &TraceContext) {
        if let Some(link) = link(what, Some(to)) {
            self.context.span().add_link(link.span_context, link.attributes);
        }
    }

    /// Marks the span as failed. `code` is a stable word.
    pub fn fail(&self, code: &str, message: &str) {
        let span = self.context.span();
        if span.is_recording() {
            span.set_attribute(KeyValue::new("error.type", code.to_owned()));
            span.set_status(Status::error(message.to_owned()));
        }
    }

    /// Marks the span as failed if the result is an error. A cancelled job is not a failure.
    pub fn note<T>(&self, result: &Result<T, JobError>) {
        match result {
            Ok(_) | Err(JobError::Cancelled) => {}
            Err(error) if self.is_recording() => self.fail(error.code(), &error.to_string()),
            Err(_) => {}
        }
    }

    /// Ends the span with a result.
    pub fn end_with<T>(self, result: &Result<T, JobError>) {
        self.note(result);
    }

    /// Takes the place of a span that is recorded nowhere: what is logged and sent has this context.
    pub(super) fn or_passing_on(self, trace: Option<&TraceContext>) -> Self {
        match trace.and_then(remote).filter(|_| !self.context.span().span_context().is_valid()) {
            Some(span) => Self { context: Context::new().with_remote_span_context(span) },
            None => self,
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        // A task that still has the context would otherwise keep the span open.
        self.context.span().end();
    }
}

/// A link; none if there is nothing to link to.
pub(super) fn link(what: &'static str, to: Option<&TraceContext>) -> Option<Link> {
    let to = remote(to?)?;
    Some(Link::new(to, vec![KeyValue::new("acetate.link", what)], 0))
}
