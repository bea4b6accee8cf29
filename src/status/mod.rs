//! Job rows: what was asked, who works on it, how far it is, how it ended. All SQL is here.
//!
//! The database owns the state. A claim raises the row's epoch in one statement; every later write names its epoch
//! and changes nothing when the row has moved on. So a worker that lost its lease loses every race, and learns it as
//! [`Fenced::Lost`].

mod claim;
mod query;
mod row;
mod sqlite;
mod write;

pub use claim::{Claim, ClaimRules};
pub use query::{Filter, Page};
pub use row::{Attempt, JobRow, Published};
pub use sqlite::SqliteStatus;
pub use write::{Beat, CancelOutcome, Fenced, Submitted};

#[cfg(test)]
mod tests;
