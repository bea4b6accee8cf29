//! RabbitMQ: quorum queues for the jobs, publisher confirms, and our own reconnect loop.
//!
//! There are separate connections for publishing and consuming, because a broker that runs out of memory stops reading
//! from publishing connections, and acknowledgments must still get through. lapin's automatic recovery stays off: after
//! a lost connection nothing of it is worth keeping, because every delivery is redelivered.

mod address;
mod blocked;
mod buffer;
mod connect;
mod consume;
mod dead;
mod errors;
mod full;
mod handle;
mod holds;
mod links;
mod outgoing;
mod policies;
mod publish;
mod rights;
mod subscribe;
mod tls;
mod topology;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use backon::Retryable;
use tokio::{sync::Mutex, time::Instant};
use tracing::warn;

pub use self::policies::{ManagementApi, policy_remarks};
pub use self::rights::MissingRights;
pub use self::tls::TlsFiles;
pub use self::topology::{DEAD_EXCHANGE, DEAD_LETTERS, EVENTS, JOBS, queue_of};
use self::{connect::RabbitConnector, holds::Holds, links::Links};
pub(super) use self::{
    consume::RabbitConsumer, dead::DeadLetters, handle::Handle, publish::Publisher, subscribe::Subscription,
};
use super::{ConsumeOptions, Health};
use crate::{
    job::{JobError, JobKind},
    retry::{Pauses, exponential},
};

/// The pause before reconnecting to the broker.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

fn pauses() -> Pauses {
    Pauses::new(FIRST_PAUSE, LONGEST_PAUSE)
}

/// RabbitMQ's address and the timeouts.
#[derive(Debug, Clone, PartialEq)]
pub struct RabbitOptions {
    /// Our name in the broker's tools, for instance `worker host:pid`.
    pub name: String,
    /// How long a delivery may stay unacknowledged: longer than any job takes.
    pub consumer_timeout: Duration,
    /// The timeout for opening a connection, and for each of the broker's responses that is not about a message.
    pub connect_timeout: Duration,
    /// If a worker is silent for twice this time, its messages go to others. Whole seconds, at least one.
    pub heartbeat: Duration,
    /// The timeout for the broker's confirmation of a message.
    pub publish_timeout: Duration,
    /// For `amqps://`.
    pub tls: TlsFiles,
}

/// A broker; connections are opened when needed. Clones share the publishing connection.
#[derive(Debug, Clone)]
pub struct RabbitQueue {
    core: Arc<Core>,
    publisher: Publisher,
}

/// The state shared by all parts of a [`RabbitQueue`].
#[derive(Debug)]
struct Core {
    connector: RabbitConnector,
    options: RabbitOptions,
    links: Links,
    holds: Holds,
    /// Held by the reader of dead letters.
    dead: Arc<Mutex<()>>,
    /// Whether nothing may be declared.
    passive: AtomicBool,
}

impl RabbitQueue {
    /// `url` is an `amqp://` or `amqps://` address, also of several hosts; an error names the setting `queue.url` and
    /// no password.
    pub fn new(url: &str, options: RabbitOptions) -> Result<Self, JobError> {
        let connector = RabbitConnector::new(url, &options)?;
        let (links, dead) = (Links::default(), Arc::default());
        let core = Arc::new(Core {
            connector,
            options,
            links,
            holds: Holds::default(),
            dead,
            passive: AtomicBool::new(false),
        });
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

    /// What does not exist. From now on, connections of this process declare nothing.
    pub(super) async fn missing(&self, within: Duration) -> Result<Vec<String>, JobError> {
        self.core.passive.store(true, Ordering::Relaxed);
        self.ready(within).await?;
        self.publisher.missing().await
    }

    pub(super) fn consume(&self, options: ConsumeOptions) -> RabbitConsumer {
        RabbitConsumer::start(self.core.clone(), self.publisher.clone(), options)
    }

    pub(super) fn hold(&self, kind: JobKind, pause: Duration) {
        self.core.holds.hold(kind, tokio::time::Instant::now() + pause);
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
