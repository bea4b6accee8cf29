//! Turns a message into a claimed row. A message from another client is submitted first.

use jiff::Timestamp;
use serde_json::json;
use tracing::warn;

use super::{JobControl, Worker, newer, replies, restored, retry::with_deadline};
use crate::{
    database::{Actor, Admission, Claim, ClaimRules, JobRow, SubmitOptions},
    job::{ErrorClass, ErrorRecord, JobError, JobEvent, JobId, JobRequest, MessageOptions, TraceContext},
    queue::{Content, Delivery, Event, MessageSender},
};

pub(super) enum Accepted {
    Row(Box<JobRow>),
    Not(Claim),
    /// A newer worker may know it.
    Left {
        id: Option<JobId>,
        error: JobError,
    },
    /// To be dead-lettered, with the reason.
    Refused(ErrorRecord),
    /// To be dropped: it must not run any more.
    Stale(Stale),
}

/// Why a message is dropped although it is a valid job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stale {
    /// Its job has ended and was deleted.
    Deleted(Timestamp),
    /// It was sent for an earlier job, which was deleted; another one has its id now.
    Replaced,
}

pub(super) async fn accept(worker: &Worker, delivery: &Delivery, control: &JobControl) -> Result<Accepted, JobError> {
    let limit = worker.options.database_retry;
    match &delivery.content {
        Content::Job(id) => with_deadline("the claim", limit, control, || claim(worker, *id, None)).await,
        Content::Request(request) => {
            let Delivery { is_dispatch, options, .. } = *delivery;
            let (trace, sender) = (delivery.trace.as_ref(), delivery.sender.as_ref());
            let message = Some(BrokerRequest { request, is_dispatch, options, trace, sender });
            let accepted = with_deadline("the claim", limit, control, || claim(worker, request.id, message)).await?;
            match &accepted {
                Accepted::Row(_) | Accepted::Not(_) | Accepted::Left { .. } => {
                    with_deadline("the reply address", limit, control, || replies::remember(worker, delivery)).await?;
                }
                Accepted::Refused(_) | Accepted::Stale(_) => {}
            }
            Ok(accepted)
        }
        Content::Newer { id, error, .. } if delivery.left_for().is_none_or(|since| since < newer::LONGEST) => {
            if let Some(at) = deleted(worker, *id, control).await? {
                return Ok(Accepted::Stale(Stale::Deleted(at)));
            }
            Ok(Accepted::Left { id: *id, error: error.clone() })
        }
        Content::Newer { id, error, body } | Content::Unreadable { id, error, body } => {
            let reason = ErrorRecord::from(error).shortened();
            if let Some(at) = deleted(worker, id.filter(|_| delivery.is_dispatch), control).await? {
                return Ok(Accepted::Stale(Stale::Deleted(at)));
            }
            // The job of a dispatch was accepted, and its row says how it is.
            if let Some(id) = id.filter(|_| !delivery.is_dispatch) {
                let raw = String::from_utf8_lossy(body);
                if with_deadline("the rejection", limit, control, || is_news(worker, delivery, id, &raw, &reason))
                    .await?
                {
                    tell_refused(worker, delivery, id, &reason).await?;
                }
                match with_deadline("the rejection", limit, control, || worker.jobs.reject(id, &raw, &reason)).await {
                    Ok(_) => {}
                    // The database cannot store the message. It is dead-lettered all the same.
                    Err(error) if error.class() == ErrorClass::Invalid => {
                        warn!(%error, "a refused message was not kept");
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(Accepted::Refused(reason))
        }
    }
}

/// When the job of a message was deleted.
async fn deleted(worker: &Worker, id: Option<JobId>, control: &JobControl) -> Result<Option<Timestamp>, JobError> {
    let Some(id) = id else { return Ok(None) };
    with_deadline("the claim", worker.options.database_retry, control, || worker.jobs.deleted_at(id)).await
}

/// Whether listeners are told of a refused message. It comes again and again while the queue of dead letters is full.
async fn is_news(
    worker: &Worker,
    delivery: &Delivery,
    id: JobId,
    raw: &str,
    reason: &ErrorRecord,
) -> Result<bool, JobError> {
    if delivery.has_come_before()
        && let Some(known) = worker.jobs.rejection(id).await?
        && known.is_of(raw, reason)
    {
        return Ok(false);
    }
    worker.jobs.may_reject(id).await
}

/// Publishes `job.failed` for an invalid message, because its sender may wait for the end. This happens before the
/// message is recorded and dead-lettered, so that a failed event is published when the message is redelivered.
async fn tell_refused(worker: &Worker, delivery: &Delivery, id: JobId, reason: &ErrorRecord) -> Result<(), JobError> {
    let Some(kind) = delivery.kind() else { return Ok(()) };
    let body = JobEvent::refused(id, kind, reason.clone()).to_json();
    let event = Event { name: JobEvent::FAILED.to_owned(), body, trace: delivery.trace.clone() };
    match worker.queue.publish_events(vec![event]).await.remove(0) {
        Ok(()) => {}
        // The other listeners have it, and would get it again and again.
        Err(error @ JobError::Unconfirmed { .. }) => {
            warn!(job = %id, "not every listener was told of a refused message, because {error}");
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Answers a sender that asked for it that its message is refused.
pub(super) async fn tell_sender(worker: &Worker, delivery: &Delivery, reason: &ErrorRecord) {
    if let (Some(to), Some(kind), Some(id)) = (&delivery.reply_to, delivery.kind(), delivery.job())
        && !delivery.is_dispatch
    {
        replies::now(worker, to, &JobEvent::refused(id, kind, reason.clone()), delivery.trace.as_ref()).await;
    }
}

/// A request from a broker.
#[derive(Clone, Copy)]
struct BrokerRequest<'a> {
    request: &'a JobRequest,
    /// See [`Delivery::is_dispatch`].
    is_dispatch: bool,
    /// See [`Delivery::options`].
    options: MessageOptions,
    trace: Option<&'a TraceContext>,
    sender: Option<&'a MessageSender>,
}

async fn claim(worker: &Worker, id: JobId, message: Option<BrokerRequest<'_>>) -> Result<Accepted, JobError> {
    let fingerprint = message.map(|message| message.request.fingerprint());
    let name = worker.options.name.to_string();
    let rules = ClaimRules {
        worker: &name,
        lease: worker.options.lease,
        max_attempts: worker.options.max_attempts,
        is_dead: &|other| worker.is_dead(other),
        fingerprint: fingerprint.as_deref(),
    };
    restored::guard(worker).await?;
    let mut claim = worker.jobs.claim(id, &rules).await?;
    let is_dispatch = message.is_some_and(|message| message.is_dispatch);
    if let (Claim::Unknown, Some(BrokerRequest { request, options, trace, sender, .. })) = (&claim, message) {
        if is_dispatch {
            return without_row(worker, id).await;
        }
        // A message from another client. If another worker submits it at the same time, both get the same row.
        let MessageOptions { not_before: at, reuse } = options;
        let options = SubmitOptions { at, reuse, trace: trace.cloned(), ..SubmitOptions::default() };
        let jobs = worker.jobs.by(actor(sender));
        match jobs.submit_message(request, &options).await {
            Ok(Admission::Job) => claim = worker.jobs.claim(id, &rules).await?,
            Ok(Admission::Deleted(at)) => return Ok(Accepted::Stale(Stale::Deleted(at))),
            Err(error @ JobError::InvalidRequest { .. }) => {
                return Ok(Accepted::Refused(ErrorRecord::from(&error).shortened()));
            }
            Err(error) => return Err(error),
        }
    }
    match claim {
        Claim::Taken(row) => Ok(Accepted::Row(row)),
        Claim::Conflict(_) if is_dispatch => Ok(Accepted::Stale(Stale::Replaced)),
        Claim::Conflict(row) => {
            let kind = row.request.task.kind();
            let reason = format!("{id} is already a {kind} job with other inputs or parameters; use another id");
            Ok(Accepted::Refused(ErrorRecord::from(&JobError::invalid("id", reason))))
        }
        other => Ok(Accepted::Not(other)),
    }
}

/// Whose submission a message is, for the audit log.
fn actor(sender: Option<&MessageSender>) -> Actor {
    let Some(MessageSender { user, app, exchange }) = sender else { return Actor::of_message(None, &json!({})) };
    let about = json!({ "exchange": exchange, "app_id": app });
    Actor::of_message(user.as_deref(), &about)
}

/// A dispatch whose row is gone: the job ended and was deleted, or the database is older than the message. Only the
/// first is certain; the other is kept where a person can see it.
async fn without_row(worker: &Worker, id: JobId) -> Result<Accepted, JobError> {
    if let Some(at) = worker.jobs.deleted_at(id).await? {
        return Ok(Accepted::Stale(Stale::Deleted(at)));
    }
    let reason = format!(
        "no job {id} is in the database, although this message was sent for one: the job was deleted longer ago than \
         queue.remember_deleted_days, or the database was restored from an older backup; to run it all the same, \
         `acetate dead-letters retry --as-new`"
    );
    Ok(Accepted::Refused(ErrorRecord::from(&JobError::invalid("id", reason))))
}
