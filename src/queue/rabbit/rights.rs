//! What the user in `queue.url` may do. The broker checks a user's rights before it looks at the rest of a request, so
//! that a request with another fault, which it refuses all the same, finds them out without leaving a trace.

use lapin::{
    BasicProperties, Channel, Connection, Error,
    options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions},
    types::{AMQPValue, FieldTable},
};

use super::{
    connect::RabbitConnector,
    errors::{differs, is_missing, is_refused, reason},
    topology::{DEAD_EXCHANGE, DEAD_LETTERS, EVENTS, JOBS, queue_of},
};
use crate::job::{JobId, JobKind};

/// What the broker calls the exchange without a name, where answers to `reply_to` go.
const DEFAULT: &str = "amq.default";

/// What a user may not do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MissingRights {
    /// For instance `write to acetate.jobs`; without these, jobs do not run.
    pub needed: Vec<String>,
    /// Without these, something else does not work.
    pub useful: Vec<&'static str>,
    /// The command that gives all of them.
    pub command: String,
}

/// Tries every right that a worker needs once all exchanges and queues exist.
pub(super) async fn missing(
    connector: &RabbitConnector,
    connection: &Connection,
) -> Result<Option<MissingRights>, Error> {
    let mut needed = Vec::new();
    for exchange in [JOBS, EVENTS, DEAD_EXCHANGE] {
        if !may_write(connection, exchange).await? {
            needed.push(format!("write to {exchange}"));
        }
    }
    for queue in JobKind::ALL.map(queue_of) {
        if !may_read(connection, queue).await? {
            needed.push(format!("read {queue}"));
        }
    }
    let mut useful = Vec::new();
    if !may_read(connection, DEAD_LETTERS).await? {
        useful.push("read acetate.dead-letters (without it, acetate dead-letters shows nothing)");
    }
    if !may_write(connection, "").await? {
        useful.push("write to amq.default (without it, reply_to is not answered)");
    }
    if !may_bind(connection).await? {
        useful.push(
            "write to acetate.dead-letters and read acetate.dead (without it, a removed binding is not made \
             again)",
        );
    }
    let command = command(connector);
    Ok((!needed.is_empty() || !useful.is_empty()).then_some(MissingRights { needed, useful, command }))
}

/// Why the broker refuses to take anything for an exchange.
pub(super) fn cannot_publish(connector: &RabbitConnector, exchange: &str, error: &Error) -> Option<String> {
    let place = connector.place();
    let name = if exchange.is_empty() { DEFAULT } else { exchange };
    if is_refused(error) {
        let said = reason(error);
        return Some(format!(
            "{place}: the user in queue.url may not write to {name} ({said}); to allow it: {}",
            command(connector)
        ));
    }
    is_missing(error).then(|| {
        format!(
            "{place}: the exchange {name} does not exist any more ({}); a worker, server or command whose user may \
             configure it declares it again when it connects, or see docs/messages.md",
            reason(error)
        )
    })
}

/// What gives the user everything that acetate needs.
pub(super) fn command(connector: &RabbitConnector) -> String {
    let (vhost, user) = (quoted(connector.vhost()), quoted(connector.user().unwrap_or("USER")));
    format!(r"rabbitmqctl set_permissions -p {vhost} {user} '^acetate\.' '^(acetate\..*|amq\.default)$' '^acetate\.'")
}

/// For a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// With an expiration that is no number.
async fn may_write(connection: &Connection, exchange: &str) -> Result<bool, Error> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let properties = BasicProperties::default().with_expiration("none".into());
    let options = BasicPublishOptions::default();
    let sent = channel.basic_publish(exchange.into(), "question".into(), options, &[], properties).await;
    let refused = match sent {
        Ok(confirmed) => confirmed.await.err(),
        Err(error) => Some(error),
    };
    allowed(&channel, refused).await
}

/// With a priority that is no number.
async fn may_read(connection: &Connection, queue: &str) -> Result<bool, Error> {
    let channel = connection.create_channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-priority".into(), AMQPValue::LongString("none".into()));
    let options = BasicConsumeOptions::default();
    let consumer = channel.basic_consume(queue.into(), "".into(), options, arguments).await;
    allowed(&channel, consumer.err()).await
}

/// To an exchange that does not exist.
async fn may_bind(connection: &Connection) -> Result<bool, Error> {
    let channel = connection.create_channel().await?;
    let nowhere = format!("{DEAD_EXCHANGE}.{}", JobId::new());
    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
    let bound = channel.queue_bind(DEAD_LETTERS.into(), nowhere.as_str().into(), "".into(), options, none).await;
    allowed(&channel, bound.err()).await
}

/// Whether a request failed for its other fault. A broker that overlooks that took it.
async fn allowed(channel: &Channel, refused: Option<Error>) -> Result<bool, Error> {
    match refused {
        None => {
            channel.close(200, "OK".into()).await?;
            Ok(true)
        }
        Some(error) if is_refused(&error) => Ok(false),
        Some(error) if differs(&error) || is_missing(&error) => Ok(true),
        Some(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_a_shell() {
        for (name, shown) in [("/", "/"), ("my-vhost", "my-vhost"), ("a b", "'a b'"), ("o'x", r"'o'\''x'"), ("", "''")]
        {
            assert_eq!(quoted(name), shown);
        }
    }
}
