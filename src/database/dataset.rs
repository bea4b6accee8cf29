//! The rows of the datasets that a batch was made of.
//!
//! A batch may be made of several sources. Their rows are read source by source, in the order in which these were first
//! submitted, and by number within each.

use serde_json::{Map, Value};

use super::{
    JobStore,
    row::JobRow,
    row_mapping::{Columns, read_job},
};
use crate::job::{BatchId, JobError, JobId};

/// A row, the job that was made of it, and its columns that are not about the job.
#[derive(Debug, Clone, PartialEq)]
pub struct DatasetRow {
    /// From 1.
    pub number: u64,
    pub job: JobId,
    pub meta: Option<Map<String, Value>>,
}

/// One pass over a source, or over a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetRun {
    /// Tells the sources of a batch apart: a digest of the address.
    pub source: String,
    /// When it began; later ones are greater.
    pub began: i64,
}

/// A row with its job as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct DatasetJob {
    pub number: u64,
    /// How many earlier sources of the batch have the same job in the row with this number.
    pub nth: u32,
    pub meta: Option<Map<String, Value>>,
    pub job: JobRow,
}

/// What another source of a batch has in common with one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceOverlap {
    /// The other source.
    pub other: String,
    /// Its rows.
    pub rows: u64,
    /// Those whose jobs are of both.
    pub shared: u64,
    /// Those that have the number, the job and the columns of a row of the one.
    pub equal: u64,
}

/// Where reading the rows of a batch goes on.
#[derive(Debug, Clone)]
pub struct DatasetCursor {
    sources: Vec<String>,
    /// The index of the source that is being read.
    current: usize,
    after: Option<(u64, JobId)>,
}

impl JobStore {
    /// The beginning of a batch's rows.
    pub async fn dataset_cursor(&self, batch: &BatchId) -> Result<DatasetCursor, JobError> {
        Ok(DatasetCursor { sources: self.dataset_sources(batch).await?, current: 0, after: None })
    }

    /// The next rows of a batch with their jobs; none at the end.
    pub async fn dataset_jobs(
        &self,
        batch: &BatchId,
        cursor: &mut DatasetCursor,
        limit: u32,
    ) -> Result<Vec<DatasetJob>, JobError> {
        while let Some(source) = cursor.sources.get(cursor.current) {
            let earlier = &cursor.sources[..cursor.current];
            let page = self.source_jobs(batch, source, earlier, cursor.after, limit).await?;
            if let Some(last) = page.last() {
                cursor.after = Some((last.number, last.job.id()));
                return Ok(page);
            }
            cursor.next_source();
        }
        Ok(Vec::new())
    }

    /// The next rows of a batch without their jobs; none at the end.
    pub async fn dataset_rows(
        &self,
        batch: &BatchId,
        cursor: &mut DatasetCursor,
        limit: u32,
    ) -> Result<Vec<DatasetRow>, JobError> {
        while let Some(source) = cursor.sources.get(cursor.current) {
            let page = self.source_rows(batch, source, cursor.after, limit).await?;
            if let Some(last) = page.last() {
                cursor.after = Some((last.number, last.job));
                return Ok(page);
            }
            cursor.next_source();
        }
        Ok(Vec::new())
    }

    /// Lists rows once that were submitted under two addresses: a source whose rows are all in this one, with the same
    /// numbers, jobs and columns, becomes a part of it. Returns the others.
    pub async fn merge_sources(&self, batch: &BatchId, source: &str) -> Result<Vec<SourceOverlap>, JobError> {
        if self.dataset_sources(batch).await?.len() < 2 {
            return Ok(Vec::new());
        }
        let mut others = self.source_overlaps(batch, source).await?;
        for same in others.extract_if(.., |other| other.equal == other.rows) {
            self.merge_source(batch, &same.other, source).await?;
        }
        Ok(others)
    }
}

impl DatasetCursor {
    fn next_source(&mut self) {
        self.current += 1;
        self.after = None;
    }
}

pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl DatasetRow {
    pub(super) fn signed_number(&self) -> i64 {
        signed(self.number)
    }

    pub(super) fn meta_json(&self) -> Option<String> {
        self.meta.as_ref().map(|meta| Value::Object(meta.clone()).to_string())
    }
}

/// The columns of [`DatasetJob`], with those of the job.
macro_rules! dataset_columns {
    () => {
        "listed.number, listed.nth, listed.meta, jobs.*"
    };
}
pub(super) use dataset_columns;

pub(super) fn read_dataset_job(row: &impl Columns) -> Result<DatasetJob, JobError> {
    Ok(DatasetJob {
        number: row.small("number")?,
        nth: row.small("nth")?,
        meta: row.json("meta")?,
        job: read_job(row)?,
    })
}

pub(super) fn read_dataset_row(row: &impl Columns) -> Result<DatasetRow, JobError> {
    Ok(DatasetRow { number: row.small("number")?, job: row.word("job")?, meta: row.json("meta")? })
}

pub(super) fn read_overlap(row: &impl Columns) -> Result<SourceOverlap, JobError> {
    Ok(SourceOverlap {
        other: row.text("other")?,
        rows: row.small("rows")?,
        shared: row.small("shared")?,
        equal: row.small("equal")?,
    })
}

/// The sources of a batch that have rows, in their order. The position of one that an older version submitted during an
/// upgrade is not known. Of a million rows, only the first of each source is looked at.
pub(super) const SOURCES: &str = "
    WITH RECURSIVE found (source) AS (
        SELECT MIN(source) FROM dataset_rows WHERE batch = $1
         UNION ALL
        SELECT (SELECT MIN(source) FROM dataset_rows WHERE batch = $1 AND source > found.source)
          FROM found WHERE found.source IS NOT NULL)
    SELECT found.source AS source
      FROM found LEFT JOIN dataset_sources AS known ON known.batch = $1 AND known.source = found.source
     WHERE found.source IS NOT NULL
     ORDER BY COALESCE(known.position, 9223372036854775807), found.source";

/// The other sources of a batch ($1) than one ($2).
pub(super) const OVERLAPS: &str = "
    SELECT other.source AS other, COUNT(*) AS rows,
           SUM(CASE WHEN other.job IN (SELECT job FROM dataset_rows WHERE batch = $1 AND source = $2)
                    THEN 1 ELSE 0 END) AS shared,
           SUM(CASE WHEN own.job IS NOT NULL AND COALESCE(own.meta, '') = COALESCE(other.meta, '')
                    THEN 1 ELSE 0 END) AS equal
      FROM dataset_rows AS other
      LEFT JOIN dataset_rows AS own
        ON own.batch = $1 AND own.source = $2 AND own.number = other.number AND own.job = other.job
     WHERE other.batch = $1 AND other.source <> $2
     GROUP BY other.source ORDER BY other.source";

/// How many rows of a batch ($1) had jobs that were deleted, as far as these are remembered, and that are not there
/// again.
pub(super) const DELETED: &str = "
    SELECT CAST(COALESCE(SUM(row_count), 0) AS BIGINT) AS gone FROM tombstones
     WHERE batch = $1 AND row_count > 0 AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = tombstones.id)";

/// The kinds of the jobs of a batch ($1), and of those that its rows name.
pub(super) const KINDS: &str = "
    SELECT kind FROM jobs WHERE batch = $1
     UNION
    SELECT jobs.kind FROM dataset_rows JOIN jobs ON jobs.id = dataset_rows.job WHERE dataset_rows.batch = $1";
