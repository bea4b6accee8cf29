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
    connect::RabbitConnector,
    errors::{broken, differs, is_missing, is_refused, reason},
    rights,
};
use crate::job::{JobError, JobId, JobKind};

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
    connector: &RabbitConnector,
    connection: &Connection,
    options: &RabbitOptions,
) -> Result<(), JobError> {
    let mut topology = Topology::new(connection);
    match tokio::time::timeout(connector.timeout(), topology.all(options)).await {
        Ok(declared) => declared.map_err(|failed| failed.explain(connector)),
        Err(_) => Err(broken(format!("{} did not respond within {:?}", connector.place(), connector.timeout()))),
    }
}

/// What does not exist, without declaring it. What exists is compared with what is needed, and where something is
/// missing, the user must be allowed to declare.
pub(super) async fn missing(
    connector: &RabbitConnector,
    connection: &Connection,
    options: &RabbitOptions,
) -> Result<Vec<String>, JobError> {
    let found = async {
        let mut topology = Topology { missing: Some(Vec::new()), ..Topology::new(connection) };
        topology.all(options).await?;
        if topology.missing.as_ref().is_some_and(|missing| !missing.is_empty()) {
            topology.may_declare().await?;
        }
        Ok(topology.missing.unwrap_or_default())
    };
    match tokio::time::timeout(connector.timeout(), found).await {
        Ok(found) => found.map_err(|failed: Failed| failed.explain(connector)),
        Err(_) => Err(broken(format!("{} did not respond within {:?}", connector.place(), connector.timeout()))),
    }
}

/// Whether the queue exists; `None` if the broker did not say.
pub(super) async fn exists(connector: &RabbitConnector, connection: &Connection, queue: &str) -> Option<bool> {
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

/// How many messages wait in a queue.
pub(super) async fn waiting(connection: &Connection, queue: &str) -> lapin::Result<u32> {
    let channel = connection.create_channel().await?;
    Ok(channel.queue_declare(queue.into(), passive(), FieldTable::default()).await?.message_count())
}

/// Declares on a channel of its own, which the broker closes at every refusal.
struct Topology<'a> {
    connection: &'a Connection,
    channel: Option<Channel>,
    /// Whether nothing was refused yet. After that, it is first asked what exists.
    may_configure: bool,
    may_bind: bool,
    /// What does not exist, where nothing may be declared.
    missing: Option<Vec<String>>,
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

impl<'a> Topology<'a> {
    fn new(connection: &'a Connection) -> Self {
        Self { connection, channel: None, may_configure: true, may_bind: true, missing: None }
    }

    async fn all(&mut self, options: &RabbitOptions) -> Result<(), Failed> {
        self.exchange(DEAD_EXCHANGE, ExchangeKind::Fanout).await?;
        self.exchange(JOBS, ExchangeKind::Direct).await?;
        self.exchange(EVENTS, ExchangeKind::Topic).await?;

        self.queue(DEAD_LETTERS, quorum()).await?;
        self.bind(DEAD_LETTERS, DEAD_EXCHANGE, "").await?;
        for kind in JobKind::ALL {
            self.queue(queue_of(kind), job_queue(options)).await?;
            self.bind(queue_of(kind), JOBS, kind.as_str()).await?;
        }
        Ok(())
    }

    async fn exchange(&mut self, name: &'static str, kind: ExchangeKind) -> Result<(), Failed> {
        self.declare(Declared::Exchange(name, kind)).await
    }

    async fn queue(&mut self, name: &'static str, arguments: FieldTable) -> Result<(), Failed> {
        self.declare(Declared::Queue(name, arguments)).await
    }

    /// Declares, or, for a user that may not, asks whether it exists.
    async fn declare(&mut self, declared: Declared) -> Result<(), Failed> {
        if self.missing.is_some() {
            let failed = |error| Failed { what: declared.to_string(), error, refused: false };
            let channel = self.channel().await.map_err(failed)?;
            match declared.on(&channel, true).await {
                Ok(()) => {}
                Err(error) if is_missing(&error) => {
                    self.channel = None;
                    self.missing.get_or_insert_default().push(declared.to_string());
                    return Ok(());
                }
                Err(error) => return Err(failed(error)),
            }
        }
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

    /// Whether this user may declare: a queue that is gone with the connection.
    async fn may_declare(&mut self) -> Result<(), Failed> {
        let what = self.missing.iter().flatten().next().cloned().unwrap_or_default();
        let failed = |error, refused| Failed { what: what.clone(), error, refused };
        let channel = self.channel().await.map_err(|error| failed(error, false))?;
        let own = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let name = format!("acetate.check.{}", JobId::new());
        match channel.queue_declare(name.as_str().into(), own, FieldTable::default()).await {
            Ok(_) => Ok(()),
            Err(error) => {
                self.channel = None;
                let refused = is_refused(&error);
                Err(failed(error, refused))
            }
        }
    }

    /// A user that may neither declare nor bind relies on the client that declared.
    async fn bind(&mut self, queue: &str, exchange: &str, key: &str) -> Result<(), Failed> {
        if !self.may_bind || self.missing.is_some() {
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
    fn explain(self, connector: &RabbitConnector) -> JobError {
        let Self { what, error, refused } = self;
        let (place, said) = (connector.place(), reason(&error));
        let name = what.strip_prefix("the exchange ").map(str::to_owned);
        if let Some(name) = name.filter(|_| differs(&error) && said.contains("inequivalent arg")) {
            // Exchanges have no messages, and their bindings are made again with them.
            let reason = format!(
                "was declared on {place} by another client, with another type or other arguments: {said}. Stop the workers \
                 and delete it (rabbitmqadmin delete exchange --name {name}); it is then created again, with its queues \
                 bound to it"
            );
            JobError::invalid(what, reason)
        } else if differs(&error) && said.contains("inequivalent arg") {
            JobError::invalid(what, format!("{} on {place}: {said}. {}", otherwise(&said), REPLACE))
        } else if differs(&error) {
            JobError::invalid(what, format!("cannot be declared on {place}: {said}"))
        } else if refused {
            JobError::invalid(
                what,
                format!(
                    "does not exist on {place}, and the user in queue.url may not declare it ({said}). Declare it as \
                     docs/messages.md shows, or give the user permission to configure acetate.*: {}",
                    rights::command(connector)
                ),
            )
        } else if is_refused(&error) {
            JobError::invalid(
                what,
                format!(
                    "{said}. The user in queue.url needs permission to write and read acetate.*, and to configure it \
                     unless everything is declared already: {}",
                    rights::command(connector)
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
