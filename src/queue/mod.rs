//! Dispatches jobs to workers: RabbitMQ, or the in-process queue.
//!
//! A queue only dispatches. The job rows are authoritative, so a lost, duplicated or late message costs time but never
//! a job: a worker that gets a delivery claims the row first, and the row says whether there is anything to do. So this
//! module has no attempt counts, no delays by message expiry, and no exclusive consumers.
//!
//! [`Queue`] has two halves. Workers open a [`Consumer`] and finish each [`Delivery`] with one of its methods;
//! submitters publish a [`Dispatch`]. Both halves are the same for RabbitMQ and the in-process queue.

mod consumer;
mod dead_letter;
mod delivery;
mod embedded;
mod events;
mod message;
mod newer;
mod rabbit;
mod reply;

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

pub use consumer::{ConsumeOptions, Consumer};
pub use dead_letter::{
    DeadLetter, DeadLetterAction, DeadLetterFilter, DeadLetterName, DeadLetterPage, DeadLetterReport, DeadLetterRetry,
};
pub use delivery::{Delivery, MessageSender};
pub use embedded::EmbeddedQueue;
pub use events::{Event, EventStream};
pub use message::{Content, MAX_KEPT_BYTES};
pub use rabbit::{
    DEAD_EXCHANGE, DEAD_LETTERS, EVENTS, JOBS, ManagementApi, MissingRights, RabbitOptions, RabbitQueue, TlsFiles,
    policy_remarks, queue_of,
};

pub use reply::{Reply, ReplyTo};

use crate::{
    job::{JobError, JobId, JobKind, TraceContext},
    trace::Destination,
};

/// The configured queue; clones share it.
#[derive(Debug, Clone)]
pub enum Queue {
    Embedded(EmbeddedQueue),
    Rabbit(RabbitQueue),
}

/// A job to dispatch to the workers.
#[derive(Debug, Clone, PartialEq)]
pub struct Dispatch {
    pub id: JobId,
    pub kind: JobKind,
    /// 0 to 9, higher first.
    pub priority: u8,
    /// The request, as written by [`crate::job::JobRequest::to_json`].
    pub body: Vec<u8>,
    /// Passed on to the worker.
    pub trace: Option<TraceContext>,
}

/// The health of the queue, for the readiness probe.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// Whether all connections in use are up.
    pub connected: bool,
    /// Whether a consumer is running and receives every requested kind.
    pub consuming: bool,
    /// When one of the two last changed.
    pub since: Timestamp,
    /// Why a connection was last lost or refused; kept after reconnecting.
    pub last_error: Option<String>,
    /// Why the broker accepts no messages at present (`connection.blocked`), in its own words. Deliveries and
    /// acknowledgments go on.
    pub blocked: Option<String>,
    /// Why the broker refuses what this process publishes: an exchange or a binding is gone, or the user may not write.
    /// Absent again once it takes a message, or when nothing was refused for a minute.
    pub refused: Option<String>,
    /// The queues of acetate that are full, and what to do. Jobs wait in the database, and invalid messages beside
    /// their queue, until there is room; everything else goes on.
    pub full: BTreeMap<&'static str, String>,
}

impl Queue {
    /// Where jobs of this kind are sent, for spans.
    pub fn destination(&self, kind: JobKind) -> Destination {
        match self {
            Self::Embedded(_) => Destination::in_process(kind),
            Self::Rabbit(_) => Destination::exchange(JOBS, kind.as_str()),
        }
    }

    /// Waits until the broker responds and has all exchanges and queues, and retries for the time of `within`. Wrong
    /// credentials, and a queue declared with other arguments, are errors at once.
    pub async fn ready(&self, within: Duration) -> Result<(), JobError> {
        match self {
            Self::Embedded(_) => Ok(()),
            Self::Rabbit(rabbit) => rabbit.ready(within).await,
        }
    }

    /// As [`Queue::ready`], but declares nothing, also later: what acetate needs and does not exist yet.
    pub async fn missing(&self, within: Duration) -> Result<Vec<String>, JobError> {
        match self {
            Self::Embedded(_) => Ok(Vec::new()),
            Self::Rabbit(rabbit) => rabbit.missing(within).await,
        }
    }

    /// Whether the broker accepts messages: one that has too little memory or disk answers, and blocks publishers.
    pub async fn accepts(&self) -> Result<(), JobError> {
        match self {
            Self::Embedded(_) => Ok(()),
            Self::Rabbit(rabbit) => rabbit.publisher().accepts().await,
        }
    }

    /// What the user may not do, once everything exists.
    pub async fn missing_rights(&self) -> Result<Option<MissingRights>, JobError> {
        match self {
            Self::Embedded(_) => Ok(None),
            Self::Rabbit(rabbit) => rabbit.publisher().missing_rights().await,
        }
    }

    /// The kinds whose queue has no message that waits for a worker.
    pub async fn empty(&self) -> Result<Vec<JobKind>, JobError> {
        match self {
            Self::Embedded(_) => Ok(Vec::new()),
            Self::Rabbit(rabbit) => rabbit.publisher().empty().await,
        }
    }

    /// Starts consuming. Returns at once; if the broker is unreachable, deliveries start when it is back.
    pub fn consume(&self, options: ConsumeOptions) -> Consumer {
        match self {
            Self::Embedded(queue) => Consumer::embedded(queue.clone()),
            Self::Rabbit(rabbit) => Consumer::rabbit(rabbit.consume(options)),
        }
    }

    /// Leaves jobs of this kind to other consumers for a while, also those that this process has in hand and has not
    /// begun.
    pub fn hold(&self, kind: JobKind, pause: Duration) {
        match self {
            Self::Embedded(_) => {}
            Self::Rabbit(rabbit) => rabbit.hold(kind, pause),
        }
    }

    /// Publishes one job. `Ok`: a queue has it on disk.
    pub async fn publish_dispatch(&self, dispatch: &Dispatch) -> Result<(), JobError> {
        match self {
            Self::Embedded(queue) => {
                queue.push(dispatch.id, dispatch.priority, Timestamp::now());
                Ok(())
            }
            Self::Rabbit(rabbit) => rabbit.publisher().dispatch(std::slice::from_ref(dispatch)).await.remove(0),
        }
    }

    /// Publishes many jobs, and waits for the broker once. Returns the results in the order of the jobs; those that
    /// failed, or whose result was lost, may be published again.
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

    /// Publishes an event. It is not an error if there is no listener.
    pub async fn publish_event(&self, name: &str, body: Vec<u8>) -> Result<(), JobError> {
        self.publish_events(vec![Event { name: name.to_owned(), body, trace: None }]).await.remove(0)
    }

    /// Like [`Queue::publish_event`], for many events.
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

    /// Answers senders. An error if nobody listens to the queue, or has it no more.
    pub async fn publish_replies(&self, replies: &[Reply]) -> Vec<Result<(), JobError>> {
        match self {
            // Only messages from a broker ask for an answer.
            Self::Embedded(_) => vec![Ok(()); replies.len()],
            Self::Rabbit(rabbit) => rabbit.publisher().replies(replies).await,
        }
    }

    /// The events whose name matches `pattern`, from now on: `job.succeeded`, `job.*`, or `#` for all. Events while a
    /// connection is lost are missed; the job rows have the state.
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

    /// Closes the publishing connection. Consumers and event streams are closed separately.
    pub async fn close(&self) {
        match self {
            Self::Embedded(queue) => queue.close(),
            Self::Rabbit(rabbit) => rabbit.publisher().close().await,
        }
    }
}
