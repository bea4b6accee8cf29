//! Looks at the dead letters one by one, and retries or removes some.
//!
//! AMQP has no way to look at a message without taking it. So they are taken one after another and not acknowledged;
//! closing the channel returns what is left to its place. RabbitMQ 4.0 to 4.2 counts each return, and deletes a message
//! after 20 of them: one that was returned often is replaced by a copy, which starts again.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use lapin::{
    BasicProperties, Channel, Connection,
    message::Delivery,
    options::{BasicAckOptions, BasicGetOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{sync::OwnedMutexGuard, time::timeout};
use tracing::{debug, warn};

use super::{
    Core, DEAD_EXCHANGE, DEAD_LETTERS, JOBS, RabbitQueue,
    errors::{broken, is_missing, is_refused, reason},
    outgoing::{Outgoing, as_submission, copy_id, own_message_id},
    publish::Publisher,
    topology::queue_of,
};
use crate::{
    job::{JobError, JobKind},
    queue::{Content, DeadLetter, DeadLetterRetry, dead_letter::ID_DIGITS, message::MAX_KEPT_BYTES},
};

/// The limit is 20 unless a policy sets another.
const MOST_RETURNS: i64 = 15;
/// How many are taken so that all of them keep their order.
const MOST_TAKEN: u32 = 10_000;
/// How much of a header's text is shown, and how deep.
const LONGEST_HEADER: usize = 4096;
const DEEPEST: usize = 8;
/// Headers that describe the death of a message, or its deliveries.
const OF_DEATH: [&str; 3] = ["x-acetate-code", "x-acetate-reason", "x-acetate-queue"];
const BY_BROKER: [&str; 7] = [
    "x-death",
    "x-first-death-",
    "x-last-death-",
    "x-delivery-count",
    "x-acquired-count",
    "x-acetate-left",
    "x-acetate-left-since",
];

/// The dead letters, as seen by one reader. Dropping it returns what was taken.
pub(in crate::queue) struct DeadLetters {
    channel: Channel,
    connection: Connection,
    publisher: Publisher,
    place: String,
    limit: Duration,
    /// How many there were at first. What arrives later, as a copy or a letter that died again, is not looked at.
    total: u32,
    taken: u32,
    /// Two readers of one process would hide the letters from each other.
    _turn: OwnedMutexGuard<()>,
}

/// A dead letter that this reader has taken.
pub(in crate::queue) struct UnackedLetter {
    pub(in crate::queue) letter: DeadLetter,
    delivery: Delivery,
}

impl RabbitQueue {
    pub(in crate::queue) async fn dead_letters(&self) -> Result<DeadLetters, JobError> {
        let core: &Core = &self.core;
        let (place, limit) = (core.connector.place(), core.options.connect_timeout);
        let turn = core.dead.clone().lock_owned().await;
        let connection = core.connector.connect("dead letters").await?;
        let begin = async {
            let channel = connection.create_channel().await?;
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let queue = channel.queue_declare(DEAD_LETTERS.into(), passive, FieldTable::default()).await?;
            Ok::<_, lapin::Error>((channel, queue.message_count()))
        };
        let (channel, total) = match timeout(limit, begin).await {
            Ok(Ok(begun)) => begun,
            Ok(Err(error)) => return Err(explain(&place, error)),
            Err(_) => return Err(broken(format!("{place} did not respond within {limit:?}"))),
        };
        let publisher = self.publisher.clone();
        Ok(DeadLetters { channel, connection, publisher, place, limit, total, taken: 0, _turn: turn })
    }
}

impl DeadLetters {
    pub(in crate::queue) fn total(&self) -> u32 {
        self.total
    }

    /// Takes the next one; none after the last.
    pub(in crate::queue) async fn next(&mut self) -> Result<Option<UnackedLetter>, JobError> {
        if self.taken >= self.total {
            return Ok(None);
        }
        let got = self.channel.basic_get(DEAD_LETTERS.into(), BasicGetOptions::default());
        match timeout(self.limit, got).await {
            Ok(Ok(Some(message))) => {
                self.taken += 1;
                let delivery = message.delivery;
                Ok(Some(UnackedLetter { letter: read(&delivery, self.taken), delivery }))
            }
            Ok(Ok(None)) => Ok(None),
            Ok(Err(error)) => Err(explain(&self.place, error)),
            Err(_) => Err(broken(format!("{} did not respond within {:?}", self.place, self.limit))),
        }
    }

    /// Leaves one where it is.
    pub(in crate::queue) async fn keep(&mut self, held: UnackedLetter) {
        let returns = held.number("x-delivery-count").unwrap_or_default();
        if returns < MOST_RETURNS {
            return;
        }
        let properties = held.properties(&["x-delivery-count", "x-acquired-count"]);
        let copy = Outgoing {
            exchange: DEAD_EXCHANGE,
            key: held.delivery.routing_key.as_str(),
            mandatory: true,
            body: &held.delivery.data,
            properties,
        };
        match self.publisher.one(copy).await {
            Ok(()) => {
                if let Err(error) = self.remove(held).await {
                    debug!(%error, "a dead letter is there twice now");
                }
            }
            Err(error) => {
                warn!(id = held.letter.id, returns, %error, "RabbitMQ may delete this dead letter when it is looked at again");
            }
        }
    }

    /// Publishes letters again, and waits until that is confirmed.
    pub(in crate::queue) async fn publish(
        &self,
        letters: &[UnackedLetter],
        how: DeadLetterRetry,
    ) -> Vec<Result<(), JobError>> {
        let kinds: Vec<_> = letters.iter().map(|held| how.to.or(held.letter.kind)).collect();
        let drop: Vec<&str> = OF_DEATH.into_iter().chain(BY_BROKER).collect();
        let messages: Vec<_> = letters
            .iter()
            .zip(&kinds)
            .filter_map(|(held, kind)| {
                let properties = held.properties(&drop);
                let properties = if how.as_new { as_submission(properties) } else { properties };
                let properties = match &Content::read(&held.delivery.data, None) {
                    Content::Request(request) => properties.with_priority(request.priority),
                    _ => properties,
                };
                let key = kind.as_ref()?.as_str();
                Some(Outgoing { exchange: JOBS, key, mandatory: true, body: &held.delivery.data, properties })
            })
            .collect();
        let mut published = self.publisher.many(&messages).await.into_iter();
        let unknown = || {
            JobError::invalid(
                "--to",
                "is needed: the message does not say which queue it came from; name a kind of job",
            )
        };
        kinds
            .iter()
            .map(|kind| if kind.is_some() { published.next().unwrap_or(Ok(())) } else { Err(unknown()) })
            .collect()
    }

    /// Removes one for good.
    pub(in crate::queue) async fn remove(&mut self, held: UnackedLetter) -> Result<(), JobError> {
        let failed =
            |why: &str| broken(format!("{}: a dead letter could not be removed, it is still there: {why}", self.place));
        match timeout(self.limit, held.delivery.acker.ack(BasicAckOptions::default())).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(failed("the channel is closed")),
            Ok(Err(error)) => Err(failed(&reason(&error))),
            Err(_) => Err(failed("no response")),
        }
    }

    /// Returns those that were kept, in their order, and waits until the broker has done that.
    pub(in crate::queue) async fn close(mut self) {
        // The broker puts what is returned behind what was returned before, so all are taken and returned together.
        while self.taken < MOST_TAKEN {
            let Ok(Some(held)) = self.next().await else { break };
            self.keep(held).await;
        }
        let closed = async {
            self.channel.close(200, "OK".into()).await?;
            self.connection.close(200, "OK".into()).await
        };
        if !matches!(timeout(self.limit, closed).await, Ok(Ok(()))) {
            debug!("the connection for dead letters was not closed cleanly; RabbitMQ returns them when it notices");
        }
    }
}

