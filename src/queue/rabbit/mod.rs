//! RabbitMQ: quorum queues for the jobs, publisher confirms, and a reconnect loop of our own.
//!
//! There is one connection to publish and one to consume, because a broker that runs out of memory stops reading from
//! connections that publish, and acknowledgements must still get through. lapin's automatic recovery stays off: after a
//! lost connection nothing of the old one is worth keeping, since every delivery comes again.

mod buffer;
mod connect;
mod consume;
mod errors;
mod handle;
mod links;
mod outgoing;
mod publish;
mod subscribe;
mod topology;

use std::{sync::Arc, time::Duration};

use backon::Retryable;
use tokio::time::Instant;
use tracing::warn;

pub use self::topology::{DEAD_EXCHANGE, DEAD_LETTERS, EVENTS, JOBS, queue_of};
use self::{connect::Connector, links::Links};
pub(super) use self::{consume::RabbitConsumer, handle::Handle, publish::Publisher, subscribe::Subscription};
use super::{ConsumeOptions, Health};
use crate::{
    job::JobError,
    retry::{Pauses, exponential},
};

/// Before the broker is tried again.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

fn pauses() -> Pauses {
    Pauses::new(FIRST_PAUSE, LONGEST_PAUSE)
}

/// How to reach RabbitMQ, and how long to wait for it.
#[derive(Debug, Clone, PartialEq)]
pub struct RabbitOptions {
    /// What the broker's tools show for our connections, for instance `worker host:pid`.
    pub name: String,
    /// How long a delivery may stay unacknowledged: longer than any job takes.
    pub consumer_timeout: Duration,
    /// For opening a connection, and for each answer of the broker that is not about a message.
    pub connect_timeout: Duration,
    /// A worker that is silent for twice as long has lost its messages to others. Whole seconds, at least one.
    pub heartbeat: Duration,
    /// For the broker's word that it has a message.
    pub publish_timeout: Duration,
}

/// A broker; nothing is connected before it is needed. Clones share the connection that publishes.
#[derive(Debug, Clone)]
pub struct RabbitQueue {
    core: Arc<Core>,
    publisher: Publisher,
}

/// What all parts of a [`RabbitQueue`] go by.
#[derive(Debug)]
struct Core {
    connector: Connector,
    options: RabbitOptions,
    links: Links,
}

impl RabbitQueue {
    /// `url` is an `amqp://` or `amqps://` address; an error names the setting `queue.url` and no password.
    pub fn new(url: &str, options: RabbitOptions) -> Result<Self, JobError> {
        let connector = Connector::new(url, &options.name, options.connect_timeout, options.heartbeat)?;
        let core = Arc::new(Core { connector, options, links: Links::default() });
        Ok(Self { publisher: Publisher::new(core.clone()), core })
    }

    /// `RabbitMQ at host:port, virtual host /`.
    pub fn place(&self) -> String {
        self.core.connector.place()
    }

    pub(super) async fn ready(&self, within: Duration) -> Result<(), JobError> {
        let deadline = Instant::now() + within;
        (|| self.publisher.connect())
            .retry(exponential(FIRST_PAUSE, LONGEST_PAUSE))
            .when(JobError::is_transient)
            .adjust(|_, pause| pause.filter(|pause| Instant::now() + *pause < deadline))
            .notify(|error, pause| warn!(retry_in_s = pause.as_secs_f64(), "{error}"))
            .await
    }

    pub(super) fn consume(&self, options: ConsumeOptions) -> RabbitConsumer {
        RabbitConsumer::start(self.core.clone(), self.publisher.clone(), options)
    }

    pub(super) fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    pub(super) async fn subscribe(&self, pattern: &str) -> Result<Subscription, JobError> {
        Subscription::start(self.core.clone(), pattern).await
    }

    pub(super) fn health(&self) -> Health {
        self.publisher.revive();
        self.core.links.health()
    }
}
