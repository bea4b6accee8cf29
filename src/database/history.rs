//! The history of a job: who did what with it, and its attempts, in order.

use jiff::Timestamp;

use super::{ActionFilter, ActionRow, Attempt, JobStore};
use crate::job::{JobError, JobId};

/// The most actions that are shown of one job.
const MOST: u32 = 1000;

/// One thing that happened to a job.
#[derive(Debug, Clone, PartialEq)]
pub enum HistoryEntry {
    /// The job was accepted by a version that did not record who submitted it.
    Accepted(Timestamp),
    Action(ActionRow),
    Attempt(Attempt),
    /// The job was deleted together with others.
    Removed(Timestamp),
}

impl HistoryEntry {
    pub fn at(&self) -> Timestamp {
        match self {
            Self::Accepted(at) | Self::Removed(at) => *at,
            Self::Action(action) => action.at,
            Self::Attempt(attempt) => attempt.started_at,
        }
    }
}

impl JobStore {
    /// What happened to a job, oldest first: actions on it and on its whole batch, and its attempts. Actions are there
    /// also after the job was deleted. Absent if nothing is known of the id.
    pub async fn history(&self, id: JobId) -> Result<Option<Vec<HistoryEntry>>, JobError> {
        let found = self.get_with_attempts(id).await?;
        let mut actions =
            self.list_actions(&ActionFilter { job: Some(id), limit: MOST, ..Default::default() }).await?.actions;
        let mut entries = Vec::new();
        if let Some((row, attempts)) = found {
            if let Some(batch) = &row.batch {
                let filter = ActionFilter { batch: Some(batch.clone()), limit: MOST, ..Default::default() };
                let of_batch = self.list_actions(&filter).await?.actions;
                // What happened to the batch before the job joined it is not the job's.
                actions.extend(of_batch.into_iter().filter(|action| {
                    action.job.is_none() && (action.action == "submitted" || action.at >= row.created_at)
                }));
            }
            if !actions.iter().any(|action| action.action == "submitted") {
                entries.push(HistoryEntry::Accepted(row.created_at));
            }
            entries.extend(attempts.into_iter().map(HistoryEntry::Attempt));
        } else if let Some(at) = self.deleted_at(id).await?
            && !actions.iter().any(|action| action.action == "deleted")
        {
            entries.push(HistoryEntry::Removed(at));
        }
        // Before attempts that began in the same millisecond.
        actions.sort_by_key(|action| action.id);
        let mut all: Vec<_> = actions.into_iter().map(HistoryEntry::Action).collect();
        all.append(&mut entries);
        all.sort_by_key(HistoryEntry::at);
        Ok((!all.is_empty()).then_some(all))
    }
}
