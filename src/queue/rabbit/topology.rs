//! The exchanges and queues that acetate needs. They are declared at every connect, so that a new broker is ready for
//! use, and different declarations are noticed.
//!
//! The arguments are the same for every version of RabbitMQ, because a queue outlives the version that created it, and
//! can be redeclared only with its own arguments.

use std::fmt;

use lapin::{
    Channel, Connection, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use tracing::debug;

use super::{
    RabbitOptions,
    connect::Connector,
    errors::{broken, differs, is_missing, is_refused, reason},
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

/// Fanout, to the queue of the same name, where messages for newer workers wait until they expire back into the queue
/// that they came from. Declared when there is the first one.
pub(super) const LATER: &str = "acetate.later";

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

/// Declares everything, and reports what exists with other arguments. Where the user may not declare, it is enough that
/// everything exists.
pub(super) async fn declare(
    connector: &Connector,
    connection: &Connection,
    options: &RabbitOptions,
) -> Result<(), JobError> {
    let declared = declare_all(connection, options);
    match tokio::time::timeout(connector.timeout(), declared).await {
        Ok(declared) => declared.map_err(|failed| failed.explain(connector)),
        Err(_) => Err(broken(format!("{} did not respond within {:?}", connector.place(), connector.timeout()))),
    }
}

/// Whether the queue exists; `None` if the broker did not say.
pub(super) async fn exists(connector: &Connector, connection: &Connection, queue: &str) -> Option<bool> {
    let asked = async {
        let channel = connection.create_channel().await?;
        channel.queue_declare(queue.into(), passive(), FieldTable::default()).await
    };
    match tokio::time::timeout(connector.timeout(), asked).await {
        Ok(Ok(_)) => Some(true),
        Ok(Err(error)) if is_missing(&error) => Some(false),
        Ok(Err(_)) | Err(_) => None,
    }
}

/// Declares where messages wait for newer workers, or, for a user that may not, asks whether it exists.
pub(super) async fn declare_later(connection: &Connection) -> lapin::Result<()> {
    let mut arguments = quorum();
    arguments.insert("x-dead-letter-exchange".into(), text(JOBS));
    arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
    let needed = [Declared::Exchange(LATER, ExchangeKind::Fanout), Declared::Queue(LATER, arguments)];
    let declared = async {
        let channel = connection.create_channel().await?;
        for what in &needed {
            what.on(&channel, false).await?;
        }
        let options = QueueBindOptions::default();
        channel.queue_bind(LATER.into(), LATER.into(), "".into(), options, FieldTable::default()).await
    };
    match declared.await {
        Err(refused) if is_refused(&refused) => {
            let channel = connection.create_channel().await?;
            for what in &needed {
                // What was refused first says more than what is missing.
                what.on(&channel, true).await.map_err(|_| refused.clone())?;
            }
            Ok(())
        }
        other => other,
    }
}

/// The kinds whose queue has no message that waits for a consumer.
pub(super) async fn empty(connection: &Connection) -> lapin::Result<Vec<JobKind>> {
    let channel = connection.create_channel().await?;
    let mut empty = Vec::new();
    for kind in JobKind::ALL {
        let queue = channel.queue_declare(queue_of(kind).into(), passive(), FieldTable::default()).await?;
        if queue.message_count() == 0 {
            empty.push(kind);
        }
    }
    Ok(empty)
}

async fn declare_all(connection: &Connection, options: &RabbitOptions) -> Result<(), Failed> {
    let mut topology = Topology { connection, channel: None, may_configure: true, may_bind: true };
    topology.exchange(DEAD_EXCHANGE, ExchangeKind::Fanout).await?;
    topology.exchange(JOBS, ExchangeKind::Direct).await?;
    topology.exchange(EVENTS, ExchangeKind::Topic).await?;

    topology.queue(DEAD_LETTERS, quorum()).await?;
    topology.bind(DEAD_LETTERS, DEAD_EXCHANGE, "").await?;
    for kind in JobKind::ALL {
        topology.queue(queue_of(kind), job_queue(options)).await?;
        topology.bind(queue_of(kind), JOBS, kind.as_str()).await?;
    }
    Ok(())
}

/// Declares on a channel of its own, which the broker closes at every refusal.
struct Topology<'a> {
    connection: &'a Connection,
    channel: Option<Channel>,
    /// Whether nothing was refused yet. After that, it is first asked what exists.
    may_configure: bool,
    may_bind: bool,
}

/// What is declared.
enum Declared {
    Exchange(&'static str, ExchangeKind),
    Queue(&'static str, FieldTable),
}

impl Declared {
    async fn on(&self, channel: &Channel, is_passive: bool) -> lapin::Result<()> {
        match self {
            Self::Exchange(name, kind) => {
                let passive = is_passive;
                let options = ExchangeDeclareOptions { durable: true, passive, ..ExchangeDeclareOptions::default() };
                channel.exchange_declare((*name).into(), kind.clone(), options, FieldTable::default()).await
            }
            Self::Queue(name, _) if is_passive => {
                channel.queue_declare((*name).into(), passive(), FieldTable::default()).await.map(drop)
            }
            Self::Queue(name, arguments) => {
                let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
                channel.queue_declare((*name).into(), durable, arguments.clone()).await.map(drop)
            }
        }
    }
}

impl fmt::Display for Declared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exchange(name, _) => write!(f, "the exchange {name}"),
            Self::Queue(name, _) => write!(f, "the queue {name}"),
        }
    }
}

