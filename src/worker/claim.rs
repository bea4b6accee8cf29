//! From a message to a row that is ours: the claim, and before it, for messages of other clients, the submission.

use super::{Control, Worker, retry::with_deadline};
use crate::{
    database::{Claim, ClaimRules, JobRow, SubmitOptions},
    job::{ErrorRecord, JobError, JobEvent, JobId, JobRequest},
    queue::{Content, Delivery},
};

pub(super) enum Accepted {
    Row(Box<JobRow>),
    Not(Claim),
    /// To be put aside, with the reason.
    Refused(ErrorRecord),
}

pub(super) async fn accept(worker: &Worker, delivery: &Delivery, control: &Control) -> Result<Accepted, JobError> {
    let patience = worker.options.patience;
    match &delivery.content {
        Content::Job(id) => with_deadline("the claim", patience, control, || claim(worker, *id, None)).await,
        Content::Request(request) => {
            with_deadline("the claim", patience, control, || claim(worker, request.id, Some(request))).await
        }
        Content::Unreadable { id, error, body } => {
            let reason = ErrorRecord::from(error);
            if let Some(id) = id {
                let raw = String::from_utf8_lossy(body);
                let kept = || worker.status.reject(*id, &raw, &reason);
                if with_deadline("the rejection", patience, control, kept).await? {
                    tell_refused(worker, delivery, *id, &reason).await?;
                }
            }
            Ok(Accepted::Refused(reason))
        }
    }
}

/// `job.failed` of a message that is no job: whoever sent it listens for an end. Told before the message is put aside,
/// so that an end that could not be told is told when the message comes again.
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
    let mut claim = worker.status.claim(id, &rules).await?;
    if let (Claim::Unknown, Some(request)) = (&claim, request) {
        // A raw message of another client. Whoever else submits the same at this moment gets the same row.
        match worker.status.submit(request, &SubmitOptions::default()).await {
            Ok(_) => claim = worker.status.claim(id, &rules).await?,
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
