//! Until when the database is known to have been in use, by which a restored backup is noticed.

use jiff::Timestamp;

use super::row_mapping::Columns;
use crate::job::JobError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    /// A random name of the database; its backups have the same.
    pub name: String,
    /// When a worker last said that it uses the database.
    pub alive_at: Timestamp,
    pub now: Timestamp,
}

impl Lineage {
    pub(super) fn read(row: &impl Columns) -> Result<Self, JobError> {
        Ok(Self { name: row.text("name")?, alive_at: row.time("alive_at")?, now: row.time("now")? })
    }
}
