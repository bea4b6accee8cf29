//! What a message has beside its request: it is kept in the job's row, but it is not part of what the job is.

use jiff::Timestamp;
use serde_json::Value;

use super::{JobError, JobRequest, Task, request::read_message, start_time::time_from_value};

/// What a client's message may have beside the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MessageOptions {
    /// The job may not start before this time.
    pub not_before: Option<Timestamp>,
    /// The job may take the result of an equal job.
    pub reuse: bool,
}

impl JobRequest {
    /// Like [`JobRequest::from_json`], for a message of another client, which may also have what is not part of the
    /// request.
    pub fn from_message(bytes: &[u8]) -> Result<(Self, MessageOptions), JobError> {
        let mut message = read_message(bytes)?;
        let mut field = |name| message.as_object_mut().and_then(|fields| fields.remove(name));
        let (not_before, reuse) = (field("not_before"), field("reuse"));
        let not_before = not_before.map(|value| time_from_value("not_before", &value)).transpose()?.flatten();
        let reuse = match reuse {
            None | Some(Value::Null) => false,
            Some(Value::Bool(reuse)) => reuse,
            Some(other) => return Err(JobError::invalid("reuse", format!("{other} is not true or false"))),
        };
        let request = Self::from_value(message).map_err(with_those_beside)?;
        if reuse {
            request.check_reuse()?;
        }
        Ok((request, MessageOptions { not_before, reuse }))
    }

    /// Whether the job may take the result of an equal one, which a seed of its own makes impossible.
    ///
    /// # Errors
    /// [`JobError::InvalidRequest`] for `reuse`, if the request leaves the seed to the job's id.
    pub fn check_reuse(&self) -> Result<(), JobError> {
        let given = match &self.task {
            Task::Decompose(params) => params.seed.is_some() || params.seeds.is_some(),
            Task::Edit(params) => params.seed.is_some() || params.seeds.is_some(),
            Task::Workflow(params) => params.decompose.seed.is_some(),
            Task::Composite(_) => true,
        };
        if given {
            return Ok(());
        }
        let parameter = self.seed_parameter().unwrap_or_default().join(".");
        let reason = "needs a seed: without one, each job has noise of its own, and no other job has the same result";
        Err(JobError::invalid("reuse", format!("{reason}; set params.{parameter}")))
    }
}

/// Names these among the fields that a message may have.
fn with_those_beside(error: JobError) -> JobError {
    match error {
        JobError::InvalidRequest { field, reason } if reason.contains("expected one of `version`") => {
            let reason = reason.replacen("expected one of ", "expected one of `not_before`, `reuse`, ", 1);
            JobError::InvalidRequest { field, reason }
        }
        other => other,
    }
}
