//! Outgoing messages.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};

use super::topology::{DEAD_EXCHANGE, DEAD_LETTERS, EVENTS, JOBS, LATER, queue_of};
use crate::{
    job::{JobError, TraceContext},
    queue::{Dispatch, Event, Reply},
};

/// Written to disk before it is confirmed.
const PERSISTENT: u8 = 2;

/// The header of a message that was sent because of a row. A message without it is a submission, and may be the first
/// that anyone hears of its job.
const DISPATCH: &str = "x-acetate-dispatch";

/// The only value of [`DISPATCH`].
const MARK: &str = "1";

/// The `app_id` of our messages. Dispatches of versions before [`DISPATCH`] have only this.
const APP: &str = "acetate";

/// The `app_id` of a dispatch that was published again as a submission.
const FROM_DEAD_LETTERS: &str = "acetate-dead-letters";

const COPY: &str = "acetate-copy-";

#[derive(Clone)]
pub(super) struct Outgoing<'a> {
    pub(super) exchange: &'static str,
    pub(super) key: &'a str,
    /// It is an error if no queue takes the message. The required `message_id` identifies it.
    pub(super) mandatory: bool,
    pub(super) body: &'a [u8],
    pub(super) properties: BasicProperties,
}

impl<'a> Outgoing<'a> {
    pub(super) fn dispatch(dispatch: &'a Dispatch) -> Self {
        let mut headers = FieldTable::default();
        headers.insert(DISPATCH.into(), AMQPValue::LongString(MARK.into()));
        add_trace(&mut headers, dispatch.trace.as_ref());
        let properties = persistent()
            .with_content_type("application/json".into())
            .with_app_id(APP.into())
            .with_type(dispatch.kind.as_str().into())
            .with_message_id(dispatch.id.to_string().into())
            .with_priority(dispatch.priority.min(9))
            .with_headers(headers);
        Self { exchange: JOBS, key: dispatch.kind.as_str(), mandatory: true, body: &dispatch.body, properties }
    }

    /// Directly to the queue that the sender named.
    pub(super) fn reply(reply: &'a Reply) -> Result<Self, JobError> {
        let short =
            |text: &str| ShortString::try_new(text).map_err(|error| JobError::invalid("reply_to", error.to_string()));
        let mut properties = persistent()
            .with_content_type("application/json".into())
            .with_app_id("acetate".into())
            .with_type(short(&reply.name)?)
            .with_message_id(uuid::Uuid::now_v7().to_string().into())
            .with_headers(trace_headers(reply.trace.as_ref()));
        if let Some(id) = &reply.to.correlation_id {
            properties = properties.with_correlation_id(short(id)?);
        }
        short(&reply.to.queue)?;
        Ok(Self { exchange: "", key: &reply.to.queue, mandatory: true, body: &reply.body, properties })
    }

    /// What it is and where it was sent.
    pub(super) fn destination(&self) -> String {
        match self.exchange {
            "" => format!("a message for the queue {}", self.key),
            EVENTS => format!("an event for the exchange {EVENTS} with the routing key {}", self.key),
            exchange => format!("a message for the exchange {exchange} with the routing key {}", self.key),
        }
    }

    /// The queue of ours that it goes to; none for events and answers.
    pub(super) fn queue(&self) -> Option<&'static str> {
        match self.exchange {
            JOBS => self.key.parse().ok().map(queue_of),
            DEAD_EXCHANGE => Some(DEAD_LETTERS),
            LATER => Some(LATER),
            _ => None,
        }
    }

    /// Why the broker may have refused it, and how to find the queue.
    pub(super) fn refusal(&self, vhost: &str) -> String {
        let what = self.destination();
        let full = "is full (x-max-length or a policy's max-length, with x-overflow reject-publish) or not available";
        let find = format!("rabbitmqctl list_queues -p {vhost} name messages state policy arguments");
        match (self.exchange, self.queue()) {
            ("", _) => format!("{what}: it {full}"),
            (EVENTS, _) => format!(
                "{what}: a queue that is bound to {EVENTS} {full}. Find it: rabbitmqctl list_bindings -p {vhost} \
                 source_name destination_name | grep {EVENTS}, and {find}"
            ),
            (_, Some(queue)) => format!("{what}: the queue {queue} {full}; see {find}"),
            (_, None) => format!("{what}: its queue {full}; see {find}"),
        }
    }

    /// A message that no queue takes.
    pub(super) fn question() -> Self {
        Self { exchange: JOBS, key: "question", mandatory: false, body: &[], properties: BasicProperties::default() }
    }

    /// An event's name is its routing key, which has a limited length.
    pub(super) fn event(event: &'a Event) -> Result<Self, JobError> {
        let name = ShortString::try_new(&event.name).map_err(|error| JobError::invalid("event", error.to_string()))?;
        let properties = persistent()
            .with_content_type("application/json".into())
            .with_app_id(APP.into())
            .with_type(name)
            .with_headers(trace_headers(event.trace.as_ref()));
        Ok(Self { exchange: EVENTS, key: &event.name, mandatory: false, body: &event.body, properties })
    }
}

