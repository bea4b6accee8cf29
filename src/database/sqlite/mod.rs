//! Job rows in one SQLite file.

mod actions;
mod attempt;
mod batch;
mod claim;
mod clock;
mod dataset;
mod dispatch;
mod lineage;
mod message;
mod open;
mod outbox;
mod pauses;
mod query;
mod retention;
mod shares;
mod submit;
mod sweep;
mod tombstone;
mod transition;
mod webhook;
mod writer;

pub use open::SqliteJobStore;
