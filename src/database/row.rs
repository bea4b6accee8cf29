//! A job row as plain values.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::fence::{ClaimId, Fence};
use crate::job::{
    BatchId, Epoch, ErrorRecord, EventFile, Fidelity, FileEntry, InputRef, JobError, JobEvent, JobId, JobObjects,
    JobRequest, JobState, Progress, TraceContext,
};

#[derive(Debug, Clone, PartialEq)]
pub struct JobRow {
    pub request: JobRequest,
    pub batch: Option<BatchId>,
    pub state: JobState,
    pub attempts: u32,
    pub epoch: Epoch,
    /// Of the last claim, at this epoch or an earlier one.
    pub claim: Option<ClaimId>,
    /// Results of attempts up to this one are being deleted, or are gone, so that a later attempt does not take them.
    pub retired: Epoch,
    pub progress: Option<Progress>,
    /// The error of the last attempt while the job may be retried, otherwise the reason why it failed.
    pub error: Option<ErrorRecord>,
    pub cancel_requested: bool,
    /// The job was submitted on this machine by a user who may read its files and write to its output, as far as the
    /// database says so. Only a database that is a file of this machine is to be believed.
    pub local: bool,
    /// It may take the result of an equal job that has succeeded.
    pub reuse: bool,
    /// The worker that holds the lease, and until when.
    pub worker: Option<String>,
    pub lease_until: Option<Timestamp>,
    /// Not claimed before this time.
    pub available_at: Timestamp,
    /// The trace that it was submitted in.
    pub trace: Option<TraceContext>,
    /// Present if the job succeeded.
    pub published: Option<Published>,
    pub created_at: Timestamp,
    /// When the last attempt started.
    pub started_at: Option<Timestamp>,
    pub updated_at: Timestamp,
    pub finished_at: Option<Timestamp>,
}

/// The state of a running job's worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    /// Its worker has it.
    Held,
    /// Its worker has sent no heartbeat for too long.
    Over,
    /// Its worker has died, so the lease need not end first.
    WorkerDead,
}

impl JobRow {
    pub fn id(&self) -> JobId {
        self.request.id
    }

    /// What its worker shows with every write.
    pub fn fence(&self) -> Fence {
        Fence { epoch: self.epoch, claim: self.claim }
    }

    /// What the job may have written: the result, and files that failed attempts may have left.
    pub fn objects(&self) -> JobObjects {
        let result = self.published.as_ref();
        JobObjects {
            job: self.id(),
            epoch: self.epoch,
            root: result.and_then(|result| result.root.clone()),
            prefix: self.request.output.prefix.clone(),
            files: result.map(|result| result.files.iter().map(|file| file.name.clone()).collect()),
        }
    }

    /// When a queued job may start, if that is later than it was submitted: it is scheduled, or waits for its next
    /// attempt.
    pub fn not_before(&self) -> Option<Timestamp> {
        Some(self.available_at).filter(|at| self.state == JobState::Queued && *at > self.created_at)
    }

    /// When its worker was last heard from, if its leases are of this length.
    pub fn heard_from(&self, lease: Duration) -> Option<Timestamp> {
        let lease = SignedDuration::try_from(lease).ok()?;
        self.lease_until.filter(|_| self.state == JobState::Running).and_then(|until| until.checked_sub(lease).ok())
    }

    /// The state at `now`. `is_dead`: whether the worker with this name is known to have died.
    pub fn lease(&self, now: Timestamp, is_dead: impl FnOnce(&str) -> bool) -> LeaseState {
        if self.lease_until.is_none_or(|until| until <= now) {
            LeaseState::Over
        } else if self.worker.as_deref().is_some_and(is_dead) {
            LeaseState::WorkerDead
        } else {
            LeaseState::Held
        }
    }

    /// For messages about a job that has no result: `has failed and has no result; retry it with ...`.
    pub fn without_result(&self) -> String {
        let (id, state) = (self.id(), self.state);
        let advice = match state {
            JobState::Queued | JobState::Running => format!("; wait for it with `acetate jobs watch {id}`"),
            JobState::Failed | JobState::Cancelled => format!("; retry it with `acetate jobs retry {id}`"),
            JobState::Succeeded => String::new(),
        };
        format!("{} and has no result{advice}", state.predicate())
    }

    /// The file of the result that an input names.
    ///
    /// # Errors
    /// [`JobError::InvalidRequest`], which says what exists instead; also for a job that has no result yet.
    pub fn picture(&self, input: &InputRef) -> Result<&FileEntry, JobError> {
        let refused = |reason: String| Err(JobError::invalid("input", format!("{input}: {reason}")));
        let Some(result) = &self.published else {
            return refused(format!("the job {}", self.without_result()));
        };
        match input {
            InputRef::Layer { layer, .. } => {
                let layers = || result.files.iter().filter(|file| file.is_layer());
                // Of several variants, the first one is meant; others are named by their files.
                match (layers().find(|file| file.layer() == Some(*layer)), layers().filter_map(FileEntry::layer).max())
                {
                    (Some(file), _) => Ok(file),
                    (None, None) => refused(format!("a {} job has no layers", self.request.task.kind())),
                    (None, Some(most)) => refused(format!("its layers are 0 to {most}")),
                }
            }
            InputRef::File { file, .. } => match result.files.iter().find(|there| there.name == *file) {
                Some(file) => Ok(file),
                None => {
                    let there: Vec<_> = result.files.iter().map(|file| file.name.as_str()).collect();
                    refused(format!("its pictures are {}", there.join(", ")))
                }
            },
            InputRef::Url(_) => refused("is not the name of a picture".to_owned()),
        }
    }