struct Failed {
    what: String,
    error: lapin::Error,
    /// It does not exist, and this user may not declare it.
    refused: bool,
}

impl Topology<'_> {
    async fn exchange(&mut self, name: &'static str, kind: ExchangeKind) -> Result<(), Failed> {
        self.declare(Declared::Exchange(name, kind)).await
    }

    async fn queue(&mut self, name: &'static str, arguments: FieldTable) -> Result<(), Failed> {
        self.declare(Declared::Queue(name, arguments)).await
    }

    /// Declares, or, for a user that may not, asks whether it exists.
    async fn declare(&mut self, declared: Declared) -> Result<(), Failed> {
        let mut passive = !self.may_configure;
        let mut refused = false;
        loop {
            let failed = |error, refused| Failed { what: declared.to_string(), error, refused };
            let channel = self.channel().await.map_err(|error| failed(error, false))?;
            let Err(error) = declared.on(&channel, passive).await else { return Ok(()) };
            self.channel = None;
            match passive {
                false if is_refused(&error) && !refused => {
                    self.may_configure = false;
                    (passive, refused) = (true, true);
                }
                // A queue keeps the timeout that it was declared with. RabbitMQ compares it since 4.3.
                false if differs(&error) && reason(&error).contains("'x-consumer-timeout'") => passive = true,
                // What does not exist may be declared after all: permissions may differ by name.
                true if is_missing(&error) && !refused => (passive, refused) = (false, true),
                _ => {
                    let missing = is_missing(&error) || passive && is_refused(&error);
                    return Err(failed(error, refused && (missing || !passive)));
                }
            }
        }
    }

    /// A user that may neither declare nor bind relies on whoever declared.
    async fn bind(&mut self, queue: &str, exchange: &str, key: &str) -> Result<(), Failed> {
        if !self.may_bind {
            return Ok(());
        }
        let what = format!("the binding of the queue {queue} to {exchange}");
        let failed = |error| Failed { what: what.clone(), error, refused: false };
        let channel = self.channel().await.map_err(failed)?;
        let options = QueueBindOptions::default();
        let bound = channel.queue_bind(queue.into(), exchange.into(), key.into(), options, FieldTable::default()).await;
        match bound {
            Ok(()) => Ok(()),
            Err(error) if is_refused(&error) && !self.may_configure => {
                debug!("{what} is not checked: {}", reason(&error));
                (self.channel, self.may_bind) = (None, false);
                Ok(())
            }
            Err(error) => Err(failed(error)),
        }
    }

    async fn channel(&mut self) -> lapin::Result<Channel> {
        if let Some(channel) = &self.channel {
            return Ok(channel.clone());
        }
        Ok(self.channel.insert(self.connection.create_channel().await?).clone())
    }
}

fn passive() -> QueueDeclareOptions {
    QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() }
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

impl Failed {
    /// The broker's message names the property and both values.
    fn explain(self, connector: &Connector) -> JobError {
        let Self { what, error, refused } = self;
        let (place, said) = (connector.place(), reason(&error));
        if differs(&error) && said.contains("inequivalent arg") {
            JobError::invalid(what, format!("{} on {place}: {said}. {}", otherwise(&said), REPLACE))
        } else if differs(&error) {
            JobError::invalid(what, format!("cannot be declared on {place}: {said}"))
        } else if refused {
            JobError::invalid(
                what,
                format!(
                    "does not exist on {place}, and the user in queue.url may not declare it ({said}). Declare it as \
                     docs/messages.md shows, or give the user permission to configure acetate.*"
                ),
            )
        } else if is_refused(&error) {
            JobError::invalid(
                what,
                format!(
                    "{said}. The user in queue.url needs permission to write and read acetate.*, and to configure it \
                     unless everything is declared already"
                ),
            )
        } else {
            broken(format!("{place}, {what}: {said}")).caused_by(error)
        }
    }
}

const REPLACE: &str = "Stop the workers, let the queue run empty, and delete it; it is then created again";

/// What exists instead. The broker compares the type first, unless another argument differs as well.
fn otherwise(said: &str) -> &'static str {
    match said {
        said if said.contains("'stream'") => "is a stream, which never runs empty; jobs need a quorum queue. It exists",
        said if said.contains("'classic'") => "is a classic queue; jobs need a quorum queue. It exists",
        _ => "was declared with other arguments",
    }
}
