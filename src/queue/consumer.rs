//! The worker's side of the queue: receives jobs.

use std::time::Duration;

use super::{EmbeddedQueue, delivery::Delivery, rabbit::RabbitConsumer};
use crate::job::JobKind;

#[derive(Debug, Clone, PartialEq)]
pub struct ConsumeOptions {
    pub kinds: Vec<JobKind>,
    /// The maximum number of messages of each kind that this worker holds, waiting or running.
    pub prefetch: u16,
    /// How long a job may wait because another kind is preferred.
    pub affinity: Duration,
}

/// A running consumer. Dropping it closes it without waiting.
#[derive(Debug)]
pub struct Consumer(ConsumerBackend);

#[derive(Debug)]
enum ConsumerBackend {
    Embedded(EmbeddedQueue),
    Rabbit(RabbitConsumer),
}

impl Consumer {
    pub(super) fn embedded(queue: EmbeddedQueue) -> Self {
        Self(ConsumerBackend::Embedded(queue))
    }

    pub(super) fn rabbit(consumer: RabbitConsumer) -> Self {
        Self(ConsumerBackend::Rabbit(consumer))
    }

    /// Waits for the next job, even while the broker is unreachable. `None` after [`Consumer::close`].
    ///
    /// A worker prefers the kind whose model is loaded: a job of that kind comes first, unless one of another kind has
    /// waited longer than [`ConsumeOptions::affinity`]. The in-process queue has no kinds.
    pub async fn next(&self, prefer: Option<JobKind>) -> Option<Delivery> {
        match &self.0 {
            ConsumerBackend::Embedded(queue) => queue.next().await,
            ConsumerBackend::Rabbit(consumer) => consumer.next(prefer).await.map(Delivery::rabbit),
        }
    }

    /// Stops deliveries: waiting ones are returned at once for other workers. Those in progress stay and can still be
    /// acknowledged.
    pub async fn close(&self) {
        match &self.0 {
            ConsumerBackend::Embedded(queue) => queue.close(),
            ConsumerBackend::Rabbit(consumer) => consumer.close().await,
        }
    }
}
