//! Who hears of a job, and when: RabbitMQ, or the queue in process.
//!
//! A queue only dispatches. The job rows hold the truth, so a message that is lost, doubled or late costs time and never
//! a job: whoever takes a delivery claims the row first, and the row says whether there is anything to do. From that
//! follows what is absent here: no counting of attempts, no delays by expiring messages, no exclusive consumers.
//!
//! [`Queue`] has two halves. Whoever works asks for a [`Consumer`] and ends each [`Delivery`] with one of its verbs;
//! whoever submits publishes a [`Dispatch`]. Both halves are the same for RabbitMQ and in process.

mod consumer;
mod delivery;
mod embedded;
mod events;
mod message;
mod rabbit;

use std::time::Duration;

use jiff::Timestamp;

pub use consumer::{ConsumeOptions, Consumer};
pub use delivery::Delivery;
pub use embedded::EmbeddedQueue;
pub use events::{Event, EventStream};
pub use message::{Content, MAX_KEPT_BYTES};
pub use rabbit::{DEAD_EXCHANGE, DEAD_LETTERS, EVENTS, JOBS, RabbitOptions, RabbitQueue, queue_of};

use crate::job::{JobError, JobId, JobKind};

/// The queue that is configured; clones share it.
#[derive(Debug, Clone)]
pub enum Queue {
    Embedded(EmbeddedQueue),
    Rabbit(RabbitQueue),
}

/// A job to be offered to the workers.
#[derive(Debug, Clone, PartialEq)]
pub struct Dispatch {
    pub id: JobId,
    pub kind: JobKind,
    /// 0 to 9, higher first.
    pub priority: u8,
    /// The request, as [`crate::job::JobRequest::to_json`] writes it.
    pub body: Vec<u8>,
    /// A W3C `traceparent`, handed on to the worker.
    pub trace: Option<String>,
}

/// Whether jobs can come in and results go out; what a readiness probe asks.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// No connection that is in use is down.
    pub connected: bool,
    /// A consumer runs, and every kind that it was asked for is being delivered.
    pub consuming: bool,
    /// When one of the two last changed.
    pub since: Timestamp,
    /// Why a connection was last lost or refused; stays after it has come back.
    pub last_error: Option<String>,
}

impl Queue {
    /// Waits until the broker answers and has all exchanges and queues, trying again until `within` is over. Wrong
    /// credentials, and a queue that somebody declared otherwise, are errors at once.
    pub async fn ready(&self, within: Duration) -> Result<(), JobError> {
        match self {
            Self::Embedded(_) => Ok(()),
            Self::Rabbit(rabbit) => rabbit.ready(within).await,
        }
    }

    /// Starts taking jobs. Returns at once; where the broker is away, deliveries begin when it is back.
    pub fn consume(&self, options: ConsumeOptions) -> Consumer {
        match self {
            Self::Embedded(queue) => Consumer::embedded(queue.clone()),
            Self::Rabbit(rabbit) => Consumer::rabbit(rabbit.consume(options)),
        }
    }

    /// Offers one job. `Ok`: a queue has it on disk.
    pub async fn publish_dispatch(&self, dispatch: &Dispatch) -> Result<(), JobError> {
        match self {
            Self::Embedded(queue) => {
                queue.push(dispatch.id, dispatch.priority, Timestamp::now());
                Ok(())
            }
            Self::Rabbit(rabbit) => rabbit.publisher().dispatch(std::slice::from_ref(dispatch)).await.remove(0),
        }
    }

    /// Offers many jobs, and waits for the broker once. The results are in the order of the jobs; those that failed may
    /// be offered again, and so may those whose result was lost.
    pub async fn publish_many(&self, dispatches: Vec<Dispatch>) -> Vec<Result<(), JobError>> {
        match self {
            Self::Embedded(queue) => {
                for dispatch in &dispatches {
                    queue.push(dispatch.id, dispatch.priority, Timestamp::now());
                }
                vec![Ok(()); dispatches.len()]
            }
            Self::Rabbit(rabbit) => rabbit.publisher().dispatch(&dispatches).await,
        }
    }

    /// Tells whoever listens. That nobody does is no error.
    pub async fn publish_event(&self, name: &str, body: Vec<u8>) -> Result<(), JobError> {
        self.publish_events(vec![Event { name: name.to_owned(), body }]).await.remove(0)
    }

    /// As [`Queue::publish_event`], many at once.
    pub async fn publish_events(&self, events: Vec<Event>) -> Vec<Result<(), JobError>> {
        match self {
            Self::Embedded(queue) => {
                let told = vec![Ok(()); events.len()];
                events.into_iter().for_each(|event| queue.tell(event));
                told
            }
            Self::Rabbit(rabbit) => rabbit.publisher().events(&events).await,
        }
    }

    /// Events whose name matches `pattern`, from now on: `job.succeeded`, `job.*`, or `#` for all. What happens while
    /// a connection is lost is not seen; the job rows know.
    pub async fn events(&self, pattern: &str) -> Result<EventStream, JobError> {
        match self {
            Self::Embedded(queue) => Ok(EventStream::embedded(queue.listen(), pattern)),
            Self::Rabbit(rabbit) => Ok(EventStream::rabbit(rabbit.subscribe(pattern).await?)),
        }
    }

    pub fn health(&self) -> Health {
        match self {
            Self::Embedded(queue) => queue.health(),
            Self::Rabbit(rabbit) => rabbit.health(),
        }
    }

    /// Ends the connection that publishes. Consumers and event streams are closed on their own.
    pub async fn close(&self) {
        match self {
            Self::Embedded(queue) => queue.close(),
            Self::Rabbit(rabbit) => rabbit.publisher().close().await,
        }
    }
}
