//! Which ended jobs are deleted, and what they left in the store.
//!
//! A deletion takes three steps, so that the row names the remaining files until the last one is gone. First, the
//! results are retired in the row ([`JobStore::retire_results`]), then the files are deleted, then the row. In between,
//! the job may be retried. Its next attempt could find the result of an earlier one in the store and take it, while the
//! deletion goes on. So an attempt leaves alone what is retired, and has an epoch that the deletion does not touch.

use jiff::Timestamp;
use tracing::warn;

use super::{ClaimId, JobRow, JobStore, row_mapping::Columns, sweep::SweepCursor};
use crate::job::{BatchId, Epoch, FileEntry, JobError, JobId, JobRequest, JobState};

/// Which ended jobs to delete.
#[derive(Debug, Clone)]
pub struct PruneRules {
    /// Ended before this time, by the database's clock ([`super::JobStore::now`]).
    pub before: Timestamp,
    /// Only jobs in these states; unfinished jobs are never pruned.
    pub states: Vec<JobState>,
    pub batch: Option<BatchId>,
    pub limit: u32,
}

/// Jobs that can be deleted, and where the next page starts.
#[derive(Debug, Clone, PartialEq)]
pub struct PrunePage {
    pub jobs: Vec<Pruned>,
    /// Absent on the last page. A page may be empty although there is another one.
    pub next: Option<SweepCursor>,
}

/// An ended job whose objects can be deleted, before its row is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pruned {
    pub id: JobId,
    pub state: JobState,
    /// The last attempt; 0: no worker has ever had the job, so it has no objects.
    pub epoch: Epoch,
    pub claim: Option<ClaimId>,
    pub finished_at: Option<Timestamp>,
    /// The root of its result; absent: the configured store, or no result.
    pub root: Option<String>,
    /// The request's `output.prefix`, where failed attempts may have left files; empty for a job without attempts.
    pub prefix: String,
    /// The names of the files that its manifest lists; absent without a result.
    pub files: Option<Vec<String>>,
}

/// An ended job as it was read. It may have been retried since, and have ended again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedJob {
    pub id: JobId,
    pub epoch: Epoch,
    pub claim: Option<ClaimId>,
    /// Absent if it had not ended.
    pub finished_at: Option<Timestamp>,
}

/// What became of jobs that were to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forgotten {
    pub deleted: u64,
    /// Jobs that are still there, because they have not ended, or are no longer as they were read.
    pub left: u64,
}

impl From<&JobRow> for EndedJob {
    fn from(row: &JobRow) -> Self {
        Self { id: row.id(), epoch: row.epoch, claim: row.claim, finished_at: row.finished_at }
    }
}

impl From<&Pruned> for EndedJob {
    fn from(job: &Pruned) -> Self {
        Self { id: job.id, epoch: job.epoch, claim: job.claim, finished_at: job.finished_at }
    }
}

impl std::ops::AddAssign for Forgotten {
    fn add_assign(&mut self, more: Self) {
        self.deleted += more.deleted;
        self.left += more.left;
    }
}

impl JobStore {
    /// Deletes the rows of ended jobs with their history, and remembers their ids. What was promised to be told about
    /// them is told all the same: calls, answers and events that are not sent yet stay.
    pub async fn forget(&self, jobs: &[EndedJob]) -> Result<Forgotten, JobError> {
        self.tell_of_batches().await?;
        self.delete_rows(jobs).await
    }

    /// Like [`JobStore::forget`], for old jobs of any number, all of one batch if there is one.
    pub async fn prune(&self, jobs: &[EndedJob], batch: Option<&BatchId>) -> Result<Forgotten, JobError> {
        self.tell_of_batches().await?;
        self.prune_rows(jobs, batch).await
    }

    /// Makes the calls of batches that have ended, while their jobs can still be counted.
    async fn tell_of_batches(&self) -> Result<(), JobError> {
        while self.end_batches().await? > 0 {}
        Ok(())
    }
}

/// The columns of a [`Pruned`]. The request of a job without attempts is not needed.
macro_rules! pruned_columns {
    () => {
        "id, created_at, state, epoch, claim, finished_at, result_root, CASE WHEN manifest IS NOT NULL THEN outputs END AS outputs, \
         CASE WHEN epoch > 0 THEN request END AS request"
    };
}
pub(super) use pruned_columns;

/// Makes a page from the rows of a query; an unreadable row is logged and left out.
pub(super) fn prune_page(rows: &[impl Columns], limit: u32) -> Result<PrunePage, JobError> {
    let jobs = rows.iter().filter_map(|row| pruned(row).inspect_err(|error| warn!("left out: {error}")).ok());
    Ok(PrunePage { jobs: jobs.collect(), next: SweepCursor::after(rows, limit)? })
}

fn pruned(row: &impl Columns) -> Result<Pruned, JobError> {
    let prefix = match row.maybe_text("request")? {
        Some(request) => {
            JobRequest::from_stored(&request)
                .map_err(|error| row.unreadable("request", &error.to_string()))?
                .output
                .prefix
        }
        None => String::new(),
    };
    let files: Option<Vec<FileEntry>> = row.json("outputs")?;
    Ok(Pruned {
        id: row.word("id")?,
        state: row.word("state")?,
        epoch: Epoch(row.number("epoch")?),
        claim: row.maybe_word("claim")?,
        finished_at: row.maybe_time("finished_at")?,
        root: row.maybe_text("result_root")?,
        prefix,
        files: files.map(|files| files.into_iter().map(|file| file.name).collect()),
    })
}
