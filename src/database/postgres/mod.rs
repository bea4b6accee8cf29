//! Job rows in Postgres, shared by any number of workers. The server's clock decides about leases and due times.
//!
//! Where rows are named by their ids, a condition on the state is written `state || '' = ...`: the planner takes the
//! indexes of queued and running rows for small until it has counted them again, and would read one from end to end
//! to find a single row. So it cannot use them.

mod batch;
mod claim;
mod listen;
mod migrate;
mod open;
mod outbox;
mod query;
mod retention;
mod submit;
mod transition;
mod webhook;

pub use open::PostgresJobStore;
