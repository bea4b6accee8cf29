//! Job rows in one SQLite file.

mod batch;
mod claim;
mod dataset;
mod message;
mod open;
mod outbox;
mod query;
mod retention;
mod submit;
mod sweep;
mod tombstone;
mod transition;
mod webhook;

pub use open::SqliteJobStore;
