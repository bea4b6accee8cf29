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

/// A row with its job as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct DatasetJob {
    pub number: u64,
    pub meta: Option<Map<String, Value>>,
    pub job: JobRow,
}

impl DatasetRow {
    pub(super) fn signed_number(&self) -> i64 {
        i64::try_from(self.number).unwrap_or(i64::MAX)
    }

    pub(super) fn meta_json(&self) -> Option<String> {
        self.meta.as_ref().map(|meta| Value::Object(meta.clone()).to_string())
    }
}

/// The columns of [`DatasetJob`], with those of the job.
macro_rules! dataset_columns {
    () => {
        "listed.number, listed.meta, jobs.*"
    };
}
pub(super) use dataset_columns;

pub(super) fn read_dataset_job(row: &impl Columns) -> Result<DatasetJob, JobError> {
    Ok(DatasetJob { number: row.small("number")?, meta: row.json("meta")?, job: read_job(row)? })
}
