//! Job rows in Postgres, shared by any number of workers. Leases and due times use the server's clock.
//!
//! In queries by id, conditions on the state are written as `state || '' = ...`, so that the planner cannot use the
//! indexes of queued and running rows. It assumes that these are small until they are analyzed again, and would read a
//! whole index to find a single row. For the same reason, queries for the messages of a job say
//! `topic || '' = 'dispatch'`, and so use `outbox_by_job`.

mod actions;
mod attempt;
mod balance;
mod batch;
mod claim;
mod clock;
mod connect;
mod dataset;
mod dispatch;
mod fault;
mod indexes;
mod lineage;
mod listen;
mod message;
mod migrate;
mod open;
mod outbox;
mod pool;
mod pooler;
mod query;
mod retention;
mod session;
mod submit;
mod sweep;
mod tables;
mod timeline;
mod tombstone;
mod transition;
mod webhook;

pub use open::PostgresJobStore;
