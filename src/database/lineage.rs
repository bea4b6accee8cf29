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
    /// The names of other databases whose rows were added to this one: a backup was restored into tables that existed.
    pub others: Vec<String>,
}

impl Lineage {
    /// From all rows, by name. There is one, unless something was restored.
    pub(super) fn read(rows: &[impl Columns]) -> Result<Self, JobError> {
        let (own, others) = rows.split_first().ok_or_else(empty)?;
        let others = others.iter().map(|row| row.text("name")).collect::<Result<_, _>>()?;
        Ok(Self { name: own.text("name")?, alive_at: own.time("alive_at")?, now: own.time("now")?, others })
    }

    /// Why nothing may start; none if there is one row.
    pub fn mixed(&self) -> Option<String> {
        if self.others.is_empty() {
            return None;
        }
        Some(format!(
            "the database was restored: the rows of a backup were added to tables that existed (the table lineage has {} \
             rows). Jobs that were cancelled, have failed or were deleted after the backup may be queued again: cancel \
             what must not run, then acetate queue resume",
            self.others.len() + 1
        ))
    }
}

pub(super) fn empty() -> JobError {
    JobError::database(format!("{EMPTY}; {MEND_EMPTY}"))
}

/// Also the server's error; see `postgres/tables.rs`.
pub(super) const EMPTY: &str = "the table lineage is empty";
pub(super) const MEND_EMPTY: &str = "it has one row, which says whether a backup was restored: restore the database from a \
                                     backup as a whole, or use an empty one";
