//! The rows of the dataset that a batch was made of.

use serde_json::{Map, Value};

use super::{
    row::JobRow,
    row_mapping::{Columns, read_job},
};
use crate::job::{JobError, JobId};

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

/// Where a row is among those of its batch, for the next page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetPlace {
    pub number: u64,
    pub job: JobId,
    pub source: String,
}

/// A row with its job as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct DatasetJob {
    pub number: u64,
    pub source: String,
    pub meta: Option<Map<String, Value>>,
    pub job: JobRow,
}

impl DatasetJob {
    pub fn place(&self) -> DatasetPlace {
        DatasetPlace { number: self.number, job: self.job.id(), source: self.source.clone() }
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
        "listed.number, listed.source, listed.meta, jobs.*"
    };
}
pub(super) use dataset_columns;

pub(super) fn read_dataset_job(row: &impl Columns) -> Result<DatasetJob, JobError> {
    Ok(DatasetJob {
        number: row.small("number")?,
        source: row.text("source")?,
        meta: row.json("meta")?,
        job: read_job(row)?,
    })
}
