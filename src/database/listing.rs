//! Filters for rows, and summaries of many rows.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::{
    row::JobRow,
    row_mapping::{Columns, readable},
    search,
};
use crate::job::{BatchId, JobError, JobId, JobKind, JobState};

/// Where a page ends: the job's time and id, so that it stays valid when the job is deleted; or only an id, of a job
/// that must exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Milliseconds since 1970.
    pub(super) created_at: Option<i64>,
    pub(super) id: JobId,
}

impl Cursor {
    pub(super) fn unknown(self) -> JobError {
        let reason = format!("there is no job {}; it may have been deleted. Start again without it", self.id);
        JobError::invalid("after", reason)
    }
}

/// `1764169200123.018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21`.
impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.created_at {
            Some(created_at) => write!(f, "{created_at}.{}", self.id),
            None => self.id.fmt(f),
        }
    }
}

impl FromStr for Cursor {
    type Err = JobError;

    fn from_str(text: &str) -> Result<Self, JobError> {
        let wrong = || JobError::invalid("after", "is not the `next` of a page, and not the id of a job");
        match text.split_once('.') {
            Some((time, id)) => {
                let created_at = time.parse().map_err(|_| wrong())?;
                Ok(Self { created_at: Some(created_at), id: id.parse().map_err(|_| wrong())? })
            }
            None => Ok(Self { created_at: None, id: text.parse().map_err(|_| wrong())? }),
        }
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

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
    /// The end of the previous page.
    pub after: Option<Cursor>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    pub jobs: Vec<JobRow>,
    /// The end of this page; absent on the last page.
    pub next: Option<Cursor>,
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
    let cursor = |row: &_| cursor_of(row).ok();
    let next = if more { shown.last().and_then(cursor) } else { None };
    Page { jobs: shown.iter().filter_map(readable).collect(), next }
}

fn cursor_of(row: &impl Columns) -> Result<Cursor, JobError> {
    Ok(Cursor { created_at: Some(row.number("created_at")?), id: row.word("id")? })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_text() {
        let id = JobId::new();
        for cursor in [Cursor { created_at: Some(1_764_169_200_123), id }, Cursor { created_at: None, id }] {
            assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
        }
        for wrong in ["", ".", "1.", "x.018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21", "018f2b6e", &format!("{id}.1")] {
            assert!(wrong.parse::<Cursor>().unwrap_err().to_string().starts_with("after: "), "{wrong}");
        }
    }
}
