//! Filters for rows, and summaries of many rows.

use jiff::Timestamp;

use super::{
    row::JobRow,
    row_mapping::{Columns, readable},
    search,
};
use crate::job::{BatchId, JobError, JobId, JobKind, JobState};

/// The filter of a listing; newest rows come first.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub state: Option<JobState>,
    pub kind: Option<JobKind>,
    pub batch: Option<BatchId>,
    /// Labels that a job must have, ignoring case.
    pub labels: Vec<(String, String)>,
    /// Words that must all occur in the id, the batch, a label, a prompt or instruction, or a picture's name.
    pub search: String,
    pub limit: u32,
    /// The last job of the previous page.
    pub after: Option<JobId>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    pub jobs: Vec<JobRow>,
    /// The start of the next page; absent on the last page.
    pub next: Option<JobId>,
}

/// The progress of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchSummary {
    /// The number of jobs in each state.
    pub states: Vec<(JobState, u64)>,
    pub first_created: Timestamp,
    /// When the most recent job ended.
    pub last_finished: Option<Timestamp>,
    /// The mean time from claim to end of the jobs that succeeded.
    pub mean_seconds: Option<f64>,
}

impl BatchSummary {
    pub fn total(&self) -> u64 {
        self.states.iter().map(|(_, jobs)| jobs).sum()
    }

    pub fn in_state(&self, state: JobState) -> u64 {
        self.states.iter().find(|(known, _)| *known == state).map_or(0, |(_, jobs)| *jobs)
    }

    pub fn ended(&self) -> u64 {
        self.states.iter().filter(|(state, _)| state.is_terminal()).map(|(_, jobs)| jobs).sum()
    }
}

/// Queued jobs of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    pub kind: JobKind,
    pub queued: u64,
    /// When the oldest of them became claimable.
    pub oldest: Timestamp,
}

impl Filter {
    /// The texts that must occur in a job's search words.
    pub(super) fn needles(&self) -> Vec<String> {
        let labels = self.labels.iter().map(|(key, value)| search::label(key, value));
        labels.chain(search::words(&self.search)).collect()
    }
}

/// Makes a page from the rows of a query for `limit` plus one.
pub(super) fn page(rows: &[impl Columns], limit: u32) -> Page {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let shown = &rows[..rows.len().min(limit)];
    let more = rows.len() > limit;
    let next = if more { shown.last().and_then(|row| row.word("id").ok()) } else { None };
    Page { jobs: shown.iter().filter_map(readable).collect(), next }
}

/// Makes a summary from one row per state, or nothing.
pub(super) fn summary(rows: &[impl Columns]) -> Result<Option<BatchSummary>, JobError> {
    let mut summary: Option<BatchSummary> = None;
    for row in rows {
        let (state, jobs) = (row.word("state")?, row.small("jobs")?);
        let (created, finished) = (row.time("first_created")?, row.maybe_time("last_finished")?);
        let all = summary.get_or_insert(BatchSummary {
            states: Vec::new(),
            first_created: created,
            last_finished: None,
            mean_seconds: None,
        });
        all.states.push((state, jobs));
        all.first_created = all.first_created.min(created);
        all.last_finished = all.last_finished.max(finished);
        if state == JobState::Succeeded {
            all.mean_seconds = row.maybe_real("mean_ms")?.map(|ms| ms / 1000.0);
        }
    }
    Ok(summary)
}