impl UnackedLetter {
    pub(in crate::queue) fn size(&self) -> usize {
        self.delivery.data.len()
    }

    /// The letter with the beginning of its body.
    pub(in crate::queue) fn with_body(&self) -> DeadLetter {
        let body = &self.delivery.data;
        let mut letter = DeadLetter { truncated: body.len() > MAX_KEPT_BYTES, ..self.letter.clone() };
        let shown = &body[..body.len().min(MAX_KEPT_BYTES)];
        match std::str::from_utf8(shown) {
            // UTF-16 is valid UTF-8 in many languages.
            Ok(text) if text.contains('\0') => letter.body_base64 = Some(STANDARD.encode(shown)),
            Ok(text) => letter.body = Some(text.to_owned()),
            // Cut within a character.
            Err(error) if letter.truncated && error.error_len().is_none() => {
                letter.body = Some(String::from_utf8_lossy(&shown[..error.valid_up_to()]).into_owned());
            }
            Err(_) => letter.body_base64 = Some(STANDARD.encode(shown)),
        }
        letter
    }

    fn number(&self, header: &str) -> Option<i64> {
        number(header_of(&self.delivery.properties, header)?)
    }

    /// The properties without these headers, with an id by which the broker's answer is recognized.
    fn properties(&self, without: &[&str]) -> BasicProperties {
        let sent = &self.delivery.properties;
        let mut headers = sent.headers().as_ref().map_or_else(Default::default, |headers| headers.inner().clone());
        let is_gone =
            |name: &str| without.iter().any(|gone| name == *gone || gone.ends_with('-') && name.starts_with(gone));
        headers.retain(|name, _| !is_gone(name.as_str()));
        let id = sent.message_id().clone().unwrap_or_else(copy_id);
        // An expiration would remove it again.
        let mut properties = BasicProperties::default()
            .with_headers(FieldTable::from(headers))
            .with_message_id(id)
            .with_delivery_mode(2);
        for (value, set) in [
            (sent.content_type(), BasicProperties::with_content_type as fn(_, _) -> _),
            (sent.content_encoding(), BasicProperties::with_content_encoding),
            (sent.correlation_id(), BasicProperties::with_correlation_id),
            (sent.reply_to(), BasicProperties::with_reply_to),
            (sent.kind(), BasicProperties::with_type),
            (sent.app_id(), BasicProperties::with_app_id),
        ] {
            if let Some(value) = value {
                properties = set(properties, value.clone());
            }
        }
        if let Some(priority) = sent.priority() {
            properties = properties.with_priority(*priority);
        }
        match sent.timestamp() {
            Some(at) => properties.with_timestamp(*at),
            None => properties,
        }
    }
}

