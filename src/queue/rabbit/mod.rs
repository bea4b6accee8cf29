//! RabbitMQ: quorum queues for the jobs, publisher confirms, and a reconnect loop of our own.
//!
//! There is one connection to publish and one to consume, because a broker that runs out of memory stops reading from
//! connections that publish, and acknowledgements must still get through. lapin's automatic recovery stays off: after a
//! lost connection nothing of the old one is worth keeping, since every delivery comes again.

mod backoff;
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

use tokio::time::Instant;
use tracing::warn;

pub use self::topology::{DEAD_EXCHANGE, DEAD_LETTERS, EVENTS, JOBS, queue_of};
use self::{backoff::Backoff, connect::Connector, links::Links};
pub(super) use self::{consume::RabbitConsumer, handle::Handle, publish::Publisher, subscribe::Subscription};
use super::{ConsumeOptions, Health};
use crate::job::{ErrorClass, JobError};

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
        let (deadline, mut backoff) = (Instant::now() + within, Backoff::default());
        loop {
            let error = match self.publisher.connect().await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let wait = backoff.next();
            match error.class() {
                ErrorClass::Transient if Instant::now() + wait < deadline => {
                    warn!(retry_in_s = wait.as_secs_f64(), "{error}");
                    tokio::time::sleep(wait).await;
                }
                ErrorClass::Transient | ErrorClass::Invalid | ErrorClass::Device | ErrorClass::Cancelled => {
                    return Err(error);
                }
            }
        }
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
