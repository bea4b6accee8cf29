//! The exchanges and queues that acetate needs. They are declared at every connect, so that a new broker is ready for
//! use, and different declarations are noticed.
//!
//! The arguments are the same for every version of RabbitMQ, because a queue outlives the version that created it, and
//! can be redeclared only with its own arguments.

use lapin::{
    Channel, Connection, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use super::{
    RabbitOptions,
    connect::Connector,
    errors::{broken, differs, is_refused, reason},
};
use crate::job::{JobError, JobKind};

/// Direct; the routing key is the job's kind.
pub const JOBS: &str = "acetate.jobs";
/// Fanout, to [`DEAD_LETTERS`].
pub const DEAD_EXCHANGE: &str = "acetate.dead";
/// The queue for invalid messages.
pub const DEAD_LETTERS: &str = "acetate.dead-letters";
/// Topic; the routing key is the event's name.
pub const EVENTS: &str = "acetate.events";

/// Attempts are counted in the job's row, and a returned delivery is not an attempt. Without this argument, a quorum
/// queue has a limit of 20 since RabbitMQ 4; -1, which means unlimited there, is refused by older versions.
const DELIVERY_LIMIT: i32 = 1_000_000;

/// The queue of a kind of job.
pub fn queue_of(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Decompose => "acetate.decompose",
        JobKind::Edit => "acetate.edit",
        JobKind::Composite => "acetate.composite",
        JobKind::Workflow => "acetate.workflow",
    }
}

/// Declares everything, and reports what exists with other arguments.
pub(super) async fn declare(
    connector: &Connector,
    connection: &Connection,
    options: &RabbitOptions,
) -> Result<(), JobError> {
    let channel = connection.create_channel().await.map_err(|error| broken(reason(&error)).caused_by(error))?;
    let declared = declare_on(&channel, options);
    match tokio::time::timeout(connector.timeout(), declared).await {
        Ok(declared) => declared.map_err(|(what, error)| explain(connector, &what, error)),
        Err(_) => Err(broken(format!("{} did not respond within {:?}", connector.place(), connector.timeout()))),
    }
}

type Failed = (String, lapin::Error);

async fn declare_on(channel: &Channel, options: &RabbitOptions) -> Result<(), Failed> {
    exchange(channel, DEAD_EXCHANGE, ExchangeKind::Fanout).await?;
    exchange(channel, JOBS, ExchangeKind::Direct).await?;
    exchange(channel, EVENTS, ExchangeKind::Topic).await?;

    queue(channel, DEAD_LETTERS, quorum()).await?;
    bind(channel, DEAD_LETTERS, DEAD_EXCHANGE, "").await?;
    for kind in JobKind::ALL {
        queue(channel, queue_of(kind), job_queue(options)).await?;
        bind(channel, queue_of(kind), JOBS, kind.as_str()).await?;
    }
    Ok(())
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments.insert("x-overflow".into(), text("reject-publish"));
    arguments
}

fn job_queue(options: &RabbitOptions) -> FieldTable {
    let mut arguments = quorum();
    arguments.insert("x-dead-letter-exchange".into(), text(DEAD_EXCHANGE));
    // The default strategy loses messages if a broker dies between the two queues. This one needs `reject-publish`.
    arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(DELIVERY_LIMIT));
    // Supported since RabbitMQ 3.12; before that, the broker's `consumer_timeout` applies, 30 minutes by default. A job
    // that exceeds it is delivered to another worker, which finds its row taken.
    let milliseconds = options.consumer_timeout.as_millis().try_into().unwrap_or(i64::MAX);
    arguments.insert("x-consumer-timeout".into(), AMQPValue::LongLongInt(milliseconds));
    arguments
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

async fn exchange(channel: &Channel, name: &str, kind: ExchangeKind) -> Result<(), Failed> {
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let declared = channel.exchange_declare(name.into(), kind, durable, FieldTable::default()).await;
    declared.map_err(|error| (format!("the exchange {name}"), error))
}

async fn queue(channel: &Channel, name: &str, arguments: FieldTable) -> Result<(), Failed> {
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    match channel.queue_declare(name.into(), durable, arguments).await {
        Ok(_) => Ok(()),
        Err(error) => Err((format!("the queue {name}"), error)),
    }
}

async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str) -> Result<(), Failed> {
    let bound = channel
        .queue_bind(queue.into(), exchange.into(), key.into(), QueueBindOptions::default(), FieldTable::default())
        .await;
    bound.map_err(|error| (format!("the binding of the queue {queue} to {exchange}"), error))
}

/// The broker's message names the property and both values.
fn explain(connector: &Connector, what: &str, error: lapin::Error) -> JobError {
    let (place, said) = (connector.place(), reason(&error));
    if differs(&error) {
        JobError::invalid(
            what,
            format!(
                "was declared with other arguments on {place}: {said}. Stop the workers, let the queue run empty, and \
                 delete it; it is then created again"
            ),
        )
    } else if is_refused(&error) {
        JobError::invalid(
            what,
            format!("{said}. The user in queue.url needs permission to configure, write and read acetate.*"),
        )
    } else {
        broken(format!("{place}, {what}: {said}")).caused_by(error)
    }
}