/// What a message says about itself.
fn read(delivery: &Delivery, position: u32) -> DeadLetter {
    let properties = &delivery.properties;
    let text = |header: &str| header_of(properties, header).and_then(text);
    let death = death(properties);
    let queue = text("x-acetate-queue").or_else(|| death.as_ref().and_then(|death| text_in(death, "queue")));
    let kind = queue
        .as_deref()
        .and_then(|queue| JobKind::ALL.into_iter().find(|kind| queue_of(*kind) == queue))
        .or_else(|| delivery.routing_key.as_str().parse().ok());
    let message_id = own_message_id(properties);
    let code = text("x-acetate-code").or_else(|| death.as_ref().and_then(|death| text_in(death, "reason")));
    let by_broker = || {
        let (queue, code) = (queue.as_deref()?, code.as_deref()?);
        Some(format!("RabbitMQ removed it from {queue} ({code})"))
    };
    let at = match death.as_ref().and_then(|death| death.inner().get("time")) {
        Some(AMQPValue::Timestamp(seconds)) => Some(*seconds),
        _ => *properties.timestamp(),
    };
    DeadLetter {
        id: letter_id(message_id.as_deref(), queue.as_deref(), code.as_deref(), &delivery.data),
        position,
        kind,
        code: code.clone(),
        reason: text("x-acetate-reason").or_else(by_broker),
        queue: queue.clone(),
        at: at.and_then(|seconds| Timestamp::from_second(i64::try_from(seconds).ok()?).ok()),
        job: Content::read(&delivery.data, message_id.as_deref()).id(),
        message_id,
        content_type: properties.content_type().as_ref().map(ToString::to_string),
        size: delivery.data.len() as u64,
        headers: shown(properties),
        body: None,
        body_base64: None,
        truncated: false,
    }
}

/// The id of a dead letter, which depends on nothing that changes while it waits.
pub(super) fn letter_id(message_id: Option<&str>, queue: Option<&str>, code: Option<&str>, body: &[u8]) -> String {
    let mut hash = Sha256::new();
    for part in [message_id, queue, code] {
        hash.update(part.unwrap_or_default());
        hash.update([0]);
    }
    hash.update(body);
    let mut id = hex::encode(hash.finalize());
    id.truncate(ID_DIGITS);
    id
}

