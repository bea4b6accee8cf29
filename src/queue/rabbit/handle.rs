//! One unacknowledged message.

use std::{fmt, time::Duration};

use lapin::{
    BasicProperties, Channel,
    message::Delivery,
    options::{BasicAckOptions, BasicNackOptions},
    types::{AMQPValue, ShortString},
};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::{
    dead::letter_id,
    outgoing::{Outgoing, copy_id, is_dispatch, own_message_id, persistent, trace_of, without_deaths},
    publish::Publisher,
    topology::{DEAD_EXCHANGE, JOBS, LATER, queue_of},
};
use crate::{
    job::{ErrorRecord, JobError, JobKind, TraceContext},
    queue::{MessageSender, ReplyTo},
    trace::Destination,
};

/// The pause before returning a message that could not be dead-lettered. It prevents a tight loop with a failing
/// broker.
const PAUSE: Duration = Duration::from_secs(1);
/// All headers of a message share one frame.
const LONGEST_REASON: usize = 4096;
/// How often workers have left a message to newer ones, and since when, in seconds since 1970.
const LEFT: &str = "x-acetate-left";
const LEFT_SINCE: &str = "x-acetate-left-since";
/// How long the message is kept from all workers after the first time, which doubles each time.
const FIRST_LEAVE: Duration = Duration::from_secs(1);
const LONGEST_LEAVE: Duration = Duration::from_secs(30);
/// The longest pause where there is no queue for such messages. While it lasts, the message counts as one of those that
/// the worker holds, and keeps others out.
const LONGEST_HELD: Duration = Duration::from_secs(2);
/// The broker does not reply to this; only a full socket takes time.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(in crate::queue) struct Handle {
    /// Absent once the broker was notified.
    open: Option<OpenDelivery>,
    kind: JobKind,
    redelivered: bool,
    exchange: ShortString,
    properties: BasicProperties,
    body: Vec<u8>,
}

/// The data needed to acknowledge.
struct OpenDelivery {
    acker: lapin::Acker,
    /// Only an open channel can acknowledge, and it stays open while it is held.
    channel: Channel,
    publisher: Publisher,
}

impl Handle {
    pub(super) fn new(kind: JobKind, delivery: Delivery, channel: Channel, publisher: Publisher) -> Self {
        Self {
            open: Some(OpenDelivery { acker: delivery.acker, channel, publisher }),
            kind,
            redelivered: delivery.redelivered,
            exchange: delivery.exchange,
            properties: delivery.properties,
            body: delivery.data,
        }
    }

    pub(in crate::queue) fn kind(&self) -> JobKind {
        self.kind
    }

    pub(in crate::queue) fn redelivered(&self) -> bool {
        self.redelivered
    }

    pub(in crate::queue) fn body(&self) -> &[u8] {
        &self.body
    }

    pub(in crate::queue) fn message_id(&self) -> Option<&str> {
        self.properties.message_id().as_ref().map(ShortString::as_str)
    }

    pub(in crate::queue) fn is_dispatch(&self) -> bool {
        is_dispatch(&self.properties)
    }

    pub(in crate::queue) fn trace(&self) -> Option<TraceContext> {
        trace_of(&self.properties)
    }

    pub(in crate::queue) fn destination(&self) -> Destination {
        Destination::queue(JOBS, self.kind.as_str(), queue_of(self.kind))
    }

    pub(in crate::queue) fn reply_to(&self) -> Option<ReplyTo> {
        let queue = self.properties.reply_to().as_ref()?.to_string();
        let correlation_id = self.properties.correlation_id().as_ref().map(ToString::to_string);
        (!queue.is_empty()).then_some(ReplyTo { queue, correlation_id })
    }

    pub(in crate::queue) fn sender(&self) -> MessageSender {
        MessageSender {
            user: self.properties.user_id().as_ref().map(ToString::to_string),
            app: self.properties.app_id().as_ref().map(ToString::to_string),
            exchange: self.exchange.to_string(),
        }
    }

    pub(in crate::queue) fn left_for(&self) -> Option<Duration> {
        let since = u64::try_from(self.number(LEFT_SINCE)?).ok()?;
        Some(Duration::from_secs(now().saturating_sub(since)))
    }

