//! Changes of many jobs, some at a time, so that others get a turn and the caller can show progress and stop.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{CancelOutcome, Scope, backend::JobStore, row_mapping::Columns};
use crate::job::{BatchId, JobError, JobId, JobState};

/// How often a batch is looked through until nothing is left to cancel. A worker may return a job to the queue behind
/// the sweep, so that one look can miss it.
const MOST_LOOKS: usize = 10;

/// The number of jobs of dead workers that one look ends.
const ABANDONED: u32 = 1000;

/// A job's place in the order of arrival: what comes after it is the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SweepCursor {
    pub(super) created_at: i64,
    pub(super) id: JobId,
}

/// The jobs that one step has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swept {
    pub jobs: Vec<JobId>,
    /// Where the next step starts; absent after the last one.
    pub next: Option<SweepCursor>,
}

/// The id of one cancellation of a batch, by which it can be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct CancelId(Uuid);

/// Which ended jobs of a batch to queue again.
#[derive(Debug, Clone)]
pub struct RetryRules {
    pub batch: BatchId,
    /// `failed`, `cancelled` or both; jobs in other states are left alone.
    pub states: Vec<JobState>,
    /// Only jobs whose error has one of these codes, or that have no attempts left after such an error. Empty: any.
    pub codes: Vec<String>,
    /// Only jobs that this cancellation of the batch cancelled. Absent: any.
    pub cancel: Option<CancelId>,
}

impl CancelId {
    #[expect(clippy::new_without_default, reason = "every call returns a different id")]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for CancelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for CancelId {
    type Err = JobError;

    fn from_str(text: &str) -> Result<Self, JobError> {
        let reason = || format!("`{text}` is not the id that the cancellation of the batch has shown");
        Uuid::parse_str(text).map(Self).map_err(|_| JobError::invalid("undo", reason()))
    }
}

/// How many jobs of a batch ended with an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorCount {
    pub state: JobState,
    pub code: String,
    pub jobs: u64,
}

impl JobStore {
    /// Requests the cancellation of all jobs of a batch; returns their number.
    pub async fn cancel_batch(&self, batch: &BatchId) -> Result<u64, JobError> {
        self.cancel_batch_in_steps(batch, CancelId::new(), |_| true).await
    }

    /// Like [`JobStore::cancel_batch`], with an id by which it can be taken back ([`RetryRules::cancel`]); `go_on` gets
    /// the number of jobs of each step, and may stop after it.
    pub async fn cancel_batch_in_steps(
        &self,
        batch: &BatchId,
        id: CancelId,
        mut go_on: impl FnMut(u64) -> bool,
    ) -> Result<u64, JobError> {
        let (mut cancelled, mut in_vain) = (0, 0);
        for _ in 0..MOST_LOOKS {
            // Before the queued ones: a running job that was asked to stop is not returned to the queue.
            let asked = self.cancel_running(batch, id).await?;
            let mut found = self.cancel_abandoned(batch).await?.max(asked);
            let mut more = go_on(found);
            let mut after = None;
            while more {
                let step = self.cancel_queued(batch, id, after).await?;
                let jobs = u64::try_from(step.jobs.len()).unwrap_or(u64::MAX);
                found += jobs;
                more = go_on(jobs);
                after = step.next;
                if after.is_none() {
                    break;
                }
            }
            cancelled += found;
            // A worker may take a queued job between both looks: then it is neither, and the next look finds it.
            in_vain = if found == 0 { in_vain + 1 } else { 0 };
            if in_vain == 2 || !more {
                break;
            }
        }
        Ok(cancelled)
    }

    /// Ends the jobs of dead workers, who were asked and cannot answer; some may have been asked by an earlier
    /// cancellation.
    async fn cancel_abandoned(&self, batch: &BatchId) -> Result<u64, JobError> {
        let mut ended = 0;
        for id in self.abandoned_in(&Scope::Batch(batch.clone()), ABANDONED).await? {
            if self.cancel(id, &|_| false).await? == CancelOutcome::Cancelled {
                ended += 1;
            }
        }
        Ok(ended)
    }

