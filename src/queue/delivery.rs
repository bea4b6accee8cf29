//! A message held by a worker, and the ways to finish it.

use std::time::Duration;

use jiff::Timestamp;
use tracing::{debug, warn};

use super::{
    ReplyTo,
    embedded::Taken,
    message::{Content, options},
    rabbit::Handle,
};
use crate::{
    job::{ErrorRecord, JobError, JobId, JobKind, MessageOptions, TraceContext},
    trace::Destination,
};

/// The in-process queue has no other workers, only another process later.
const AGAIN: Duration = Duration::from_secs(60);

/// A message that must be finished with one of the methods below; if it is dropped without one (a panic, a cancelled
/// task), it goes back to the queue.
#[derive(Debug)]
#[must_use = "it goes back to the queue when it is dropped"]
pub struct Delivery {
    pub content: Content,
    /// Whether it was delivered before, to this or another worker; the job's row has the outcome.
    pub redelivered: bool,
    /// Whether it was sent because of a job's row, so that without a row there is nothing to do. A message of another
    /// client is a submission, and creates the row.
    pub is_dispatch: bool,
    /// What another client's message has beside the request. The row of a dispatch says it.
    pub options: MessageOptions,
    /// The trace that the message was sent in.
    pub trace: Option<TraceContext>,
    /// Where the sender wants to be told of the job's end.
    pub reply_to: Option<ReplyTo>,
    /// Who published it, as far as that is known.
    pub sender: Option<MessageSender>,
    origin: DeliveryOrigin,
}

/// Who published a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageSender {
    /// The user of the connection, if the message says it; RabbitMQ refuses another one.
    pub user: Option<String>,
    /// The property `app_id`.
    pub app: Option<String>,
    /// Empty: directly to the queue.
    pub exchange: String,
}

#[derive(Debug)]
enum DeliveryOrigin {
    Embedded(Taken),
    Rabbit(Box<Handle>),
}

impl Delivery {
    pub(super) fn embedded(taken: Taken) -> Self {
        Self {
            content: Content::Job(taken.job),
            redelivered: false,
            is_dispatch: true,
            options: MessageOptions::default(),
            trace: None,
            reply_to: None,
            sender: None,
            origin: DeliveryOrigin::Embedded(taken),
        }
    }

    pub(super) fn rabbit(handle: Handle) -> Self {
        Self {
            content: Content::read(handle.body(), handle.message_id()),
            redelivered: handle.redelivered(),
            is_dispatch: handle.is_dispatch(),
            options: if handle.is_dispatch() { MessageOptions::default() } else { options(handle.body()) },
            trace: handle.trace(),
            reply_to: handle.reply_to(),
            sender: Some(handle.sender()),
            origin: DeliveryOrigin::Rabbit(Box::new(handle)),
        }
    }

    /// The job's id, if it is readable.
    pub fn job(&self) -> Option<JobId> {
        self.content.id()
    }

    /// The kind of the queue it came from. If the request has another kind, the request is right.
    pub fn kind(&self) -> Option<JobKind> {
        match &self.origin {
            DeliveryOrigin::Embedded(_) => None,
            DeliveryOrigin::Rabbit(handle) => Some(handle.kind()),
        }
    }

    /// Its sender's name for it.
    pub fn message_id(&self) -> Option<&str> {
        match &self.origin {
            DeliveryOrigin::Embedded(_) => None,
            DeliveryOrigin::Rabbit(handle) => handle.message_id(),
        }
    }

    /// Where it came from, for spans; `kind` is the job's.
    pub fn destination(&self, kind: JobKind) -> Destination {
        match &self.origin {
            DeliveryOrigin::Embedded(_) => Destination::in_process(kind),
            DeliveryOrigin::Rabbit(handle) => handle.destination(),
        }
    }

    /// Acknowledges the message. If the connection is lost, the broker redelivers it, and the row then shows that there
    /// is nothing left to do.
    pub async fn ack(self) {
        match self.origin {
            DeliveryOrigin::Embedded(taken) => taken.done(),
            DeliveryOrigin::Rabbit(handle) => handle.ack().await,
        }
    }

    /// Dead-letters the message with the reason. Once that is confirmed, it returns the message, which still has to be
    /// acknowledged. On an error it could not be dead-lettered, and comes again later.
    pub async fn dead_letter(self, reason: &ErrorRecord) -> Result<Self, JobError> {
        let Self { origin, .. } = self;
        let origin = match origin {
            DeliveryOrigin::Embedded(taken) => {
                warn!(job = %taken.job, code = reason.code, reason = reason.message, "a delivery was dropped");
                DeliveryOrigin::Embedded(taken)
            }
            DeliveryOrigin::Rabbit(handle) => DeliveryOrigin::Rabbit(Box::new(handle.dead_letter(reason).await?)),
        };
        Ok(Self { origin, ..self })
    }

    /// Schedules redelivery at `at`. With RabbitMQ, this acknowledges the message: the job's row was requeued together
    /// with a new dispatch for that time.
    pub async fn again_at(self, at: Timestamp) {
        match self.origin {
            DeliveryOrigin::Embedded(taken) => taken.again_at(at),
            DeliveryOrigin::Rabbit(handle) => {
                debug!(%at, "the message is acknowledged; a later one redelivers the job");
                handle.ack().await;
            }
        }
    }

    /// Whether a worker had it before.
    pub fn has_come_before(&self) -> bool {
        self.redelivered || self.left_for().is_some()
    }

    /// How long ago a worker first left it to others with [`Delivery::leave`], or could not dead-letter it.
    pub fn left_for(&self) -> Option<Duration> {
        match &self.origin {
            DeliveryOrigin::Embedded(_) => None,
            DeliveryOrigin::Rabbit(handle) => handle.left_for(),
        }
    }

    /// Leaves the message to workers of a newer version: after a pause, which grows each time, it is at the end of its
    /// queue, behind those that this worker can run. Returns at once.
    pub fn leave(self) {
        match self.origin {
            DeliveryOrigin::Embedded(taken) => taken.again_at(Timestamp::now() + AGAIN),
            DeliveryOrigin::Rabbit(handle) => handle.leave(),
        }
    }

    /// Returns the message for any worker.
    pub async fn give_back(self) {
        match self.origin {
            DeliveryOrigin::Embedded(taken) => drop(taken),
            DeliveryOrigin::Rabbit(handle) => handle.give_back().await,
        }
    }
}