    fn number(&self, header: &str) -> Option<i64> {
        match self.properties.headers().as_ref()?.inner().get(header)? {
            AMQPValue::LongLongInt(number) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn priority(&self) -> u8 {
        self.properties.priority().unwrap_or_default()
    }

    /// Whether the message can still be acknowledged; it cannot once the channel is closed.
    pub(super) fn is_usable(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.acker.usable())
    }

    pub(in crate::queue) async fn ack(mut self) {
        if let Some(open) = self.open.take() {
            open.ack().await;
        }
    }

    pub(in crate::queue) async fn give_back(mut self) {
        if let Some(open) = self.open.take() {
            open.give_back().await;
        }
    }

    /// Publishes the message to where it waits for a while, and acknowledges it once that is confirmed. Then it comes
    /// back to the end of the queue.
    pub(in crate::queue) fn leave(mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let times = self.number(LEFT).unwrap_or(0).max(0);
        let doubled = 1u32.checked_shl(times.try_into().unwrap_or(u32::MAX)).unwrap_or(u32::MAX);
        let mut headers = without_deaths(&self.properties);
        headers.insert(LEFT.into(), AMQPValue::LongLongInt(times.saturating_add(1)));
        let since = self.number(LEFT_SINCE).unwrap_or_else(|| now().try_into().unwrap_or(i64::MAX));
        headers.insert(LEFT_SINCE.into(), AMQPValue::LongLongInt(since));
        // Without an id, a message that no queue takes would go unnoticed.
        let id = self.properties.message_id().clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string().into());
        let properties = self.properties.clone().with_headers(headers).with_message_id(id).with_delivery_mode(2);
        let pause = FIRST_LEAVE.saturating_mul(doubled).min(LONGEST_LEAVE);
        let key = self.kind.as_str();
        runtime.spawn(async move {
            let Some(publisher) = self.open.as_ref().map(|open| open.publisher.clone()) else { return };
            let (exchange, properties) = match publisher.has_later().await {
                Ok(true) => (LATER, properties.with_expiration(pause.as_millis().to_string().into())),
                // An error shows again when the message is published.
                Ok(false) | Err(_) => {
                    sleep(pause.min(LONGEST_HELD)).await;
                    (JOBS, properties)
                }
            };
            // Where the broker took it back meanwhile, a copy would be one too many.
            let Some(open) = self.open.as_ref().filter(|open| open.acker.usable()) else { return };
            let message = Outgoing { exchange, key, mandatory: true, body: &self.body, properties };
            let published = open.publisher.one(message).await;
            let Some(open) = self.open.take() else { return };
            match published {
                Ok(()) => open.ack().await,
                Err(error) => {
                    debug!(%error, "a message that should wait goes back where it was");
                    publisher.forget_later().await;
                    sleep(PAUSE).await;
                    open.give_back().await;
                }
            }
        });
    }

    /// Publishes the message again with the reason in its headers, and returns it once that is confirmed: a crash
    /// before it is acknowledged duplicates the message but does not lose it.
    pub(in crate::queue) async fn dead_letter(mut self, reason: &ErrorRecord) -> Result<Self, JobError> {
        let Some(open) = &self.open else { return Ok(self) };
        let message = Outgoing {
            exchange: DEAD_EXCHANGE,
            key: self.kind.as_str(),
            mandatory: true,
            body: &self.body,
            properties: self.with_reason(reason),
        };
        match open.publisher.one(message).await {
            Ok(()) => {
                let (queue, own_id) = (queue_of(self.kind), own_message_id(&self.properties));
                let letter = letter_id(own_id.as_deref(), Some(queue), Some(&reason.code), &self.body);
                warn!(
                    queue,
                    message_id = self.message_id(),
                    code = reason.code,
                    reason = shortened(&reason.message),
                    "a message was dead-lettered: acetate dead-letters show {letter}"
                );
                Ok(self)
            }
            // The queue of dead letters is full. It waits beside the others, so that those go on.
            Err(error @ JobError::Unconfirmed { .. }) => {
                self.leave();
                Err(error)
            }
            Err(error) => {
                sleep(PAUSE).await;
                if let Some(open) = self.open.take() {
                    open.give_back().await;
                }
                Err(error)
            }
        }
    }

    /// The sender's properties that describe the message, not its delivery. A dispatch stays one, however often it is
    /// retried: without its job's row there is nothing to run.
    fn with_reason(&self, reason: &ErrorRecord) -> BasicProperties {
        let sent = &self.properties;
        let mut headers = sent.headers().clone().unwrap_or_default();
        let mut header = |name: &str, value: &str| {
            headers.insert(name.into(), AMQPValue::LongString(value.into()));
        };
        header("x-acetate-code", &reason.code);
        header("x-acetate-reason", shortened(&reason.message));
        header("x-acetate-queue", queue_of(self.kind));
        let id = sent.message_id().clone().unwrap_or_else(copy_id);
        let mut properties = persistent().with_message_id(id).with_headers(headers).with_timestamp(now());
        for (value, set) in [
            (sent.content_type(), BasicProperties::with_content_type as fn(_, _) -> _),
            (sent.content_encoding(), BasicProperties::with_content_encoding),
            (sent.correlation_id(), BasicProperties::with_correlation_id),
            (sent.kind(), BasicProperties::with_type),
            (sent.app_id(), BasicProperties::with_app_id),
        ] {
            if let Some(value) = value {
                properties = set(properties, value.clone());
            }
        }
        properties
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    jiff::Timestamp::now().as_second().try_into().unwrap_or_default()
}

fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST_REASON)]
}

impl OpenDelivery {
    async fn ack(self) {
        // Nothing is lost if the acknowledgment does not arrive: the broker redelivers the message.
        match timeout(TIMEOUT, self.acker.ack(BasicAckOptions::default())).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => debug!("not acknowledged: the channel is closed, the message is redelivered"),
            Ok(Err(error)) => debug!(%error, "not acknowledged, the message is redelivered"),
            Err(_) => debug!("not acknowledged: the socket is stuck, the message is redelivered"),
        }
        drop(self.channel);
    }

    async fn give_back(self) {
        let requeue = BasicNackOptions { requeue: true, multiple: false };
        if !matches!(timeout(TIMEOUT, self.acker.nack(requeue)).await, Ok(Ok(true))) {
            debug!("not given back: the channel is closed, so the message is redelivered");
        }
        drop(self.channel);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let (Some(open), Ok(runtime)) = (self.open.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(open.give_back());
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("kind", &self.kind)
            .field("message_id", &self.message_id())
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let long = "ä".repeat(LONGEST_REASON);
        assert!(shortened(&long).len() <= LONGEST_REASON);
        assert_eq!(shortened("short"), "short");
    }
}