    /// The event for the job's current state: `job.succeeded`, `job.failed` or `job.cancelled` if it has ended,
    /// otherwise `job.progress`.
    pub fn event(&self, time: Timestamp) -> JobEvent {
        let result = self.published.as_ref();
        JobEvent {
            version: JobEvent::VERSION,
            event: match self.state {
                JobState::Queued | JobState::Running => JobEvent::PROGRESS.to_owned(),
                JobState::Succeeded | JobState::Failed | JobState::Cancelled => format!("job.{}", self.state),
            },
            id: self.id(),
            kind: self.request.task.kind(),
            state: self.state,
            attempts: self.attempts,
            epoch: self.epoch,
            batch: self.batch.clone(),
            labels: self.request.labels.clone(),
            progress: self.progress.filter(|_| !self.state.is_terminal()),
            error: self.error.clone(),
            manifest: result.map(Published::address),
            outputs: result.map(|result| result.files.iter().map(EventFile::from).collect()).unwrap_or_default(),
            reused_from: result.and_then(|result| result.reused_from),
            time,
        }
    }
}

/// A result: the object key of its manifest, whose folder holds the files.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    pub manifest: String,
    /// The root of the key, if it is not the configured store.
    pub root: Option<String>,
    pub files: Vec<FileEntry>,
    /// The model's caption, if the request has no prompt.
    pub caption: Option<String>,
    /// How true the layers are to their picture, if it has layers.
    pub fidelity: Option<Fidelity>,
    /// A hash of everything that its pictures depend on; absent if that is not known.
    pub content_key: Option<String>,
    /// The job that they were copied from, so that nothing was computed.
    pub reused_from: Option<JobId>,
}

impl Published {
    /// The manifest's address; only its key if the root is the configured store.
    pub fn address(&self) -> String {
        match &self.root {
            Some(root) => format!("{}/{}", root.trim_end_matches('/'), self.manifest),
            None => self.manifest.clone(),
        }
    }
}

/// One claim of a job and how it ended; `outcome` is absent while it runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Attempt {
    pub attempt: u32,
    pub epoch: Epoch,
    pub worker: String,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    /// `succeeded`, `reused` if it took the result of another job, `failed`, `requeued`, `given_back` by a worker that
    /// was told to stop (such an attempt does not count), `cancelled`, or `lost` when another worker took over.
    pub outcome: Option<String>,
    pub error: Option<ErrorRecord>,
    /// Its span, in a trace of its own; absent if its worker did not export traces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

/// A refused message that has an id, and the reason.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rejection {
    pub id: JobId,
    pub received_at: Timestamp,
    pub error: ErrorRecord,
    /// At most its first 64 KiB.
    pub body: String,
}

impl Rejection {
    pub(super) const LONGEST_BODY: usize = 64 * 1024;

    /// Whether it is the one of this message.
    pub fn is_of(&self, raw: &str, error: &ErrorRecord) -> bool {
        self.error == *error && self.body == Self::body_of(raw)
    }

    /// The stored part of a message. A text column cannot contain a zero byte.
    pub(super) fn body_of(raw: &str) -> String {
        let end = raw.floor_char_boundary(Self::LONGEST_BODY);
        raw[..end].replace('\0', "\u{fffd}")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::job::{CompositeParams, Inputs, JobKind, Output, Task};

    fn row(state: JobState, lease_until: Option<Timestamp>) -> JobRow {
        let now = Timestamp::UNIX_EPOCH;
        JobRow {
            request: JobRequest {
                id: JobId::new(),
                inputs: Inputs::named(JobKind::Composite, vec![InputRef::Url("file:///a.png".to_owned())]),
                output: Output { prefix: "file:///out/".to_owned() },
                task: Task::Composite(CompositeParams::default()),
                labels: Default::default(),
                priority: 0,
            },
            batch: None,
            state,
            attempts: 1,
            epoch: Epoch(1),
            claim: None,
            retired: Epoch(0),
            progress: None,
            error: None,
            cancel_requested: false,
            local: false,
            reuse: false,
            worker: Some("host:1:2".to_owned()),
            lease_until,
            available_at: now,
            trace: None,
            published: None,
            created_at: now,
            started_at: Some(now),
            updated_at: now,
            finished_at: None,
        }
    }

    #[test]
    fn a_lease_is_over_by_time_or_with_its_worker() {
        let now = Timestamp::UNIX_EPOCH;
        let row = |lease_until: Option<Timestamp>| row(JobState::Running, lease_until);
        let later = Some(now + Duration::from_millis(1));
        assert_eq!(row(later).lease(now, |_| false), LeaseState::Held);
        assert_eq!(row(later).lease(now, |name| name == "host:1:2"), LeaseState::WorkerDead);
        for over in [None, Some(now)] {
            assert_eq!(row(over).lease(now, |_| unreachable!("nobody is asked")), LeaseState::Over);
        }
    }
    #[test]
    fn a_picture_of_a_job_without_a_result_says_what_to_do() {
        for (state, wanted) in [
            (JobState::Queued, "is queued and has no result; wait for it with `acetate jobs watch "),
            (JobState::Running, "is running and has no result; wait for it with `acetate jobs watch "),
            (JobState::Failed, "has failed and has no result; retry it with `acetate jobs retry "),
            (JobState::Cancelled, "was cancelled and has no result; retry it with `acetate jobs retry "),
        ] {
            let row = row(state, None);
            let input = InputRef::Layer { job: row.id(), layer: 1 };
            let said = row.picture(&input).expect_err("no result").to_string();
            assert_eq!(said, format!("input: {input}: the job {wanted}{}`", row.id()));
        }
    }
}
