//! Log lines as JSON, with the ids of the trace and the span that they belong to.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent,
        format::{Format, Json, JsonFields, Writer},
    },
    registry::LookupSpan,
};

use crate::trace;

/// tracing's own format, with `trace_id` and `span_id` as its last fields.
pub(super) struct JsonWithTrace(Format<Json>);

impl JsonWithTrace {
    pub(super) fn new() -> Self {
        Self(tracing_subscriber::fmt::format().json())
    }
}

impl<S: Subscriber + for<'span> LookupSpan<'span>> FormatEvent<S, JsonFields> for JsonWithTrace {
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(trace) = trace::current() else { return self.0.format_event(context, writer, event) };
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        let object = line.trim_end().strip_suffix('}').ok_or(fmt::Error)?;
        writeln!(writer, "{object},\"trace_id\":\"{}\",\"span_id\":\"{}\"}}", trace.trace_id(), trace.span_id())
    }
}