/// The latest death by RabbitMQ's hand.
fn death(properties: &BasicProperties) -> Option<FieldTable> {
    let AMQPValue::FieldArray(deaths) = header_of(properties, "x-death")? else { return None };
    let is_ours = |death: &&AMQPValue| match death {
        AMQPValue::FieldTable(death) => text_in(death, "queue").is_some_and(|queue| queue != DEAD_LETTERS),
        _ => false,
    };
    match deaths.as_slice().iter().find(is_ours)? {
        AMQPValue::FieldTable(death) => Some(death.clone()),
        _ => None,
    }
}

fn header_of<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a AMQPValue> {
    properties.headers().as_ref()?.inner().get(name)
}

fn text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

fn text_in(table: &FieldTable, name: &str) -> Option<String> {
    text(table.inner().get(name)?)
}

fn number(value: &AMQPValue) -> Option<i64> {
    match value {
        AMQPValue::ShortShortInt(number) => Some((*number).into()),
        AMQPValue::ShortShortUInt(number) => Some((*number).into()),
        AMQPValue::ShortInt(number) => Some((*number).into()),
        AMQPValue::ShortUInt(number) => Some((*number).into()),
        AMQPValue::LongInt(number) => Some((*number).into()),
        AMQPValue::LongUInt(number) => Some((*number).into()),
        AMQPValue::LongLongInt(number) => Some(*number),
        _ => None,
    }
}

fn shown(properties: &BasicProperties) -> BTreeMap<String, Value> {
    let Some(headers) = properties.headers() else { return BTreeMap::new() };
    headers.inner().iter().map(|(name, value)| (name.to_string(), to_json(value, 0))).collect()
}

/// A header's value for people; long texts are cut.
fn to_json(value: &AMQPValue, depth: usize) -> Value {
    if depth > DEEPEST {
        return json!("...");
    }
    match value {
        AMQPValue::Boolean(value) => json!(value),
        AMQPValue::Float(value) => json!(value),
        AMQPValue::Double(value) => json!(value),
        AMQPValue::DecimalValue(value) => json!(format!("{value:?}")),
        AMQPValue::Timestamp(seconds) => {
            let at = i64::try_from(*seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
            at.map_or_else(|| json!(seconds), |at| json!(at))
        }
        AMQPValue::LongString(text) => match std::str::from_utf8(text.as_bytes()) {
            Ok(text) => json!(cut(text)),
            Err(_) => {
                json!({ "base64": STANDARD.encode(&text.as_bytes()[..text.as_bytes().len().min(LONGEST_HEADER)]) })
            }
        },
        AMQPValue::ShortString(text) => json!(cut(text.as_str())),
        AMQPValue::ByteArray(bytes) => {
            json!({ "base64": STANDARD.encode(&bytes.as_slice()[..bytes.as_slice().len().min(LONGEST_HEADER)]) })
        }
        AMQPValue::FieldArray(values) => values.as_slice().iter().map(|value| to_json(value, depth + 1)).collect(),
        AMQPValue::FieldTable(table) => {
            let fields = table.inner().iter().map(|(name, value)| (name.to_string(), to_json(value, depth + 1)));
            Value::Object(fields.collect())
        }
        AMQPValue::Void => Value::Null,
        other => number(other).map_or(Value::Null, Value::from),
    }
}

fn cut(text: &str) -> String {
    let end = text.floor_char_boundary(LONGEST_HEADER);
    if end < text.len() { format!("{}...", &text[..end]) } else { text.to_owned() }
}

fn explain(place: &str, error: lapin::Error) -> JobError {
    let said = reason(&error);
    if is_missing(&error) {
        broken(format!(
            "the queue {DEAD_LETTERS} does not exist on {place}; a worker declares it when it connects, or declare it as \
             docs/messages.md shows"
        ))
    } else if is_refused(&error) {
        broken(format!(
            "{place}: {said}. To look at dead letters, the user in queue.url needs permission to read {DEAD_LETTERS}"
        ))
    } else {
        broken(format!("{place}, the queue {DEAD_LETTERS}: {said}")).caused_by(error)
    }
}
