//! Spans, by OpenTelemetry's semantic conventions.
//!
//! Without an exporter (`telemetry::export_traces`), spans cost nothing, are recorded nowhere, and pass the context of
//! their parent on: so a job's messages always have a trace if its submission has one.
//!
//! A submission is part of the trace that it came with. The attempts of a job may come hours later and may be several,
//! so each is a trace of its own, with links to the submission and to the attempt before it. Everything that is sent
//! because a job has ended is part of the submission's trace again, with a link to the attempt.

mod http;
mod messaging;
mod span;
mod stage;

use opentelemetry::{
    Context,
    context::FutureExt,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
};

use crate::job::TraceContext;

pub use http::{call, request};
pub use messaging::{Destination, Processed, event, process, publish, send, settle};
pub use span::Span;
pub use stage::{CurrentSpan, current_span, stage};

/// The context of the code that is running: that of its span, or one that came from elsewhere.
pub fn current() -> Option<TraceContext> {
    Context::map_current(|context| written(context.span().span_context()))
}

/// Runs `work` as part of a trace that began elsewhere.
pub fn within<F: Future>(trace: Option<&TraceContext>, work: F) -> impl Future<Output = F::Output> + use<F> {
    // Not an async function, which would hold `work` twice: the futures of jobs are large.
    work.with_context(begun_elsewhere(trace))
}

/// For a task that the running code starts.
pub fn with_current<F: Future>(work: F) -> impl Future<Output = F::Output> {
    work.with_current_context()
}

fn begun_elsewhere(trace: Option<&TraceContext>) -> Context {
    match trace.and_then(remote) {
        Some(span) => Context::new().with_remote_span_context(span),
        None => Context::new(),
    }
}

fn remote(trace: &TraceContext) -> Option<SpanContext> {
    let (id, span) = (TraceId::from_hex(trace.trace_id()).ok()?, SpanId::from_hex(trace.span_id()).ok()?);
    let state: TraceState = trace.tracestate().and_then(|state| state.parse().ok()).unwrap_or_default();
    Some(SpanContext::new(id, span, TraceFlags::new(trace.flags()), true, state))
}

fn written(span: &SpanContext) -> Option<TraceContext> {
    if !span.is_valid() {
        return None;
    }
    let parent = format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags());
    let state = span.trace_state().header();
    TraceContext::read("a span", Some(&parent), Some(state.as_str()).filter(|state| !state.is_empty()))
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{self, Poll, Waker},
    };

    use super::*;
    use crate::job::{JobError, JobId, JobKind};

    fn context() -> TraceContext {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03";
        TraceContext::read("test", Some(parent), Some("rojo=00f067aa0ba902b7,a@b=t61rcWkgMzE")).unwrap()
    }

    /// The result of something that waits for nothing.
    fn at_once<T>(work: impl Future<Output = T>) -> T {
        match pin!(work).poll(&mut task::Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result,
            Poll::Pending => panic!("it waits"),
        }
    }

    #[test]
    #[allow(clippy::async_yields_async, reason = "what runs later is made inside")]
    fn without_an_exporter_contexts_are_passed_on() {
        assert_eq!(current(), None);
        let given = context();
        let work = async {
            assert_eq!(current().as_ref(), Some(&given));
            let sent = send(&Destination::exchange("acetate.jobs", "edit"), 1, None);
            assert_eq!(sent.context().as_ref(), Some(&given));
            sent.end_with(&Err::<(), _>(JobError::Cancelled));
            with_current(async { current() })
        };
        let later = at_once(within(Some(&given), work));
        assert_eq!(current(), None);
        assert_eq!(at_once(later).as_ref(), Some(&given));
        let id = JobId::new();
        let destination = Destination::exchange("acetate.events", "job.failed");
        assert_eq!(event(&destination, id, Some(&given), None).context().as_ref(), Some(&given));
        assert_eq!(event(&destination, id, None, Some(&given)).context(), None);
        let attempt = process(&Processed {
            destination: &Destination::in_process(JobKind::Edit),
            job: id,
            kind: JobKind::Edit,
            message_id: None,
            batch: None,
            worker: "host:1:2",
            attempt: 1,
            epoch: 1,
            submitted: Some(&given),
        });
        // Logs have the submission's trace, and no attempt is kept as a span.
        assert_eq!((attempt.context().as_ref(), attempt.own()), (Some(&given), None));
    }
}