    /// Requeues the ended jobs that the rules choose, with all their attempts; returns them. For `go_on`, see
    /// [`JobStore::cancel_batch_in_steps`].
    pub async fn retry_batch(
        &self,
        rules: &RetryRules,
        mut go_on: impl FnMut(u64) -> bool,
    ) -> Result<Vec<JobId>, JobError> {
        let (mut queued, mut after) = (Vec::new(), None);
        loop {
            let step = self.retry_some(rules, after).await?;
            let more = go_on(u64::try_from(step.jobs.len()).unwrap_or(u64::MAX));
            queued.extend(step.jobs);
            after = step.next;
            if after.is_none() || !more {
                return Ok(queued);
            }
        }
    }
}

impl RetryRules {
    /// Refuses codes that no error has, neither of this version nor in the batch.
    pub async fn check_codes(&self, field: &str, jobs: &JobStore) -> Result<(), JobError> {
        let unknown = |code: &&String| !JobError::CODES.contains(&code.as_str());
        if !self.codes.iter().any(|code| unknown(&code)) {
            return Ok(());
        }
        let counts = jobs.error_counts(&self.batch).await?;
        match self.codes.iter().filter(unknown).find(|code| !counts.iter().any(|count| count.code == **code)) {
            None => Ok(()),
            Some(code) => {
                let known = JobError::CODES.join(", ");
                Err(JobError::invalid(field, format!("`{code}` is no code of an error; the codes are {known}")))
            }
        }
    }

    pub(super) fn states(&self) -> Vec<&'static str> {
        let retriable = |state: &&JobState| matches!(state, JobState::Failed | JobState::Cancelled);
        self.states.iter().filter(retriable).map(|state| state.as_str()).collect()
    }

    /// The beginnings of the stored errors, whose first field is the code. The whole text cannot be read as JSON by
    /// Postgres, because a message may contain `\u0000`.
    pub(super) fn beginnings(&self) -> Vec<String> {
        let exhausted = JobError::AttemptsExhausted { attempts: 0, last: String::new(), cause: None };
        let beginnings = |code: &String| {
            let code = serde_json::Value::from(code.as_str());
            [format!("{{\"code\":{code},"), format!("{{\"code\":\"{}\",\"cause\":{code},", exhausted.code())]
        };
        self.codes.iter().flat_map(beginnings).collect()
    }
}

impl SweepCursor {
    /// The start of the next page after `rows`, which a query with this limit returned with `id` and `created_at`.
    pub(super) fn after(rows: &[impl Columns], limit: u32) -> Result<Option<Self>, JobError> {
        let full = rows.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
        if full { Self::of_last(rows) } else { Ok(None) }
    }

    /// The place of the last row, if there is one.
    pub(super) fn of_last(rows: &[impl Columns]) -> Result<Option<Self>, JobError> {
        let Some(last) = rows.last() else { return Ok(None) };
        Ok(Some(Self { created_at: last.number("created_at")?, id: last.word("id")? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::ErrorRecord;

    #[test]
    fn a_stored_error_begins_with_its_code() {
        let rules = |code: &str| RetryRules {
            batch: "b".parse().unwrap(),
            states: JobState::ALL.to_vec(),
            codes: vec![code.to_owned()],
            cancel: None,
        };
        let error = ErrorRecord::from(&JobError::storage("/x", "bro\0ken"));
        let stored = serde_json::to_string(&error).unwrap();
        assert!(stored.starts_with(&rules("storage").beginnings()[0]), "{stored}");
        let exhausted = super::super::transitions::exhausted_by(5, &error);
        let stored = serde_json::to_string(&ErrorRecord::from(&exhausted)).unwrap();
        assert!(stored.starts_with(&rules("storage").beginnings()[1]), "{stored}");
        assert!(stored.starts_with(&rules("attempts_exhausted").beginnings()[0]), "{stored}");
        for other in ["stor", "storage\"", "queue", ""] {
            assert!(!stored.starts_with(&rules(other).beginnings()[0]), "{other}");
        }
        assert_eq!(rules("x").states(), ["failed", "cancelled"]);
    }
}
