//! From a message to a claimed row: the claim, and before it, for messages from other clients, the submission.

use tracing::warn;

use super::{JobControl, Worker, retry::with_deadline};
use crate::{
    database::{Claim, ClaimRules, JobRow, SubmitOptions},
    job::{ErrorClass, ErrorRecord, JobError, JobEvent, JobId, JobRequest},
    queue::{Content, Delivery},
};

pub(super) enum Accepted {
    Row(Box<JobRow>),
    Not(Claim),
    /// To be dead-lettered, with the reason.
    Refused(ErrorRecord),
}

pub(super) async fn accept(worker: &Worker, delivery: &Delivery, control: &JobControl) -> Result<Accepted, JobError> {
    let patience = worker.options.database_patience;
    match &delivery.content {
        Content::Job(id) => with_deadline("the claim", patience, control, || claim(worker, *id, None)).await,
        Content::Request(request) => {
            with_deadline("the claim", patience, control, || claim(worker, request.id, Some(request))).await
        }
        Content::Unreadable { id, error, body } => {
            let reason = ErrorRecord::from(error);
            if let Some(id) = id {
                let raw = String::from_utf8_lossy(body);
                let kept = || worker.jobs.reject(*id, &raw, &reason);
                match with_deadline("the rejection", patience, control, kept).await {
                    Ok(true) => tell_refused(worker, delivery, *id, &reason).await?,
                    Ok(false) => {}
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

/// Publishes `job.failed` for an invalid message, because its sender may wait for the end. This happens before the
/// message is dead-lettered, so that a failed event is published when the message is redelivered.
async fn tell_refused(worker: &Worker, delivery: &Delivery, id: JobId, reason: &ErrorRecord) -> Result<(), JobError> {
    let Some(kind) = delivery.kind() else { return Ok(()) };
    let body = JobEvent::refused(id, kind, reason.clone()).to_json();
    worker.queue.publish_event(JobEvent::FAILED, body).await
}

async fn claim(worker: &Worker, id: JobId, request: Option<&JobRequest>) -> Result<Accepted, JobError> {
    let fingerprint = request.map(JobRequest::fingerprint);
    let name = worker.options.name.to_string();
    let rules = ClaimRules {
        worker: &name,
        lease: worker.options.lease,
        max_attempts: worker.options.max_attempts,
        is_dead: &|other| worker.options.name.knows_dead(other),
        fingerprint: fingerprint.as_deref(),
    };
    let mut claim = worker.jobs.claim(id, &rules).await?;
    if let (Claim::Unknown, Some(request)) = (&claim, request) {
        // A message from another client. Another worker that submits the same at this moment gets the same row.
        match worker.jobs.submit(request, &SubmitOptions::default()).await {
            Ok(_) => claim = worker.jobs.claim(id, &rules).await?,
            Err(error @ JobError::InvalidRequest { .. }) => return Ok(Accepted::Refused(ErrorRecord::from(&error))),
            Err(error) => return Err(error),
        }
    }
    match claim {
        Claim::Taken(row) => Ok(Accepted::Row(row)),
        Claim::Conflict(row) => {
            let kind = row.request.task.kind();
            let reason = format!("{id} is already a {kind} job with other inputs or parameters; use another id");
            Ok(Accepted::Refused(ErrorRecord::from(&JobError::invalid("id", reason))))
        }
        other => Ok(Accepted::Not(other)),
    }
}
