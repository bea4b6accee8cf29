//! Job rows in Postgres, shared by any number of workers. The server's clock decides about leases and due times.

mod batch;
mod claim;
mod migrate;
mod open;
mod outbox;
mod query;
mod retention;
mod submit;
mod turn;
mod wake;

pub use open::PostgresStatus;