/// The headers of W3C Trace Context, as long strings.
fn trace_headers(trace: Option<&TraceContext>) -> FieldTable {
    let mut headers = FieldTable::default();
    add_trace(&mut headers, trace);
    headers
}

fn add_trace(headers: &mut FieldTable, trace: Option<&TraceContext>) {
    let Some(trace) = trace else { return };
    headers.insert("traceparent".into(), AMQPValue::LongString(trace.traceparent().into()));
    if let Some(state) = trace.tracestate() {
        headers.insert("tracestate".into(), AMQPValue::LongString(state.into()));
    }
}

/// The trace of a message that anyone may have sent.
pub(super) fn trace_of(properties: &BasicProperties) -> Option<TraceContext> {
    let headers = properties.headers().as_ref()?.inner();
    let text = |name: &str| match headers.get(name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    };
    TraceContext::read("a message's headers", text("traceparent").as_deref(), text("tracestate").as_deref())
}

/// Whether a message was sent because of a row, by this version or an older one.
pub(super) fn is_dispatch(properties: &BasicProperties) -> bool {
    let mark = properties.headers().as_ref().and_then(|headers| headers.inner().get(DISPATCH));
    // What others write there, by mistake or to be let in, makes no dispatch.
    let marked = matches!(mark, Some(AMQPValue::LongString(text)) if text.as_bytes() == MARK.as_bytes());
    marked || properties.app_id().as_ref().is_some_and(|app| app.as_str() == APP)
}

/// The headers without those that the broker adds when it moves or delivers a message. With them, it would take a
/// message that comes back for one that goes round in circles, and drop it.
pub(super) fn without_deaths(properties: &BasicProperties) -> FieldTable {
    const BY_BROKER: [&str; 3] = ["x-death", "x-delivery-count", "x-acquired-count"];
    let mut headers = properties.headers().as_ref().map_or_else(Default::default, |headers| headers.inner().clone());
    headers.retain(|name, _| {
        let name = name.as_str();
        !BY_BROKER.contains(&name) && !name.starts_with("x-first-death-") && !name.starts_with("x-last-death-")
    });
    FieldTable::from(headers)
}

/// The message as a submission, which may be the first that anyone hears of its job.
pub(super) fn as_submission(properties: BasicProperties) -> BasicProperties {
    let mut headers = properties.headers().as_ref().map_or_else(Default::default, |headers| headers.inner().clone());
    headers.retain(|name, _| name.as_str() != DISPATCH);
    let properties = properties.with_headers(FieldTable::from(headers));
    match properties.app_id().as_ref().is_some_and(|app| app.as_str() == APP) {
        true => properties.with_app_id(FROM_DEAD_LETTERS.into()),
        false => properties,
    }
}

/// The `message_id` of a message that was sent without one, by which a returned message is recognized. It is no UUID,
/// so that nobody takes it for a job's id.
pub(super) fn copy_id() -> ShortString {
    format!("{COPY}{}", uuid::Uuid::now_v7()).into()
}

/// The property as the sender set it.
pub(super) fn own_message_id(properties: &BasicProperties) -> Option<String> {
    properties.message_id().as_ref().map(ToString::to_string).filter(|id| !id.starts_with(COPY))
}

pub(super) fn persistent() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(PERSISTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_mark_makes_a_dispatch() {
        let marked = |value: AMQPValue| {
            let mut headers = FieldTable::default();
            headers.insert(DISPATCH.into(), value);
            is_dispatch(&BasicProperties::default().with_headers(headers))
        };
        assert!(marked(AMQPValue::LongString("1".into())));
        for other in [
            AMQPValue::Boolean(false),
            AMQPValue::LongInt(1),
            AMQPValue::LongString("0".into()),
            AMQPValue::LongString("".into()),
            AMQPValue::Void,
        ] {
            assert!(!marked(other.clone()), "{other:?}");
        }
        assert!(!is_dispatch(&BasicProperties::default()));
        assert!(is_dispatch(&BasicProperties::default().with_app_id(APP.into())));
    }
}
