//! The side of a worker: the next job, please.

use std::time::Duration;

use super::{EmbeddedQueue, delivery::Delivery, rabbit::RabbitConsumer};
use crate::job::JobKind;

#[derive(Debug, Clone, PartialEq)]
pub struct ConsumeOptions {
    pub kinds: Vec<JobKind>,
    /// Messages of each kind that this worker has at most: those that wait here, and those that it works on.
    pub prefetch: u16,
    /// How long a job may wait here because another kind is preferred.
    pub affinity: Duration,
}

/// A running consumer. Dropping it is closing it without waiting for the end.
#[derive(Debug)]
pub struct Consumer(Inner);

#[derive(Debug)]
enum Inner {
    Embedded(EmbeddedQueue),
    Rabbit(RabbitConsumer),
}

impl Consumer {
    pub(super) fn embedded(queue: EmbeddedQueue) -> Self {
        Self(Inner::Embedded(queue))
    }

    pub(super) fn rabbit(consumer: RabbitConsumer) -> Self {
        Self(Inner::Rabbit(consumer))
    }

    /// The next job; waits for one, also while the broker is away. `None` after [`Consumer::close`].
    ///
    /// A worker prefers the kind whose model is resident: a job of that kind comes first, unless one of another kind
    /// has waited here for longer than [`ConsumeOptions::affinity`]. The queue in process knows no kinds.
    pub async fn next(&self, prefer: Option<JobKind>) -> Option<Delivery> {
        match &self.0 {
            Inner::Embedded(queue) => queue.next().await,
            Inner::Rabbit(consumer) => consumer.next(prefer).await.map(Delivery::rabbit),
        }
    }

    /// No more deliveries: those that wait here go back, so that other workers have them at once. Those that were
    /// handed out stay with whoever works on them, and can still be acknowledged.
    pub async fn close(&self) {
        match &self.0 {
            Inner::Embedded(queue) => queue.close(),
            Inner::Rabbit(consumer) => consumer.close().await,
        }
    }
}
