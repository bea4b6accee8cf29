//! Job rows in one SQLite file.

mod attempt;
mod batch;
mod claim;
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
