//! A job in the hands of a worker, and the ways to let go of it.

use jiff::Timestamp;
use tracing::{debug, warn};

use super::{embedded::Taken, message::Content, rabbit::Handle};
use crate::job::{ErrorRecord, JobError, JobId, JobKind};

/// A message that somebody must answer for. It ends with one of the verbs below; one that is dropped without any (a
/// panic, a cancelled task) goes back to the queue.
#[derive(Debug)]
pub struct Delivery {
    pub content: Content,
    /// It was delivered before, to us or to another; what came of that, the job's row knows.
    pub redelivered: bool,
    /// The W3C `traceparent` that it came with.
    pub trace: Option<String>,
    origin: Origin,
}

#[derive(Debug)]
enum Origin {
    Embedded(Taken),
    Rabbit(Box<Handle>),
}

impl Delivery {
    pub(super) fn embedded(taken: Taken) -> Self {
        Self { content: Content::Job(taken.job), redelivered: false, trace: None, origin: Origin::Embedded(taken) }
    }

    pub(super) fn rabbit(handle: Handle) -> Self {
        Self {
            content: Content::read(handle.body(), handle.message_id()),
            redelivered: handle.redelivered(),
            trace: handle.trace(),
            origin: Origin::Rabbit(Box::new(handle)),
        }
    }

    /// The job that it is about, where that could be read.
    pub fn job(&self) -> Option<JobId> {
        self.content.id()
    }

    /// The kind whose queue it came through. A request may say otherwise, and then it is right.
    pub fn kind(&self) -> Option<JobKind> {
        match &self.origin {
            Origin::Embedded(_) => None,
            Origin::Rabbit(handle) => Some(handle.kind()),
        }
    }

    /// The job has been dealt with. Where the broker cannot be told, because the connection is gone, it delivers the
    /// message once more, and the row will show that there is nothing left to do.
    pub async fn ack(self) {
        match self.origin {
            Origin::Embedded(taken) => taken.done(),
            Origin::Rabbit(handle) => handle.ack().await,
        }
    }

    /// Puts the message aside for a person to look at, with the reason. An error means that it could not be put there;
    /// it then comes back to be tried again.
    pub async fn dead_letter(self, reason: &ErrorRecord) -> Result<(), JobError> {
        match self.origin {
            Origin::Embedded(taken) => {
                warn!(job = %taken.job, code = reason.code, reason = reason.message, "a delivery was dropped");
                taken.done();
                Ok(())
            }
            Origin::Rabbit(handle) => handle.dead_letter(reason).await,
        }
    }

    /// The job is to be delivered again at `at`. With RabbitMQ the message ends here: the job's row has been put back
    /// together with a new dispatch for that time.
    pub async fn again_at(self, at: Timestamp) {
        match self.origin {
            Origin::Embedded(taken) => taken.again_at(at),
            Origin::Rabbit(handle) => {
                debug!(%at, "the message is acknowledged; a later one redelivers the job");
                handle.ack().await;
            }
        }
    }

    /// Not ours after all: any worker may have it at once.
    pub async fn give_back(self) {
        match self.origin {
            Origin::Embedded(taken) => drop(taken),
            Origin::Rabbit(handle) => handle.give_back().await,
        }
    }
}
